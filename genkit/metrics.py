"""Metrics: the reference they compare samples with, what they answer, and how sure it is.

What a metric's arithmetic is, plugins know; features are `genkit.features`' job.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from genkit.data import ImageData
from genkit.errors import GenkitError, PluginError, one_line
from genkit.features import FeatureExtractor, ImageSet, Statistics, statistics_of
from genkit.io.progress import Reporter
from genkit.registry.catalogue import Entry
from genkit.specs import MetricSpec
from genkit.training.stream import derive_seed

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

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and covariance of the reference's features."""
        return self.shipped or statistics_of(self.train.features)

    def choose(self, count: int) -> ImageSet:
        """At most `count` training images, the same ones every time: a seeded choice, of which
        fewer are a part, since head slices of data sets are biased."""
        return self.train.take(choice(len(self.train), count, 0))


def measure(
    entry: Entry[MetricSpec], samples: ImageSet, reference: Reference
) -> tuple[dict[str, Estimate], list[PluginError]]:
    """What a metric says of samples, by column, and what went wrong, in one line each.

    Whatever a metric raises or returns costs its own columns and nothing else: one that raises
    loses all of them, a value that is not a finite number the column it is for.

    Raises:
        GenkitError: what the metric says to its user, such as UsageError.
    """
    spec, plugin = entry.spec, entry.plugin
    what = f"metric {spec.name!r} of {plugin.distribution} {plugin.version}"
    try:
        with plugin.contained():
            answer = spec.load()(spec.config(), samples, reference)
    except PluginError as error:
        return {}, [PluginError(f"{what} failed: {error}")]
    except GenkitError:
        raise
    except (Exception, SystemExit) as error:
        failure = PluginError(f"{what} failed: {one_line(error)}")
        failure.__cause__ = error
        return {}, [failure]
    if not isinstance(answer, Mapping):
        kind = type(answer).__name__
        return {}, [PluginError(f"{what} returned {kind}, not a dict ({spec.target})")]
    columns = {column.name for column in spec.columns}
    found: dict[str, Estimate] = {}
    problems: list[PluginError] = []
    for column, value in answer.items():
        estimate = _finite(value) if column in columns else None
        if estimate is not None:
            found[column] = estimate
            continue
        why = "not a finite number" if column in columns else "which is none of its columns"
        said = " ".join(f"{value!r:.60}".split())
        problems.append(PluginError(f"{what} returned {column!r} = {said}, {why} ({spec.target})"))
    return found, problems


def _finite(value: Any) -> Estimate | None:
    """A number or an estimate as an estimate of plain floats; None unless it is finite."""
    given = value if isinstance(value, Estimate) else Estimate(value)
    try:
        deviation = None if given.deviation is None else float(given.deviation)
        estimate = Estimate(float(given.value), deviation)
    except (TypeError, ValueError, RuntimeError):
        return None
    return estimate if math.isfinite(estimate.value + (deviation or 0.0)) else None


def reference_for(
    data: ImageData, extractor: FeatureExtractor, reporter: Reporter | None = None
) -> Reference:
    """What samples of a data set are compared with. Statistics are of the images that the
    extractor ships them of, if these are this data set's reference; else of its training split."""

    def split(part: str) -> ImageSet:
        return ImageSet(
            torch.from_numpy(getattr(data, part).images),
            extractor,
            name=f"{data.name} {part}",
            keep=f"{extractor.identity}-{data.fingerprint[:32]}-{part}",
            reporter=reporter,
        )

    train, test = split("train"), split("test")
    shipped = extractor.shipped_statistics(data.reference) if data.reference else None
    if shipped is not None:
        return Reference(str(data.reference), shipped.count, train, test, shipped)
    return Reference(train.name, len(train), train, test)


def choice(count: int, wanted: int, seed: int) -> Tensor:
    """Which of `count` images to take, at most all: a seeded choice without repeats."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "choice"))
    return torch.randperm(count, generator=generator)[:wanted]
