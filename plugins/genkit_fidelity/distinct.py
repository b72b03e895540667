"""How many different images a model draws, by how often two of its samples are nearly the same."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genkit.features import ImageSet
from genkit.metrics import Estimate, Reference, choice
from genkit.specs import Config

IMAGES = 2000  # samples whose pairs are looked at, at most
NEAR = 0.5  # of the least distance between two real images: nearer samples are the same
FEWEST_PAIRS = 3  # with none at all, fewer than these are likely (95%)
ROWS = 500  # of a matrix of distances at a time


def distinct(config: Config, samples: ImageSet, reference: Reference) -> dict[str, Estimate]:
    """The number of different images that samples are drawn from, by the birthday paradox (Arora
    and Zhang 2018, arXiv 1706.08224): of n draws from N equally likely images n (n - 1) / 2 / N
    pairs are expected to be the same.

    Two samples are the same if their features are nearer than half the least distance among as
    many real images. If fewer than three pairs are, so many would be likely for the number given:
    there are at least so many images, and no deviation.
    """
    count = min(len(samples), len(reference.train), IMAGES)
    own = samples.take(choice(len(samples), count, 0)).features
    real = _distances(reference.choose(count).features)
    real = real[real > _noise(own)]  # without real images that are there twice
    least = float(real.min()) if len(real) else 0.0
    same = int((_distances(own) <= max(NEAR * least, _noise(own))).sum())
    pairs = count * (count - 1) / 2
    number = pairs / max(same, FEWEST_PAIRS)
    deviation = number / math.sqrt(same) if same >= FEWEST_PAIRS else None
    return {"distinct": Estimate(number, deviation)}


def _noise(features: Tensor) -> float:
    """What rounding may make of a distance of 0."""
    return 1e-6 * float(features.double().square().sum(1).mean().sqrt())


def _distances(features: Tensor) -> Tensor:
    """Distances of all pairs of vectors, (n, D): float64, (n (n - 1) / 2,)."""
    points = features.double()
    squares = points.square().sum(1)
    found = []
    for start in range(0, len(points), ROWS):
        rows = points[start : start + ROWS]
        values = squares[start : start + ROWS, None] + squares - 2 * rows @ points.T
        above = torch.ones(values.shape, dtype=torch.bool).triu(start + 1)
        found.append(values[above].clamp(min=0).sqrt())
    return torch.cat(found)
