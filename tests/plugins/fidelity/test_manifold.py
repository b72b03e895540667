"""Precision, recall, density and coverage against torch-fidelity and slow float64 definitions."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import (
    calculate_precision_recall_full,
    calculate_precision_recall_part,
)

from genkit_fidelity import manifold
from genkit_fidelity.manifold import distances_within, manifold_scores

torch.set_num_threads(1)

SCORES = ("precision", "recall", "density", "coverage")


def normal(count: int, width: int, seed: int, scale: float = 1) -> torch.Tensor:
    return scale * torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def in_turn(count: int, block_count: int = 20) -> torch.Tensor:
    return torch.arange(count) % block_count


def values(samples: torch.Tensor, reals: torch.Tensor, **options) -> dict[str, float]:
    found = manifold_scores(samples, reals, in_turn(len(samples)), 20, **options)
    return {name: value for name, (value, _) in found.items()}


def by_definition(samples, reals, k: int = 3, coverage_k: int = 5) -> dict[str, float]:
    """The four scores, one point after the other, in float64."""
    samples, reals = samples.double().numpy(), reals.double().numpy()

    def distances(point, others):
        return np.sqrt(np.sum((others - point) ** 2, axis=1))

    def radii(points, neighbours):
        return np.array(
            [
                np.sort(np.delete(distances(point, points), place))[neighbours - 1]
                for place, point in enumerate(points)
            ]
        )

    to_reals = np.array([distances(sample, reals) for sample in samples])
    coverage_inside = to_reals <= radii(reals, coverage_k)
    return {
        "precision": np.mean((to_reals <= radii(reals, k)).any(1)),
        "recall": np.mean((to_reals <= radii(samples, k)[:, None]).any(0)),
        "density": np.mean(coverage_inside.sum(1)) / coverage_k,
        "coverage": np.mean(coverage_inside.any(0)),
    }


@pytest.fixture(scope="module")
def digits() -> dict[str, torch.Tensor]:
    """Features of real digits: 64 rectified random projections of their pixels."""
    with np.load(Path(find_spec("genkit_datasets").origin).parent / "mnist_mini.npz") as arrays:
        pixels = {name: torch.from_numpy(arrays[name]) for name in ("train_images", "test_images")}
    return {
        name: (images.flatten(1).float() / 255 @ normal(784, 64, 1)).relu()
        for name, images in pixels.items()
    }


def cases(digits) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    train, test = digits["train_images"], digits["test_images"]
    hundred = test[:100].repeat(20, 1)
    return {
        "digits": (test, train[:3000]),
        "digits, of numbers that are not round": (test[:1777], train[:2011]),
        "collapsed": (hundred, train[:2000]),
        "copies of 100 reals": (hundred, test),
        "copies of repeated reals": (hundred, test[:500].repeat(4, 1)),
        "half copies": (torch.cat([test[:500], train[:500]]), test[:1000]),
        "shifted far away": (hundred[:1000] + 100, test[:1000] + 100),
        "one point": (torch.zeros(300, 64), test[:1000]),
        "normal, few dimensions": (normal(900, 3, 2, 0.8), normal(1100, 3, 3)),
        "normal, many dimensions": (normal(400, 700, 4), normal(400, 700, 5)),
    }


CASES = list(cases(dict.fromkeys(("train_images", "test_images"), torch.zeros(1, 64))))


@pytest.mark.parametrize("case", CASES)
def test_precision_and_recall_equal_torch_fidelitys_to_all_digits(digits, case):
    samples, reals = cases(digits)[case]
    found = values(samples, reals)
    rounded = tuple(torch.tensor([found["precision"], found["recall"]]).tolist())  # float32, too
    assert rounded == calculate_precision_recall_part(samples, reals)
    assert rounded == calculate_precision_recall_full(samples, reals)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_precision_and_recall_equal_torch_fidelitys_for_other_neighbours(digits, k):
    samples, reals = digits["test_images"][:1000], digits["train_images"][:1000]
    found = values(samples, reals, neighbours=k)
    rounded = tuple(torch.tensor([found["precision"], found["recall"]]).tolist())
    assert rounded == calculate_precision_recall_part(samples, reals, k)


@pytest.mark.parametrize("case", [case for case in CASES if case != "shifted far away"])
def test_all_scores_equal_their_definitions(digits, case):
    samples, reals = (features[:400] for features in cases(digits)[case])
    found, expected = values(samples, reals), by_definition(samples, reals)
    if "copies" in case:  # a copy may lie on a ball's very edge, where float32 decides
        assert found.pop("density") == pytest.approx(expected.pop("density"), rel=0.005)
    assert found == pytest.approx(expected, rel=1e-12)


def test_scores_equal_their_definitions_for_other_neighbours(digits):
    samples, reals = digits["test_images"][:300], digits["train_images"][:200]
    found = values(samples, reals, neighbours=6, coverage_neighbours=2)
    assert found == pytest.approx(by_definition(samples, reals, 6, 2), rel=1e-12)


@pytest.mark.parametrize("case", ["digits", "collapsed", "normal, few dimensions"])
def test_scores_without_a_block_equal_scores_of_the_other_samples(digits, case, monkeypatch):
    monkeypatch.setattr(manifold, "CHUNK", 20_000)
    samples, reals = cases(digits)[case]
    samples, reals = samples[:430], reals[:300]
    generator = torch.Generator().manual_seed(6)
    blocks = torch.randint(0, 11, (430,), generator=generator).clamp(max=9)  # the last is larger
    blocks[blocks == 4] = 5  # an empty one
    found = manifold_scores(samples, reals, blocks, 10)
    for block in range(10):
        expected = by_definition(samples[blocks != block], reals)
        without = {name: float(left_out[block]) for name, (_, left_out) in found.items()}
        assert without == pytest.approx(expected, rel=1e-12)
    for name, (value, without) in found.items():
        assert (without.shape, without.dtype) == ((10,), torch.float64)
        assert without[4] == pytest.approx(value, rel=1e-12)
        assert name == "recall" or case == "collapsed" or len(set(without.tolist())) > 2


def test_jackknife_deviation_of_precision_is_the_binomial_one(digits):
    samples, reals = digits["test_images"], digits["train_images"][:2000]
    precision, without = manifold_scores(samples, reals, in_turn(2000, 50), 50)["precision"]
    deviation = (49 / 50 * (without - without.mean()).square().sum()).sqrt()
    assert deviation == pytest.approx((precision * (1 - precision) / 2000) ** 0.5, rel=0.3)


def test_scores_depend_neither_on_chunks_nor_on_the_order_of_samples(digits, monkeypatch):
    samples, reals = digits["test_images"][:500], digits["train_images"][:600]
    blocks = in_turn(500, 7)
    expected = manifold_scores(samples, reals, blocks, 7)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(7))
    monkeypatch.setattr(manifold, "CHUNK", 9_000)
    monkeypatch.setattr(manifold, "PAIRS", 50)
    nearest = distances_within(reals, 5)
    found = manifold_scores(samples[order], reals, blocks[order], 7, nearest_reals=nearest)
    assert tuple(found) == SCORES
    for name in SCORES:
        assert found[name][0] == pytest.approx(expected[name][0], rel=1e-12)
        torch.testing.assert_close(found[name][1], expected[name][1], rtol=1e-12, atol=0)


def test_collapse_keeps_precision_and_loses_recall_and_the_swap_turns_them_round(digits):
    collapsed = digits["test_images"][:20].repeat(50, 1)
    reals = digits["train_images"][:1000]
    there, back = values(collapsed, reals), values(reals, collapsed)
    assert there["precision"] > 0.7
    assert there["recall"] < 0.01
    assert there["coverage"] < 0.2
    assert (back["precision"], back["recall"]) == (there["recall"], there["precision"])


def test_coverage_of_one_distribution_meets_its_closed_form():
    # A real is missed if its 5 nearest of 999 other reals and 1,000 samples are all reals.
    missed = np.prod([(999 - i) / (1999 - i) for i in range(5)])
    found = [values(normal(1000, 8, s), normal(1000, 8, s + 50))["coverage"] for s in range(8)]
    assert np.mean(found) == pytest.approx(1 - missed, abs=0.005)


def test_an_outlier_among_few_reals_gives_far_samples_precision_one():
    reals = torch.cat([normal(300, 16, 8), torch.full((1, 16), 20.0)])
    far = normal(200, 16, 9, 0.1) + 15
    assert values(far, reals)["precision"] == 1
    assert values(far, reals[:-1])["precision"] == 0


def test_wide_noise_has_recall_one_and_precision_nought():
    found = values(normal(300, 64, 10, 9), normal(300, 64, 11))
    assert (found["precision"], found["recall"], found["coverage"]) == (0, 1, 0)


@pytest.mark.parametrize(
    ("samples", "reals", "block_count", "words"),
    [
        (30, 5, 10, "5 reals are too few: balls to the 5th neighbour need 6"),
        (3, 30, 3, "3 samples are too few: without their largest block 2 remain"),
        (6, 30, 2, "6 samples are too few: without their largest block 3 remain"),
        (30, 30, 1, "30 samples are too few: without their largest block 0 remain"),
        (0, 30, 3, "0 samples are too few"),
    ],
)
def test_too_few_points_are_refused_with_their_number(samples, reals, block_count, words):
    with pytest.raises(ValueError, match=words):
        manifold_scores(
            normal(samples, 4, 1), normal(reals, 4, 2), in_turn(samples, block_count), block_count
        )


def test_the_fewest_points_that_balls_need_are_scored():
    samples, reals = normal(5, 4, 1), normal(6, 4, 2)
    found = manifold_scores(samples, reals, torch.arange(5), 5)
    expected = by_definition(samples, reals)
    assert {name: value for name, (value, _) in found.items()} == pytest.approx(expected)
    for block in range(5):
        expected = by_definition(samples[torch.arange(5) != block], reals)
        assert {n: float(w[block]) for n, (_, w) in found.items()} == pytest.approx(expected)
