"""Stacked MNIST: its images are three digits, its classes their number, its modes are counted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from genkit.errors import UsageError
from genkit.specs import Config, ImageShape
from genkit_datasets import mini, stacked
from genkit_fidelity.features import Digits
from genkit_fidelity.stacked import StackedDigits, modes

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def splits():
    return stacked.load_mnist_mini(Config(), None, Path())


def test_each_colour_is_a_digit_and_the_label_their_number(splits) -> None:
    digits = mini.load(Config(), None, Path())
    images = {
        image.tobytes(): label
        for image, label in zip(digits.train.images[:, 0], digits.train.labels, strict=True)
    }
    for image, label in zip(splits.train.images[:200], splits.train.labels[:200], strict=True):
        found = [images[np.ascontiguousarray(colour).tobytes()] for colour in image]
        assert label == 100 * found[0] + 10 * found[1] + found[2]
    assert splits.train.images.shape == (20_000, 3, 28, 28) and len(splits.test.images) == 4000
    assert len(np.unique(splits.train.labels)) == 1000 and splits.classes[7] == "007"


def test_stacking_is_always_the_same(splits) -> None:
    again = stacked.load_mnist_mini(Config(), None, Path())
    assert np.array_equal(again.train.images, splits.train.images)
    assert np.array_equal(again.test.labels, splits.test.labels)


def test_features_are_those_of_each_colour_and_logits_multiply_probabilities(splits) -> None:
    images = torch.from_numpy(splits.test.images[:50])
    features, logits = StackedDigits(Config())(images)
    digits = Digits(Config())
    parts = [digits(images[:, colour : colour + 1]) for colour in range(3)]
    torch.testing.assert_close(features, torch.cat([part[0] for part in parts], 1))
    chances = [part[1].softmax(1) for part in parts]
    expected = torch.einsum("na,nb,nc->nabc", *chances).flatten(1)
    torch.testing.assert_close(logits.softmax(1), expected)
    found = logits.argmax(1).numpy() == splits.test.labels[:50]
    assert found.mean() > 0.9


class Answers:
    """A set of samples that a classifier has answered."""

    def __init__(self, labels: list[int], classes: int = 1000) -> None:
        self.probabilities = torch.nn.functional.one_hot(torch.tensor(labels), classes).float()
        self.extractor = type("Extractor", (), {"classes": classes})

    def __len__(self) -> int:
        return len(self.probabilities)


def test_modes_are_counted_and_their_shares_compared_with_equal_ones() -> None:
    found = modes(Config(), Answers([3] * 30 + [999] * 10), None)
    assert found["modes"].value == 2
    expected = 0.75 * math.log(750) + 0.25 * math.log(250)
    assert found["modes_kl"].value == pytest.approx(expected)
    every = modes(Config(), Answers(list(range(1000)) * 2), None)
    assert (every["modes"].value, every["modes_kl"].value) == (1000, pytest.approx(0, abs=1e-12))
    assert modes(Config(), Answers([1] * 40, classes=10), None) == {}


def test_other_images_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'stacked-digits' take images of 3 x 28 x 28, not 3 x 3"):
        StackedDigits.check_shape(ImageShape(3, 32, 32))
