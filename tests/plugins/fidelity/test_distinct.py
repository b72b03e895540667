"""The number of different images, against draws from a known number of them."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch

from genkit.features import ImageSet
from genkit.metrics import Reference
from genkit.registry.catalogue import load_registry
from genkit.report.footnotes import footnotes
from genkit.report.ranking import rank, score_columns
from genkit.report.rows import ScoreRow
from genkit.specs import Config
from genkit_fidelity.distinct import _distances, distinct
from genkit_fidelity.features import Digits

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def real() -> Reference:
    with np.load(files("genkit_datasets") / "mnist_mini.npz") as arrays:
        images = torch.from_numpy(arrays["train_images"])[:, None]
    train = ImageSet(images[:4000], Digits(Config()))
    test = replace(train, images=images[4000:6000])
    assert len(train.features) == 4000
    return Reference("digits", 4000, train, test)


def test_distances_are_those_of_all_pairs() -> None:
    points = torch.randn(1203, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.pdist(points.double())
    torch.testing.assert_close(_distances(points).sort().values, expected.sort().values)


@pytest.mark.parametrize("number", [100, 1000])
def test_draws_from_few_images_are_counted(real, number) -> None:
    """1,000 images repeated have an FID of about 0 and a recall near 1."""
    chosen = torch.randint(number, (2000,), generator=torch.Generator().manual_seed(number))
    samples = real.test.take(chosen)
    found = distinct(Config(), samples, real)["distinct"]
    assert found.value == pytest.approx(number, rel=0.15)
    assert abs(found.value - number) < 5 * found.deviation


def test_fresh_images_are_all_different(real) -> None:
    found = distinct(Config(), real.test, real)["distinct"]
    assert found.value > 100_000 and found.deviation is None


def test_a_model_that_repeats_itself_is_named_and_an_honest_one_is_not() -> None:
    found = (("a", 990, 20), ("b", 6e5, 9), ("few samples", 15_000, None))  # three pairs at most
    rows = [
        ScoreRow(name=name, scores={"distinct": n}, deviations={"distinct": sd} if sd else {})
        for name, n, sd in found
    ]
    notes = footnotes(rank([*rows, ScoreRow(name="copy", scores={"distinct": 9000})], COLUMNS))
    (note,) = [note for note in notes if "repeats itself" in note]
    assert note.startswith("a repeats itself") and note.endswith("about 990")


COLUMNS = score_columns(load_registry())
