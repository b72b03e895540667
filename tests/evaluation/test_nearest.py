"""Nearest training images against slow loops, and the share of copies against counting."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from genkit.evaluation import nearest as neighbours
from genkit.evaluation.nearest import closer_to_train

torch.set_num_threads(1)


def normal(count: int, width: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(count, width, generator=generator)


def project(pixels: torch.Tensor) -> torch.Tensor:
    """Features of digits: 32 rectified random projections of their pixels."""
    matrix = torch.randn(784, 32, generator=torch.Generator().manual_seed(1))
    return (pixels.float() / 255 @ matrix).relu()


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    """12,000 real digits, uint8, (12000, 784): the splits that ship with genkit, mixed.

    MNIST's own splits are of different writers, so that its test images are no fresh training ones.
    """
    with np.load(Path(find_spec("genkit_datasets").origin).parent / "mnist_mini.npz") as arrays:
        images = [torch.from_numpy(arrays[name]) for name in ("train_images", "test_images")]
    order = torch.randperm(12_000, generator=torch.Generator().manual_seed(2))
    return torch.cat(images).flatten(1)[order]


@pytest.fixture(params=["pixels", "features"])
def points(request, digits) -> torch.Tensor:
    return digits if request.param == "pixels" else project(digits)


def slowly(samples, references, own_places=None) -> tuple[list[int], list[float]]:
    """Place of and distance to each sample's nearest reference, one by one in float64."""
    places, distances = [], []
    for row, sample in enumerate(samples.double().numpy()):
        found = np.sqrt(np.sum((references.double().numpy() - sample) ** 2, axis=1))
        if own_places is not None:
            found[own_places[row]] = np.inf
        places.append(int(np.argmin(found)))
        distances.append(float(found.min()))
    return places, distances


@pytest.mark.parametrize("blocks", [(1024, 2048), (7, 33), (40, 3)])
def test_nearest_images_equal_those_of_a_slow_loop(points, blocks, monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", blocks[0])
    monkeypatch.setattr(neighbours, "COLUMNS", blocks[1])
    train, test = points[:400], points[400:480]
    own = torch.randperm(80, generator=torch.Generator().manual_seed(3))[:40]
    found = closer_to_train(test[own], train, test, own)
    places, distances = slowly(test[own], train)
    assert found.train_places.tolist() == places
    assert found.train_distances.numpy() == pytest.approx(distances, rel=1e-12)
    test_distances = slowly(test[own], test, own)[1]
    assert found.test_distances.numpy() == pytest.approx(test_distances, rel=1e-12)
    assert min(test_distances) > 0
    assert (found.train_distances.dtype, found.train_places.dtype) == (torch.float64, torch.int64)


def test_nearest_of_fewer_images_than_candidates_is_found(points):
    found = closer_to_train(points[2:3], points[5:6], points[1:3], torch.tensor([1]))
    assert found.train_places.tolist() == [0]
    assert found.train_distances.tolist() == pytest.approx(slowly(points[2:3], points[5:6])[1])
    assert found.test_distances.tolist() == pytest.approx(slowly(points[2:3], points[1:2])[1])


def test_place_of_minus_one_leaves_no_test_image_out(points):
    samples, train, test = points[:9], points[100:300], points[:50]
    found = closer_to_train(samples, train, test, torch.tensor([0, 1, 2, -1, -1, -1, 6, 7, 8]))
    assert (found.test_distances[3:6] == 0).all() and (found.test_distances[:3] > 0).all()


def test_of_equal_training_images_the_first_is_named(points):
    train = torch.cat([points[:50], points[10:11].repeat(3, 1)])
    assert closer_to_train(points[10:11], train, points[60:70]).train_places.tolist() == [10]


def test_copies_are_at_distance_nought_and_closer_to_train(points):
    places = torch.randperm(10_000, generator=torch.Generator().manual_seed(4))[:300]
    found = closer_to_train(points[places], points[:10_000], points[10_000:])
    assert found.share == 1
    assert 0 < found.deviation < 0.02
    assert found.train_places.tolist() == places.tolist()
    assert not found.train_distances.any()
    assert (found.test_distances > 0).all()


def test_copies_of_test_images_are_closer_to_test(points):
    found = closer_to_train(points[10_000:10_300], points[:10_000], points[10_000:])
    assert found.share == 0
    assert not found.test_distances.any()


def test_small_distances_survive_a_large_common_value():
    # |a|^2 + |b|^2 - 2 a b is off by hundreds here, in float32.
    train = normal(500, 64, torch.Generator().manual_seed(5)) + 10_000
    samples, test = train[:100].clone(), train[:100].clone()
    samples[:, 0] += 0.25
    test[:, 0] -= 0.5
    found = closer_to_train(samples, train, test)
    assert found.share == 1
    assert found.train_places.tolist() == list(range(100))
    assert found.train_distances.tolist() == [0.25] * 100
    assert found.test_distances.tolist() == [0.75] * 100


def test_half_copies_give_the_share_that_counting_gives(points):
    # Of fresh images 5 / 6 are nearest to one of 9,000 and not to one of 1,800, of copies all are:
    # r = 11 / 12, odds of 11 to 1, and a fifth of that at equal sizes.
    train, test, fresh = points[:9_000], points[9_000:10_800], points[10_800:11_700]
    found = closer_to_train(torch.cat([train[:900], fresh]), train, test)
    assert abs(found.share - 11 / 16) < 4 * found.deviation < 0.1


def test_fresh_digits_are_as_close_to_either_split(points):
    for start in (0, 5_000, 10_000):
        test = points[start : start + 2_000]
        train = torch.cat([points[:start], points[start + 2_000 :]])
        found = closer_to_train(test, train, test, torch.arange(2_000))
        assert abs(found.share - 0.5) < 4 * found.deviation
        assert 0.01 < found.deviation < 0.02


def test_deviation_is_that_of_the_share_over_fresh_samples():
    generator = torch.Generator().manual_seed(6)
    found = [
        closer_to_train(*(normal(n, 8, generator) for n in (200, 1_500, 500))) for _ in range(60)
    ]
    shares = np.array([nearest.share for nearest in found])
    assert np.mean(shares) == pytest.approx(0.5, abs=4 * np.std(shares) / 60**0.5)
    # Its own standard error is 9 %; sharing of nearest images is not counted.
    claimed = np.mean([nearest.deviation for nearest in found])
    assert claimed == pytest.approx(np.std(shares, ddof=1), rel=0.3)


def counted(closer: int, farther: int, ties: int, train_count: int, test_count: int):
    """One-dimensional points of which these numbers are closer to train, to test, or neither."""
    samples = torch.tensor([0.4] * closer + [0.6] * farther + [0.5] * ties)[:, None]
    train = torch.cat([torch.zeros(1, 1), torch.full((train_count - 1, 1), 9.0)])
    test = torch.cat([torch.ones(1, 1), torch.full((test_count - 1, 1), 9.0)])
    return closer_to_train(samples, train, test)


@pytest.mark.parametrize(
    ("closer", "farther", "ties", "train_count", "test_count", "share"),
    [
        (15, 5, 0, 10, 10, 0.75),
        (15, 5, 0, 30, 10, 0.5),
        (11, 1, 0, 50, 10, 11 / 16),
        (0, 0, 8, 10, 10, 0.5),
        (2, 2, 4, 20, 10, 1 / 3),
        (6, 1, 1, 10, 10, 13 / 16),
        (8, 0, 0, 70, 10, 1.0),
        (0, 8, 0, 70, 10, 0.0),
    ],
)
def test_share_is_that_of_equal_splits_and_ties_count_half(
    closer, farther, ties, train_count, test_count, share
):
    found = counted(closer, farther, ties, train_count, test_count)
    assert found.share == pytest.approx(share, rel=1e-12)


def test_images_in_both_splits_are_ties(points):
    train, test = points[:500], torch.cat([points[:100], points[600:1_000]])
    assert closer_to_train(points[:100], train, test).share == 0.5


def test_own_place_is_not_counted_among_the_test_images():
    samples = torch.tensor([[0.0], [10.0], [20.0], [21.0]])
    train = torch.tensor([[0.1], [10.1], *[[99.0]] * 7])
    found = closer_to_train(samples, train, samples, torch.arange(4))
    assert found.test_distances.tolist() == [10, 10, 1, 1]
    # Two of four are closer to train, but there are 9 training images to 3 others.
    assert found.share == pytest.approx(1 / 4)
    assert closer_to_train(samples, train, samples).share == 0


def spread(closer: int, farther: int, train_count: int, test_count: int):
    """The same, with a training and a test image of its own near each sample."""
    places = 100.0 * torch.arange(closer + farther)[:, None]
    inside = torch.tensor([0.4] * closer + [0.6] * farther)[:, None]
    pads = [torch.full((count - len(places), 1), -9e4) for count in (train_count, test_count)]
    train, test = torch.cat([places, pads[0]]), torch.cat([places + 1, pads[1]])
    return closer_to_train(places + inside, train, test)


def test_deviation_carries_the_binomial_one_over_to_the_share():
    def share(r):
        odds = r / (1 - r) / 5
        return odds / (1 + odds)

    r, n = 0.8, 100
    slope = (share(r + 1e-6) - share(r - 1e-6)) / 2e-6
    found = spread(80, 20, 500, 100)
    assert found.share == pytest.approx(share(0.8))
    assert found.deviation == pytest.approx(slope * (r * (1 - r) / n) ** 0.5, rel=1e-6)
    assert found.surprise == pytest.approx((0.8 - 5 / 6) / (5 / 36 / n) ** 0.5)


def test_deviation_of_all_or_nothing_is_that_of_half_a_sample_less():
    assert spread(8, 0, 10, 10).deviation == pytest.approx((15 / 16 / 16 / 8) ** 0.5)
    assert spread(0, 8, 10, 10).deviation == pytest.approx((15 / 16 / 16 / 8) ** 0.5)


def test_samples_that_all_look_alike_tell_no_more_than_one():
    found = counted(50, 0, 0, 10, 10)
    assert (found.share, found.deviation) == (1, 0.5)
    assert found.surprise == pytest.approx(1)
    assert spread(50, 0, 50, 50).surprise == pytest.approx(50**0.5)


@pytest.mark.parametrize(
    ("samples", "train", "test", "own", "words"),
    [
        (0, 5, 5, False, "0 samples, 5 training and 5 other test images"),
        (3, 0, 5, False, "3 samples, 0 training"),
        (3, 5, 0, False, "0 other test images"),
        (1, 5, 1, True, "0 other test images"),
    ],
)
def test_too_few_images_are_refused_with_their_number(samples, train, test, own, words):
    with pytest.raises(ValueError, match=words):
        closer_to_train(
            torch.zeros(samples, 4),
            torch.zeros(train, 4),
            torch.zeros(test, 4),
            torch.zeros(samples, dtype=torch.long) if own else None,
        )
