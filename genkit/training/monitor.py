"""Watching a training: scores of samples, so that the best weights stay, and signs of trouble.

Looks only: what it sees changes nothing in the training, and a look that fails ends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genkit.data import ImageData
from genkit.errors import GenkitError, PluginError, plugin_code
from genkit.evaluation.measure import measure
from genkit.evaluation.reference import open_features, reference_for
from genkit.features import FeatureExtractor, ImageSet
from genkit.metrics import Reference, choice
from genkit.model import GenerativeModel
from genkit.registry.catalogue import Registry

LOW = 0.25  # diversity, as a share of that of real images, below which samples look collapsed
WARM_UP = 0.2  # share of the budget before which nothing is said of samples
HISTORY = 100  # lines of the log that a model is asked about
CALM = 20  # lines without trouble after which it is told again


@dataclass(frozen=True)
class Look:
    """What samples looked like at one moment.

    Args:
        diversity: how far a sample is from the one most like it, over the same of as many real
            images; medians. None if real images repeat each other.
        score: value of `Watch.column`, None without features for it.
    """

    diversity: float | None
    score: float | None = None


class Watch:
    """Looks at samples and at the log of a training, and says what seems wrong.

    Samples are scored by the first unbiased metric there is, KID, if the data's own features are
    quick ones; else only their diversity is looked at, in pixels.

    Args:
        count: samples of each look, at least 2.
        device: where features are computed.
    """

    def __init__(
        self, registry: Registry, data: ImageData, count: int, device: torch.device
    ) -> None:
        self.count = count
        self.data = data
        self.notes: list[str] = []
        self.column: str | None = None
        self.better = "lower"
        self._extractor: FeatureExtractor | None = None
        self._reference: Reference | None = None
        self._real: float | None = None  # distance between real images most like each other
        self._looks = 0  # that saw low diversity, in a row
        self._calm = CALM  # lines of the log since the model last found something wrong
        for entry in registry.metrics.values():
            for column in entry.spec.columns:
                if self.column is None and column.unbiased and column.ranks and column.better:
                    self.column, self.better, self._metric = column.name, column.better, entry
        features = registry.features.get(data.features)
        if features is None or not features.spec.quick:
            self.column = None
            return
        try:
            with plugin_code(f"feature extractor {data.features!r}"):
                extractor = open_features(registry, data.features, None, data).to(device)
                self._reference, self._extractor = reference_for(data, extractor), extractor
        except GenkitError as error:
            self._stop_scoring(error)

    def look(self, images: Tensor) -> Look:
        """See what samples look like: uint8, (N, C, H, W)."""
        images = images[: self.count]
        if self._extractor and self._reference:
            try:
                with plugin_code("scoring samples while training"):
                    samples = ImageSet(images, self._extractor)
                    return Look(
                        self._diversity(samples.features), self._score(samples, self._reference)
                    )
            except GenkitError as error:
                self._stop_scoring(error)
        return Look(self._diversity(images.flatten(1).float()))

    def _score(self, samples: ImageSet, reference: Reference) -> float | None:
        if self.column is None:
            return None
        found, problems = measure(self._metric, samples, reference)
        if problems:
            raise problems[0]
        return found[self.column].value if self.column in found else None

    def _stop_scoring(self, error: GenkitError) -> None:
        """No scores from now on; `notes` says why."""
        self._extractor = self._real = self.column = None
        self.notes.append(f"samples are not scored while training: {error}")

    def _diversity(self, vectors: Tensor) -> float | None:
        if self._real is None:
            if self._extractor and self._reference:
                real = self._reference.choose(len(vectors)).features
            else:
                images = torch.from_numpy(self.data.train.images)
                real = images[choice(len(images), len(vectors), 0)].flatten(1).float()
            self._real = nearest_distance(real)
        return nearest_distance(vectors) / self._real if self._real else None

    def is_better(self, score: float, best: float | None) -> bool:
        """Whether a score is better than the best so far."""
        if best is None:
            return True
        return score < best if self.better == "lower" else score > best

    def collapse(self, look: Look, spent: float) -> str | None:
        """A warning if samples are nearly alike for the second time running, once for each
        collapse; never at the beginning, `spent` being the share of the budget used."""
        low = look.diversity is not None and look.diversity < LOW and spent >= WARM_UP
        self._looks = self._looks + 1 if low else 0
        if self._looks != 2:
            return None
        return (
            f"samples are nearly alike (mode collapse): the sample most like another one is "
            f"{look.diversity:.0%} as far from it as among real images; try another --seed, lower "
            "learning rates or a larger --batch-size"
        )

    def trouble(self, model: GenerativeModel, history: Mapping[str, Sequence[float]]) -> str | None:
        """What the model itself finds wrong in its log; only once, while it lasts."""
        recent = {name: list(values)[-HISTORY:] for name, values in history.items()}
        try:
            with plugin_code(f"{type(model).__name__}.trouble()"):
                found = model.trouble(recent)
        except PluginError as error:
            found = str(error)
        calm = self._calm
        self._calm = 0 if found else calm + 1
        return found if calm >= CALM else None


def nearest_distance(vectors: Tensor) -> float:
    """Median distance from a vector to the nearest other one: (N, D), N at least 2."""
    distances = torch.cdist(vectors.double(), vectors.double())
    return float(distances.fill_diagonal_(torch.inf).amin(1).median())
