"""Copies in small doses: the exact bound, and copies of many kinds among fresh digits."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import betabinom
from torch import Tensor

from genkit.config.run import RunConfig
from genkit.data import ImageData
from genkit.evaluation.copies import CHANCE, chance_of, count_copies, nearest_moved
from genkit.evaluation.memorisation import Memorisation
from genkit.registry.catalogue import load_registry
from genkit.runs.build import load_data

torch.set_num_threads(1)


@pytest.mark.parametrize(("samples", "unseen", "rank"), [(3, 4, 1), (4, 3, 2), (2, 5, 3)])
def test_chance_is_the_share_of_all_orders(samples: int, unseen: int, rank: int) -> None:
    orders = list(itertools.combinations(range(samples + unseen), samples))  # where samples stand
    for count in range(samples + 1):
        found = 0
        for places in orders:
            others = [place for place in range(samples + unseen) if place not in places]
            found += sum(place < others[rank - 1] for place in places) >= count
        assert chance_of(count, samples, rank, unseen) == pytest.approx(found / len(orders))


def test_chance_is_scipys_beta_binomial() -> None:
    for count in (0, 10, 25, 60):
        expected = betabinom.pmf(range(count, 2001), 2000, 10, 1991).sum()
        assert chance_of(count, 2000, 10, 2000) == pytest.approx(expected, rel=1e-6)


def test_fresh_samples_are_called_copies_as_rarely_as_stated() -> None:
    generator = torch.Generator().manual_seed(0)
    places, alarms = torch.arange(400), 0
    for _ in range(2000):
        values = torch.rand(800, generator=generator)
        alarms += count_copies(values[:400], places, values[400:]).at_least > 0
    assert alarms <= 2000 * CHANCE + 4 * math.sqrt(2000 * CHANCE)


def test_at_least_is_never_more_than_there_are_and_not_far_below() -> None:
    generator = torch.Generator().manual_seed(1)
    places = torch.arange(2000)
    for copies in (20, 40, 100, 400):
        values = torch.rand(4000, generator=generator)
        values[:copies] = -1
        found = count_copies(values[:2000], places, values[2000:])
        assert copies - 30 <= found.at_least <= copies
        assert found.near >= copies


def test_samples_that_share_a_training_image_count_once() -> None:
    unseen = torch.rand(2000, generator=torch.Generator().manual_seed(2))
    found = count_copies(torch.full((2000,), -1.0), torch.zeros(2000, dtype=torch.long), unseen)
    assert found.near == 1 and found.at_least == 0


def test_a_moved_or_mirrored_image_is_found_and_its_own_place_is_not() -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (30, 1, 10, 10), generator=generator, dtype=torch.uint8)
    images[:, :, [0, 1, -2, -1]] = 0
    images[:, :, :, [0, 1, -2, -1]] = 0
    for moved in (images, images.flip(3), images.roll((1, -1), (2, 3)), images.flip(3).roll(1, 3)):
        distances, places = nearest_moved(moved, images)
        assert torch.equal(places, torch.arange(30)) and distances.max() < 1e-2
    distances, places = nearest_moved(images, images, torch.arange(30))
    assert distances.min() > 0.5 and not (places == torch.arange(30)).any()


@pytest.fixture(scope="module")
def halves() -> ImageData:
    """Digits to train on, and unseen ones of the same writers: 2,000 and 1,000."""
    data = load_data(load_registry(), RunConfig())
    images, labels = data.train.images, data.train.labels
    train = replace(data.train, images=images[:2000], labels=labels[:2000])
    test = replace(data.test, images=images[4000:5000], labels=labels[4000:5000])
    return replace(data, train=train, test=test)


def measured(data: ImageData, change, share: float) -> Memorisation:
    """Fresh digits, a share of them replaced by changed training images."""
    everything = torch.from_numpy(load_data(load_registry(), RunConfig()).train.images)
    samples = everything[8000:9000].clone()
    copies = int(share * len(samples))
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    samples[order[:copies]] = change(everything[:copies])
    found = Memorisation.measure(samples, data)
    assert found is not None
    return found


def grain(images: Tensor) -> Tensor:
    noise = 8 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise).round().clamp(0, 255).byte()


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (lambda images: images, 0.02),
        (grain, 0.02),
        (lambda images: (images > 127).byte() * 255, 0.05),
        (lambda images: images.roll(1, 3), 0.1),
        (lambda images: images.flip(3), 0.1),
    ],
    ids=["exact", "grain", "black and white", "shifted", "mirrored"],
)
def test_copies_in_small_doses_are_counted(halves, change, share) -> None:
    """The share of samples near training images sees none of these: it needs one copy in five."""
    found = measured(halves, change, share).shares
    assert found.pixels < 0.6
    assert found.flagged and 0 < found.copies <= share * found.copies_of + 1


def test_fresh_samples_are_no_copies(halves) -> None:
    found = measured(halves, lambda images: images, 0).shares
    assert found.copies == 0 and not found.flagged
