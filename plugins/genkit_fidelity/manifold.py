"""Precision, recall, density and coverage: how far two sets of features share one support.

Features in, numbers out: images, features and error bars are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 2_500_000  # distances held at once: 10 MB stay in the cache, larger chunks are slower
PAIRS = 100_000  # looked at together
LISTED = 4  # nearest others listed per neighbour, from which those in one block are left out


def manifold_scores(
    samples: Tensor,
    reals: Tensor,
    blocks: Tensor,
    block_count: int,
    *,
    neighbours: int = 3,
    coverage_neighbours: int = 5,
    nearest_reals: Tensor | None = None,
) -> dict[str, tuple[float, Tensor]]:
    """Precision, recall, density and coverage of samples, and each with one block left out.

    Around each point of a set lies a ball that reaches to its k-th nearest other point of the
    same set. The balls of a set, closed, stand for its support.

    - Precision (Kynkäänniemi et al. 2019, arXiv 1904.06991, section 2): the share of samples
      inside any real's ball, k = `neighbours`. One real outlier has a ball that may hold
      anything, so that all-black images can score 1; more reals can bring that down to 0.
    - Recall (the same): the share of reals inside any sample's ball. Samples far from each other
      have balls that hold all reals, so that wide noise can score 1.
    - Density (Naeem et al. 2020, arXiv 2002.09797, section 3): in how many reals' balls a sample
      lies on average, over k = `coverage_neighbours`. It is not bounded by 1: samples at one mode
      make up for those that lie nowhere.
    - Coverage (the same): the share of reals with a sample in their ball. It grows with the
      number of samples, so it compares for equal numbers only; two equal numbers from one
      distribution score 1 - 2^-k, not 1.

    Precision and recall equal torch-fidelity's, whose distances (those of `torch.cdist`) and
    closed balls these are. The code published with Naeem et al. takes open balls: that differs
    where points coincide, and there it would count copies of repeated reals as lying nowhere. On
    the edge of a ball, as a copy of the real that bounds it, float32 rounding decides.

    The values without a block are for a delete-a-group jackknife over the samples: the samples of
    one block are left out, the reals stay whole. They equal scores of the remaining samples, balls
    of the samples included: keeping those balls as they were gave recall of digits 0.6 to 1.2
    times this jackknife deviation. (A ball that loses neighbours is measured from a list of the
    4 (k + 1) nearest; it comes out too small if more than 3 (k + 1) of these are of one block.)
    On average the jackknife exaggerates (Efron and Stein 1981, Annals of Statistics 9): for recall
    and coverage of digits 1.1 to 2 times.

    Args:
        samples: float32, (N, D), on the CPU. Beside the inputs memory takes a copy of one of them
            and some 100 MiB, at N = M = 10,000.
        reals: float32, (M, D).
        blocks: int64, (N,): the block of each sample, 0 to `block_count` - 1; a block may be empty.
        block_count: some tens.
        nearest_reals: `distances_within(reals, k)`, if it is known, for the larger k.

    Returns:
        "precision", "recall", "density" and "coverage", each as the value over all samples and
        the values, float64, (block_count,), without each block.

    Raises:
        ValueError: fewer points than a ball takes, with the largest block left out.
    """
    most = max(neighbours, coverage_neighbours)
    if len(reals) <= most:
        raise ValueError(
            f"{len(reals)} reals are too few: balls to the {most}th neighbour need {most + 1}"
        )
    remaining = len(samples) - int(torch.bincount(blocks, minlength=1).max())
    if remaining <= neighbours:
        raise ValueError(
            f"{len(samples)} samples are too few: without their largest block {remaining} remain, "
            f"and balls to the {neighbours}th neighbour need {neighbours + 1}"
        )

    if nearest_reals is None:
        nearest_reals = distances_within(reals, most)
    radii, density_radii = nearest_reals[:, neighbours], nearest_reals[:, coverage_neighbours]
    listed = min(len(samples), LISTED * (neighbours + 1))
    nearest, places = _nearest(samples, listed)
    sample_radii = nearest[:, neighbours]
    without = torch.arange(block_count)[:, None]
    radii_without = torch.stack(
        [_radii_without(nearest, blocks[places] == block, neighbours) for block in without]
    ).masked_fill(blocks == without, -1)  # (block_count, N): no ball of a sample that is gone
    reach = radii_without.amax(0).maximum(sample_radii)
    real_reach = radii.maximum(density_radii)

    count = len(samples)
    precise = torch.zeros(count, dtype=torch.bool)
    balls = torch.zeros(count, dtype=torch.long)
    recalled, settled = precise.new_zeros(2, len(reals)).unbind()  # no more can be found of these
    covered, regained = precise.new_zeros(2, block_count, len(reals)).unbind()
    for rows, distances in _distances(samples, reals):  # (rows, M)
        # Points in each other's balls are few pairs, so that little is done for all.
        one, real = (distances <= real_reach).nonzero().unbind(1)
        between = distances[one, real]
        one += rows.start
        precise[one[between <= radii[real]]] = True
        dense = between <= density_radii[real]
        one, real = one[dense], real[dense]
        balls += torch.bincount(one, minlength=count)
        covered[blocks[one], real] = True

        near = (distances <= reach[rows, None]).logical_and_(~settled)
        for pairs in near.nonzero().split(PAIRS):
            one, real = pairs[~settled[pairs[:, 1]]].unbind(1)
            between = distances[one, real]
            one += rows.start
            recalled[real[between <= sample_radii[one]]] = True
            block, pair = (between <= radii_without[:, one]).nonzero().unbind(1)
            regained[block, real[pair]] = True
            settled = recalled & regained.all(0)

    return {
        "precision": _mean(precise.double(), blocks, block_count),
        "recall": (float(recalled.double().mean()), regained.double().mean(1)),
        "density": _mean(balls.double() / coverage_neighbours, blocks, block_count),
        "coverage": _share(covered),
    }


def distances_within(points: Tensor, neighbours: int) -> Tensor:
    """Distances, (N, neighbours + 1), from each of (N, D) points to itself and its nearest others,
    nearest first."""
    return _nearest(points, neighbours + 1)[0]


def _distances(points: Tensor, others: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances, (rows, M), of some rows of (N, D) points after others to (M, D) others.

    One matrix product by the formula that `torch.cdist` takes for more than 25 points, bit for bit,
    with the others prepared once.
    The chunks are of even size: products of few rows may be rounded differently, which would
    separate equal points. Each chunk overwrites the one before: new memory for each would leave
    holes between what callers keep.
    """
    others = torch.cat(
        [others, others.new_ones(len(others), 1), others.pow(2).sum(1, keepdim=True)], 1
    ).T  # (D + 2, M)
    chunks = points.tensor_split(-(-len(points) * others.shape[1] // CHUNK))
    buffer = others.new_empty(len(chunks[0]), others.shape[1])
    start = 0
    for chunk in chunks:
        rows = slice(start, start + len(chunk))
        start = rows.stop
        chunk = torch.cat(
            [-2 * chunk, chunk.pow(2).sum(1, keepdim=True), chunk.new_ones(len(chunk), 1)], 1
        )  # (rows, D + 2)
        yield rows, torch.mm(chunk, others, out=buffer[: len(chunk)]).clamp_(min=0).sqrt_()


def _nearest(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances and places, (N, count), of each point's nearest, nearest first: itself and others.

    As in torch-fidelity a point stands in its own list. Equal points may precede it.
    """
    nearest = points.new_empty(len(points), count)
    places = torch.empty_like(nearest, dtype=torch.long)
    for rows, distances in _distances(points, points):
        nearest[rows], places[rows] = distances.topk(count, largest=False)
    return nearest, places


def _radii_without(nearest: Tensor, gone: Tensor, neighbours: int) -> Tensor:
    """Distances, (N,), to the k-th nearest other point that is not gone.

    Of a point that is gone itself the result means nothing.
    """
    passed = (~gone).cumsum(1) <= neighbours  # (N, listed): itself and k others not reached yet
    place = passed.sum(1, keepdim=True).clamp(max=nearest.shape[1] - 1)
    return nearest.gather(1, place)[:, 0]


def _mean(values: Tensor, blocks: Tensor, block_count: int) -> tuple[float, Tensor]:
    """Mean of one value per sample, and without each block."""
    sums = torch.bincount(blocks, values, block_count)
    counts = torch.bincount(blocks, minlength=block_count)
    return float(values.mean()), (sums.sum() - sums) / (len(values) - counts)


def _share(reached: Tensor) -> tuple[float, Tensor]:
    """Share of reals reached by any block, and without each block, from (block_count, M)."""
    times = reached.sum(0)
    without = times > reached.long()
    return float((times > 0).double().mean()), without.double().mean(1)
