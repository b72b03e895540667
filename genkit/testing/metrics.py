"""The contracts of a metric: finite scores that follow from the images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genkit.contracts.contract import (
    CLASSES,
    Violations,
    difference,
    drawn_from,
    noisy_squares,
    random_states,
    seed_random,
)
from genkit.features import FeatureExtractor, ImageSet
from genkit.metrics import Estimate, Reference
from genkit.specs import Config, ImageShape, MetricSpec

__tracebackhide__ = True

SCORED = ImageShape(3, 32, 32, len(CLASSES))
MANY = 128  # classes
COUNT, FEWEST = 200, 10  # images; genkit never scores fewer than FEWEST


class Quarters(FeatureExtractor):
    """The mean of each quarter and channel, and logits for which quarter is white, the first four
    of the classes."""

    identity = "quarters"

    def __init__(self, classes: int) -> None:
        super().__init__(Config())
        self.classes = classes

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8, (N, C, H, W), to features, (N, 4 * C), and logits, (N, classes), float32."""
        means = F.adaptive_avg_pool2d(images.float() / 255, 2)  # (N, C, 2, 2)
        if not self.classes:
            return means.flatten(1), None
        logits = 20 * means.mean(1).flatten(1)
        return means.flatten(1), F.pad(logits, (0, self.classes - 4), value=-20.0)


@dataclass(frozen=True)
class Scoring:
    """A metric, and sets of images that it can score."""

    spec: MetricSpec

    @cached_property
    def classes(self) -> int:
        """Four, or many for a metric that has nothing to say of few."""
        reference, same, _ = self.sets(len(CLASSES))
        return len(CLASSES) if self.score(same, reference) else MANY

    def sets(self, classes: int | None = None) -> tuple[Reference, ImageSet, ImageSet]:
        """A reference, its training images as samples, and noise as samples; 0 classes are an
        extractor without logits."""
        extractor = Quarters(self.classes if classes is None else classes)
        train, test = (
            torch.from_numpy(noisy_squares(COUNT, SCORED, seed).images) for seed in (0, 1)
        )
        noise = torch.randint(
            0, 256, train.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        split, held_out, same, noisy = (
            ImageSet(images, extractor) for images in (train, test, train.clone(), noise)
        )
        return Reference("squares", COUNT, split, held_out), same, noisy

    def score(self, samples: ImageSet, reference: Reference) -> dict[str, Estimate]:
        """The metric's scores, each column as an estimate."""
        found = self.spec.load()(self.spec.config(), samples, reference)
        return {
            name: value if isinstance(value, Estimate) else Estimate(float(value))
            for name, value in found.items()
        }


def columns_are_answered(scoring: Scoring) -> Violations:
    """A metric must answer each of its columns, which have names of their own, and no other."""
    names = [column.name for column in scoring.spec.columns]
    if not names or len(set(names)) != len(names):
        yield f"its columns are {names}"
    reference, same, _ = scoring.sets()
    found = scoring.score(same, reference)
    if missing := [name for name in names if name not in found]:
        yield f"{missing[0]!r} is missing, though there are features, logits and classes"
    if more := [name for name in found if name not in names]:
        yield f"{more[0]!r} is none of them"


def scores_are_finite(scoring: Scoring) -> Violations:
    """Scores must be finite, and their deviations finite and not below 0, from 10 samples on."""
    reference, same, noise = scoring.sets()
    few = same.take(torch.arange(FEWEST))
    for samples, of in ((same, "training images"), (noise, "noise"), (few, "10 images")):
        for name, estimate in scoring.score(samples, reference).items():
            if not math.isfinite(estimate.value):
                yield f"{name!r} of {of} is {float(estimate.value)}"
            deviation = 0.0 if estimate.deviation is None else float(estimate.deviation)
            if not 0 <= deviation < math.inf:
                yield f"the deviation of {name!r} of {of} is {deviation}"


def scores_follow_from_the_images(scoring: Scoring) -> Violations:
    """Equal sets must get equal scores, whatever the global generators of torch, numpy and Python
    do, which scoring must leave alone.
    """
    scores = []
    for seed in (0, 0, 1):
        reference, _, noise = scoring.sets()
        seed_random(seed)
        before = random_states()
        scores.append({name: vars(one) for name, one in scoring.score(noise, reference).items()})
        if whose := drawn_from(before):
            yield f"scoring drew from {whose}'s global generator"
    for again, when in ((scores[1], "the second time"), (scores[2], "under other global seeds")):
        if differs := difference(again, scores[0]):
            yield f"{when}, {differs}"


def sets_are_left_as_they_were(scoring: Scoring) -> Violations:
    """Scoring must not change images, features or logits, which other metrics use after it."""
    reference, _, noise = scoring.sets()
    sets = {"samples": noise, "reference": reference.train, "test images": reference.test}
    before = {name: _copy(images) for name, images in sets.items()}
    scoring.score(noise, reference)
    if differs := difference({name: _copy(images) for name, images in sets.items()}, before):
        yield differs


def real_images_beat_noise(scoring: Scoring) -> Violations:
    """The training images themselves must score at least as well as noise, as `better` says."""
    reference, same, noise = scoring.sets()
    good, bad = scoring.score(same, reference), scoring.score(noise, reference)
    for column in scoring.spec.columns:
        if column.better is None:
            continue
        real, random = (float(scores[column.name].value) for scores in (good, bad))
        if (real > random) if column.better == "lower" else (real < random):
            yield (
                f"{column.name!r} is {real:.4g} for training images and {random:.4g} for noise, "
                f"where {column.better} is better"
            )


def features_without_logits_will_do(scoring: Scoring) -> Violations:
    """Where the features tell no classes, a metric must answer or leave columns out."""
    reference, same, _ = scoring.sets(classes=0)
    scoring.score(same, reference)
    yield from ()


def _copy(images: ImageSet) -> Mapping[str, Any]:
    """Copies of the tensors in a set of images."""
    tensors = {"images": images.images, "features": images.features, "logits": images.logits}
    return {name: None if one is None else one.clone() for name, one in tensors.items()}


METRIC_CONTRACTS = (
    columns_are_answered,
    scores_are_finite,
    scores_follow_from_the_images,
    sets_are_left_as_they_were,
    real_images_beat_noise,
    features_without_logits_will_do,
)
