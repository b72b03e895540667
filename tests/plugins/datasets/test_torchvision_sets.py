"""`torchvision:NAME` with data sets of torchvision's kind that need no download."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import open_named
from PIL import Image
from torchvision import datasets

from genkit.errors import UsageError
from genkit_datasets.torchvision_sets import PARTS

RANDOM = np.random.default_rng(0)


def fake(count: int, shape: tuple[int, ...], labels: list, classes: list | None = None) -> type:
    """A class of torchvision.datasets with `count` images in each part."""

    class Fake:
        def __init__(self, root: object, download: bool, **part: object) -> None:
            self.part = part
            self.images = [RANDOM.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]
            if classes:
                self.classes = classes

        def __len__(self) -> int:
            return count

        def __getitem__(self, number: int) -> tuple[Image.Image, object]:
            return Image.fromarray(self.images[number]), labels[number % len(labels)]

    return Fake


def test_every_data_set_in_the_list_is_one_of_torchvisions() -> None:
    assert all(isinstance(getattr(datasets, name), type) for name in PARTS)


def test_images_and_labels_are_those_of_the_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "KMNIST", fake(6, (28, 28), [1, 0, 2], ["o", "ki", "su"]))
    data = open_named("torchvision:kmnist")
    assert str(data.shape) == "1 x 28 x 28" and data.classes == ("o", "ki", "su")
    assert data.train.labels.tolist() == [1, 0, 2, 1, 0, 2] and not data.held_out


def test_labels_that_are_no_single_numbers_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "CelebA", fake(4, (218, 178, 3), [(0, 1)]))
    data = open_named("torchvision:CelebA")
    assert str(data.shape) == "3 x 32 x 32" and data.train.labels is None and data.classes == ()


def test_a_data_set_without_test_images_has_some_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "EuroSAT", fake(20, (64, 64, 3), [3, 9]))
    data = open_named("torchvision:EuroSAT", size=16)
    assert data.held_out and data.classes == ("3", "9") and data.shape.height == 16


def test_what_cannot_be_had_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root: object, download: bool, **part: object) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(datasets, "SVHN", refuse)
    with pytest.raises(UsageError, match=r"SVHN is missing.*no route to host.*--data-root"):
        open_named("torchvision:SVHN")
    with pytest.raises(UsageError, match=r"torchvision:Nothing is none of.*KMNIST"):
        open_named("torchvision:Nothing")
