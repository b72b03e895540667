"""For metrics: the reference that samples are compared with, estimates and their error bars.

The arithmetic of each metric is in its plugin, features are in `genkit.features`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from genkit.compute.cache import cache_folder, read_cached, write_cached
from genkit.compute.seeds import derive_seed
from genkit.features import ImageSet, Statistics, statistics_of

BLOCKS = 20  # of samples that the jackknife leaves out in turn


@dataclass(frozen=True)
class Estimate:
    """A score and its standard deviation over other samples of the same model, None if unknown."""

    value: float
    deviation: float | None = None


def blocks_of(count: int) -> tuple[Tensor, int]:
    """For each of `count` samples the block it belongs to, (count,) int64, and how many there are.

    At random, since samples in files may be sorted by class; sizes differ by one at most.
    """
    number = min(BLOCKS, count)
    generator = torch.Generator().manual_seed(derive_seed("blocks", count))
    return torch.randperm(count, generator=generator) % number, number


def jackknife(left_out: Tensor) -> float:
    """Standard deviation of a score from its values with one block of samples left out in turn.

    The delete-a-group jackknife (Efron and Tibshirani 1993, section 11.5). Unlike the bootstrap
    it repeats no sample, which would bias distances that see duplicates.

    Args:
        left_out: (B,), the score without block b.
    """
    values = left_out.double()
    number = len(values)
    return float(((values - values.mean()).square().sum() * (number - 1) / number).sqrt())


@dataclass(frozen=True, eq=False)
class Reference:
    """The real images that samples are compared with.

    Args:
        name: for people and for the card, such as "mnist train".
        count: images behind `statistics`; may be more than `train` holds, if they come with the
            extractor.
        train: the training split.
        test: the test split, which no model has seen.
        shipped: statistics that came with the extractor.
    """

    name: str
    count: int
    train: ImageSet
    test: ImageSet
    shipped: Statistics | None = None
    _computed: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and covariance of the reference's features."""
        return self.shipped or statistics_of(self.train.features)

    def choose(self, count: int) -> ImageSet:
        """At most `count` training images, the same ones every time: a seeded choice, since the
        first images of a data set are biased. A smaller choice is a part of a larger one."""
        return self.train.take(choice(len(self.train), count, 0))

    def compute_once(self, name: str, count: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """What a metric computes of the features of `choose(count)` alone, (n, D): the same for all
        samples, so it is kept in memory, and in the user's cache where features are kept.

        Args:
            name: part of a file's name; it says all that the values depend on, beside the features.
        """
        key = f"{name}-{count}"
        if key not in self._computed:
            keep = self.train.keep
            path = cache_folder("features") / f"{keep}-{key}.safetensors" if keep else None
            kept = read_cached(path) if path else None
            if kept is None or key not in kept:
                kept = {key: compute(self.choose(count).features)}
                if path:
                    write_cached(path, kept)
            self._computed[key] = kept[key]
        return self._computed[key]


def choice(count: int, wanted: int, seed: int) -> Tensor:
    """Places of at most `wanted` of `count` images, int64, (min(wanted, count),): a seeded choice
    without repeats."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "choice"))
    return torch.randperm(count, generator=generator)[:wanted]
