"""Copies in small doses: samples closer to training images than nearly all unseen real images are.

Distances in, a count and an exact bound out; which images are compared, `memorisation` decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CLOSEST = 0.005  # share of unseen real images that lie as near to training images by chance
CHANCE = 0.001 / 3  # of an alarm about fresh samples; three kinds of distance are looked at
VALUES = 256  # of an image, at most, once it is made smaller for the search under moves
BLOCK = 4096  # references at a time


@dataclass(frozen=True)
class Copies:
    """How many of n samples are nearer to training images than nearly all unseen ones.

    Args:
        looked: n.
        near: different training images that are so near to a sample.
        at_least: samples that are copies, but for a chance of one in 3,000.
    """

    looked: int
    near: int
    at_least: int


def count_copies(samples: Tensor, places: Tensor, unseen: Tensor) -> Copies:
    """Count copies by how near samples are to training images, for their distance to test images.

    Samples of a model that has the distribution of the data and unseen real images are
    exchangeable. So the number of samples with a smaller ratio than the r-th smallest of m unseen
    images is beta-binomial, exactly, whatever the distribution; r is half a percent of m. Of c
    copies all may count, so c is at least the smallest number that does not make the count too
    improbable. Samples that share a nearest training image count once.

    Args:
        samples: distance to the training split over that to the test split, (n,).
        places: int64, (n,), the nearest training image of each.
        unseen: the same ratio of test images, each left out of the test split, (m,).
    """
    rank = max(round(CLOSEST * len(unseen)), 1)
    bar = unseen.double().sort().values[rank - 1]
    near = len(torch.unique(places[samples.double() < bar]))
    low, high = 0, near
    while low < high:
        copies = (low + high) // 2
        if chance_of(near - copies, len(samples) - copies, rank, len(unseen)) < CHANCE:
            low = copies + 1
        else:
            high = copies
    return Copies(len(samples), near, low)


def chance_of(count: int, samples: int, rank: int, unseen: int) -> float:
    """The probability that of fresh samples at least `count` lie below the r-th smallest of
    `unseen` values of the same distribution."""

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    # Of all orders of samples and unseen values, those with k samples before the r-th of these.
    orders = log_choose(samples + unseen, samples)
    return min(
        1.0,
        sum(
            math.exp(
                log_choose(k + rank - 1, k)
                + log_choose(samples - k + unseen - rank, samples - k)
                - orders
            )
            for k in range(count, samples + 1)
        ),
    )


def ratios(train_distances: Tensor, test_distances: Tensor) -> Tensor:
    """Distance to the training split over that to the test split, (n,) float64; 0 for a copy."""
    return train_distances.double() / test_distances.double().clamp(min=1e-9)


def nearest_moved(
    images: Tensor, references: Tensor, own_places: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Distance to the nearest reference and its place, both (n,), of the nearest of 18 versions of
    each image: mirrored or not, and moved by up to one pixel along each side.

    Pictures are made smaller for it, so that it takes seconds; samples and real images alike.

    Args:
        images: uint8, (n, C, H, W).
        references: uint8, (N, C, H, W).
        own_places: int64, (n,), the place of each image among the references, -1 for none.
    """
    small = _shrink(references)
    best = torch.full((len(images),), math.inf)
    places = torch.zeros(len(images), dtype=torch.long)
    squares = small.square().sum(1)
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    height, width = images.shape[-2:]
    rows = torch.arange(len(images))
    for mirrored in (padded, padded.flip(3)):
        for down in range(3):
            for across in range(3):
                moved = mirrored[:, :, down : down + height, across : across + width]
                points = _shrink(moved)
                for start in range(0, len(small), BLOCK):
                    block = small[start : start + BLOCK]
                    found = torch.addmm(squares[start : start + BLOCK], points, block.T, alpha=-2)
                    if own_places is not None:
                        here = (own_places >= start) & (own_places < start + len(block))
                        found[rows[here], own_places[here] - start] = math.inf
                    least, where = found.min(1)
                    least = (least + points.square().sum(1)).clamp(min=0)
                    closer = least < best
                    best = torch.where(closer, least, best)
                    places = torch.where(closer, where + start, places)
    return best.sqrt(), places


def _shrink(images: Tensor) -> Tensor:
    """Images, (n, C, H, W), as vectors of at most 256 averages of pixels, (n, D) float32."""
    side = int(math.sqrt(VALUES / images.shape[1]))
    factor = [math.ceil(length / side) for length in images.shape[-2:]]
    shrunk = [F.avg_pool2d(part.float(), factor, ceil_mode=True) for part in images.split(1000)]
    return torch.cat(shrunk).flatten(1) / 255 - 0.5
