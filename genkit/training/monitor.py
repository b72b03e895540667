"""Watches a training: scores samples, so that the best weights are kept, and notices trouble.

It only looks: it changes nothing in the training, and its own failures do not end the training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genkit.contracts.images import MOSTLY_BLACK
from genkit.data import ImageData
from genkit.errors import GenkitError, PluginError, plugin_code
from genkit.evaluation.levels import round_to_levels
from genkit.evaluation.likelihood import check_levels, measure_likelihood
from genkit.evaluation.measure import measure
from genkit.evaluation.reference import open_features, reference_for
from genkit.features import FeatureExtractor, ImageSet
from genkit.io.records import BestPointer
from genkit.metrics import Reference, choice
from genkit.model import GenerativeModel
from genkit.registry.catalogue import Entry, Registry
from genkit.specs import Column, MetricSpec

LOW = 0.35  # diversity, as a share of that of real images, below which samples look collapsed
RISING = 1.25  # times the diversity before: samples are still being learned
MID_GREY = 127
WARM_UP = 0.2  # share of the budget before which no collapse is reported
HISTORY = 100  # lines of the log that a model is asked about
TEST_NATS = "test_nats"  # name of the likelihood of test images in the log
MOST_JUDGED = 256  # test images whose likelihood is asked
DRAWS = 8  # per image, in a bound
CALM = 20  # lines without trouble after which new trouble is reported


@dataclass(frozen=True)
class Observation:
    """What samples looked like at one moment.

    Args:
        diversity: median distance from a sample to the one most like it, divided by the same of as
            many real images; None if real images repeat each other.
        score: value of `Monitor.column`; None where samples are not scored.
        likelihood: mean log-likelihood of test images in nats; None for models without one.
        messages: what the user should know of the scoring itself.
    """

    diversity: float | None
    score: float | None = None
    likelihood: float | None = None
    messages: tuple[str, ...] = ()


class Monitor:
    """Looks at samples and at the log of a training, and returns what seems wrong.

    Samples are scored by the first unbiased metric there is, such as KID, if the data's own
    features are quick. Otherwise only their diversity in pixels is looked at.

    Args:
        count: samples looked at each time, at least 2, and test images whose likelihood is asked.
        device: where features are computed.
        best_by: what the best weights are best by, "score" or "likelihood".
    """

    def __init__(
        self,
        registry: Registry,
        data: ImageData,
        count: int,
        device: torch.device,
        best_by: str = "score",
    ) -> None:
        self.count = count
        self.best_by = best_by
        self.column: str | None = None  # of the scores; None where samples are not scored
        self._registry = registry
        self._data = data
        self._device = device
        self._metric = _unbiased_metric(registry)
        self._extractor: FeatureExtractor | None = None
        self._reference: Reference | None = None
        self._real: float | None = None  # distance between real images most like each other
        self._asked = True  # whether models are asked for a likelihood
        self._pale = False  # whether samples without a dark pixel were reported
        self._low = 0  # observations of low diversity that does not rise, in a row
        self._before: float | None = None  # diversity
        self._cures: Sequence[str] = ()  # options that the model has against a collapse
        self._calm = CALM  # lines of the log since the model last found something wrong

    def start(self) -> tuple[str, ...]:
        """Prepare the scores; returns a message if that fails."""
        name = self._data.features
        entry = self._registry.features.get(name)
        if entry is None or not entry.spec.quick:
            return ()
        if self._metric:
            self.column = self._metric[1].name
        try:
            with plugin_code(f"feature extractor {name!r}"):
                extractor = open_features(self._registry, name, None, self._data)
                extractor = extractor.to(self._device)
                self._reference = reference_for(self._data, extractor)
                self._extractor = extractor
        except GenkitError as error:
            return (self._stop_scoring(error),)
        return ()

    def observe(self, images: Tensor, model: GenerativeModel | None = None) -> Observation:
        """See what samples look like, uint8, (N, C, H, W), and how likely test images are to the
        model that drew them."""
        seen = self._look(images)
        self._cures = model.cures if model else ()
        if model is None or not self._asked:
            return seen
        try:
            with plugin_code(f"the likelihood of {type(model).__name__}"):
                return replace(seen, likelihood=self._likelihood(model))
        except PluginError as error:
            self._asked = False
            return replace(seen, messages=(*seen.messages, str(error)))

    def _likelihood(self, model: GenerativeModel) -> float | None:
        """Mean log-likelihood in nats of test images at the fewest levels that the model judges."""
        if not has_likelihood(model):
            return None
        images = torch.from_numpy(self._data.test.images)
        chosen = images[choice(len(images), min(self.count, MOST_JUDGED), 0)]
        levels = min(check_levels(model))
        found = measure_likelihood(model, round_to_levels(chosen, levels), draws=DRAWS)
        return found.nats if found else None

    def _look(self, images: Tensor) -> Observation:
        images = images[: self.count]
        messages: tuple[str, ...] = ()
        if self._extractor and self._reference:
            try:
                with plugin_code("scoring samples while training"):
                    samples = ImageSet(images, self._extractor)
                    return Observation(
                        self._diversity(samples.features), self._score(samples, self._reference)
                    )
            except GenkitError as error:
                messages = (self._stop_scoring(error),)
        return Observation(self._diversity(images.flatten(1).float()), messages=messages)

    def _score(self, samples: ImageSet, reference: Reference) -> float | None:
        if self._metric is None:
            return None
        entry, column = self._metric
        found, problems = measure(entry, samples, reference)
        if problems:
            raise problems[0]
        return found[column.name].value if column.name in found else None

    def _stop_scoring(self, error: GenkitError) -> str:
        """No scores from now on; returns the message that says why."""
        self._extractor = self._real = self.column = None
        return f"samples are not scored while training: {error}"

    def _diversity(self, vectors: Tensor) -> float | None:
        """Diversity of samples, given their features or pixels: (N, D)."""
        if self._real is None:
            if self._extractor and self._reference:
                real = self._reference.choose(len(vectors)).features
            else:
                images = torch.from_numpy(self._data.train.images)
                real = images[choice(len(images), len(vectors), 0)].flatten(1).float()
            self._real = nearest_distance(real)
        return nearest_distance(vectors) / self._real if self._real else None

    def values(self, seen: Observation) -> dict[str, float]:
        """What was seen, by the names under which it is logged."""
        named = {
            "diversity": seen.diversity,
            self.column or "score": seen.score,
            TEST_NATS: seen.likelihood,
        }
        return {name: value for name, value in named.items() if value is not None}

    def better(self, seen: Observation, best: BestPointer | None) -> tuple[str, float] | None:
        """By what the weights just seen are the best so far, and its value; None if they are
        not."""
        if self.best_by == "likelihood":
            column, value, higher = TEST_NATS, seen.likelihood, True
        else:
            column, value = self.column or "score", seen.score
            higher = self._metric is not None and self._metric[1].better == "higher"
        if value is None:
            return None
        if best is None or (value > best.value if higher else value < best.value):
            return column, value
        return None

    def collapse(self, seen: Observation, spent: float) -> str | None:
        """A warning if samples are nearly alike for the second time in a row, and not less so than
        before, once for each collapse; none at the beginning, `spent` being the share of the budget
        used."""
        before, self._before = self._before, seen.diversity
        low = seen.diversity is not None and seen.diversity < LOW and spent >= WARM_UP
        rising = low and before is not None and (seen.diversity or 0) > RISING * before
        self._low = self._low + 1 if low and not rising else 0
        if self._low != 2:
            return None
        return (
            f"samples are nearly alike (mode collapse): the sample most like another one is "
            f"{seen.diversity:.0%} as far from it as among real images; try "
            f"{', '.join([*self._cures, 'another --seed', 'lower learning rates'])} or a larger "
            "--batch-size"
        )

    def pale(self, images: Tensor) -> str | None:
        """A warning, once, if no pixel of the samples, uint8, (N, C, H, W), is darker than
        mid-grey though real images are mostly black."""
        if self._pale or images.min() < MID_GREY or self._data.train.images.mean() > MOSTLY_BLACK:
            return None
        self._pale = True
        return (
            "no pixel of the samples is darker than mid-grey, though most of the training images "
            "is black: sample() seems to return values in [0, 1], where black is 0 and not -1"
        )

    def trouble(self, model: GenerativeModel, history: Mapping[str, Sequence[float]]) -> str | None:
        """What the model itself finds wrong in its log; only once while it lasts."""
        recent = {name: list(values)[-HISTORY:] for name, values in history.items()}
        try:
            with plugin_code(f"{type(model).__name__}.trouble()"):
                found = model.trouble(recent)
        except PluginError as error:
            found = str(error)
        calm = self._calm
        self._calm = 0 if found else calm + 1
        return found if calm >= CALM else None


def has_likelihood(model: GenerativeModel) -> bool:
    """Whether a model's class gives a likelihood of images."""
    kind, base = type(model), GenerativeModel
    methods = ("log_likelihood", "log_weights")
    return any(getattr(kind, name) is not getattr(base, name) for name in methods)


def _unbiased_metric(registry: Registry) -> tuple[Entry[MetricSpec], Column] | None:
    """The first metric with a column that ranks models and does not depend on the sample size."""
    for entry in registry.metrics.values():
        for column in entry.spec.columns:
            if column.unbiased and column.ranks and column.better:
                return entry, column
    return None


def nearest_distance(vectors: Tensor) -> float:
    """Median distance from a vector to the nearest other one: (N, D), N at least 2."""
    distances = torch.cdist(vectors.double(), vectors.double())  # (N, N)
    return float(distances.fill_diagonal_(torch.inf).amin(1).median())
