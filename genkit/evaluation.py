"""Scoring: of runs, of files of samples, and of the rows that calibrate every table.

Metric plugins do the arithmetic; this module chooses samples, features and reference, and writes
down the protocol beside the numbers.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit import __version__, sampling
from genkit.data import ImageData
from genkit.device import choose_device
from genkit.errors import GenkitError, PluginError, UsageError
from genkit.features import FeatureExtractor, ImageSet, open_features
from genkit.likelihood import measure_likelihood
from genkit.memorisation import Memorisation
from genkit.metrics import Estimate, Reference, choice, reference_for
from genkit.progress import Reporter
from genkit.registry import Registry
from genkit.runs import Run
from genkit.stream import derive_seed

FEWEST = 10  # samples, and reference images: fewer leave some scores undefined
DEFAULT_SAMPLES = 10_000
QUANTISATION = "uint8, rounded, no resizing"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How samples are scored, whatever they are: number and seed of samples, features, likelihood.

    `samples` None takes all images of a file, and 10,000 of a run.
    """

    samples: int | None = None
    seed: int = 0
    features: str | None = None
    weights: str | None = None
    device: str = "auto"
    likelihood_images: int = 1000
    draws: int = 64


@dataclass(frozen=True)
class Yardstick:
    """One protocol for a whole table, with the data, features and reference it is about."""

    registry: Registry
    data: ImageData
    protocol: Protocol
    extractor: FeatureExtractor | None
    reference: Reference | None
    reporter: Reporter

    @classmethod
    def choose(
        cls,
        registry: Registry,
        data: ImageData,
        protocol: Protocol,
        reporter: Reporter | None = None,
    ) -> Yardstick:
        """The yardstick for a data set, with its own features unless others are named; "none"
        scores by no features at all."""
        reporter = reporter or Reporter()
        name = protocol.features or data.features
        if name == "none":
            return cls(registry, data, protocol, None, None, reporter)
        extractor = open_features(registry, name, protocol.weights, data, reporter)
        extractor = extractor.to(choose_device(protocol.device))
        reference = reference_for(data, extractor, reporter)
        return cls(registry, data, protocol, extractor, reference, reporter)

    @property
    def count(self) -> int:
        """Samples to draw from a run."""
        return self.protocol.samples or DEFAULT_SAMPLES

    def image_set(self, images: Tensor, places: Tensor | None = None) -> ImageSet | None:
        """Images with their features, if there are any."""
        if self.extractor is None:
            return None
        return ImageSet(images, self.extractor, reporter=self.reporter, test_places=places)

    def score(self, samples: ImageSet) -> dict[str, dict[str, float]]:
        """All metrics' values for samples, and their standard deviations: "scores" and
        "deviations", by column."""
        if self.reference is None:
            return {"scores": {}, "deviations": {}}
        for images, of in ((samples, "samples"), (self.reference.train, "reference images")):
            if len(images) < FEWEST:
                raise UsageError(
                    f"{len(images)} {of} are too few for scores: give at least {FEWEST}, and 2,000 "
                    "or more for scores that mean something"
                )
        values: dict[str, float] = {}
        deviations: dict[str, float] = {}
        for name, entry in self.registry.metrics.items():
            spec = entry.spec
            try:
                self.reporter.update({"fraction": 1.0, "stage": name})
                found = spec.load()(spec.config(), samples, self.reference)
                if unknown := sorted(set(found) - {column.name for column in spec.columns}):
                    raise KeyError(f"{unknown[0]} is none of its columns")
                for column, estimate in found.items():
                    if not isinstance(estimate, Estimate):
                        estimate = Estimate(float(estimate))
                    _check_finite(column, estimate)
                    values[column] = float(estimate.value)
                    if estimate.deviation is not None:
                        deviations[column] = float(estimate.deviation)
            except GenkitError:
                raise
            except Exception as error:
                raise PluginError(
                    f"metric {name!r} failed: {type(error).__name__}: {error}"
                ) from error
        return {"scores": values, "deviations": deviations}

    def card(self, **more: Any) -> dict[str, Any]:
        """The protocol behind a score: what has to be equal for two scores to be comparable."""
        versions = ("torch", "torch-fidelity", "numpy")
        metrics = self.registry.metrics if self.extractor else {}
        return {
            "features": self.extractor.identity if self.extractor else None,
            "features_note": self.extractor.note if self.extractor else "",
            "reference": self.reference.name if self.reference else None,
            "reference_images": self.reference.count if self.reference else 0,
            "data": self.data.name,
            "data_fingerprint": self.data.fingerprint,
            "train_images": len(self.data.train.images),
            "test_images": len(self.data.test.images),
            "quantisation": QUANTISATION,
            **more,
            "metrics": {name: entry.spec.definition for name, entry in metrics.items()},
            "versions": {
                "genkit": __version__,
                **{name: importlib.metadata.version(name) for name in versions},
            },
        }

    def evaluate_run(self, run: Run) -> dict[str, Any]:
        """A row for a run: samples drawn and scored, likelihood of test images."""
        made, wanted = run.model.image_shape, self.data.shape
        if str(made) != str(wanted):  # the number of classes does not matter here
            raise UsageError(f"{run.path} makes images of {made}, {self.data.name} has {wanted}")
        seed = self.protocol.seed
        images, rate = sampling.timed_draw(
            run.model, self.count, seed, self.reporter.counter("sampling")
        )
        summary = run.summary
        trained_on = run.config.get("data", {})
        card = self.card(
            samples=len(images),
            sample_seed=seed,
            weights=summary.get("weights", "ema"),
            precision="fp32",
            training_precision=run.config.get("precision"),
            trained_on=trained_on.get("name"),
            trained_on_fingerprint=trained_on.get("fingerprint"),
        )
        row = self.evaluate_images(run.config["model"], images, card, panel=run.path)
        return {
            **row,
            "run": str(run.path),
            "likelihood": self.likelihood(run),
            "parameters": run.config.get("parameters"),
            "images": summary.get("images"),
            "seconds": summary.get("seconds"),
            "train_rate": summary.get("images_per_second"),
            "sample_rate": rate,
        }

    def evaluate_images(
        self,
        name: str,
        images: Tensor,
        card: dict[str, Any] | None = None,
        places: Tensor | None = None,
        panel: Path | None = None,
    ) -> dict[str, Any]:
        """A row for images that are there already, as uint8, (n, C, H, W).

        Args:
            places: where each stands in the test split, for real images.
            panel: a folder to write neighbours.png to: samples above their nearest neighbours.
        """
        samples = self.image_set(images, places)
        found = Memorisation.measure(images, self.data, samples, self.reference, places)
        if panel and found:
            found.save_panel(panel / "neighbours.png")
        return {
            "name": name,
            "run": None,
            **(self.score(samples) if samples else {"scores": {}, "deviations": {}}),
            "memorisation": found.shares if found else None,
            "card": card or self.card(samples=len(images)),
        }

    def evaluate_real(self) -> dict[str, Any]:
        """The floor: what as many real images that no model has seen score, or all there are.
        A small data set has too few for a score; the row then says so."""
        images = torch.from_numpy(self.data.test.images)
        chosen = choice(len(images), self.count, self.protocol.seed)
        try:
            return self.evaluate_images("real", images[chosen], places=chosen)
        except UsageError as error:
            return {"name": "real", "run": None, "scores": {}, "error": str(error)}

    def evaluate_copy(self) -> dict[str, Any]:
        """What a model scores that has learned its training images by heart: a score that likes
        it better than real images cannot see that."""
        images = torch.from_numpy(self.data.train.images)
        generator = torch.Generator().manual_seed(derive_seed(self.protocol.seed, "copy"))
        return self.evaluate_images(
            "copy", images[torch.randint(len(images), (self.count,), generator=generator)]
        )

    def evaluate_noise(self) -> dict[str, Any]:
        """The ceiling: what uniform noise scores."""
        generator = torch.Generator().manual_seed(derive_seed(self.protocol.seed, "noise"))
        shape = (self.count, *self.data.train.images.shape[1:])
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return self.evaluate_images("noise", images)

    def likelihood(self, run: Run) -> dict[str, Any] | None:
        """Log-likelihood of test images, or None for a model without one."""
        images = torch.from_numpy(self.data.test.images)
        return measure_likelihood(
            run.model,
            images[choice(len(images), self.protocol.likelihood_images, 0)],
            draws=self.protocol.draws,
            seed=self.protocol.seed,
            on_progress=self.reporter.counter("likelihood"),
        )


def _check_finite(name: str, estimate: Estimate) -> None:
    for number in (estimate.value, estimate.deviation or 0.0):
        if not math.isfinite(number):
            raise ValueError(f"{name} is {number}")


def evaluate(
    targets: list[str], yardstick: Yardstick, load: Callable[[str], Run]
) -> list[dict[str, Any]]:
    """Rows for runs, folders and .npz files of samples, and for the words "real", "copy" and
    "noise"."""
    protocol, shape = yardstick.protocol, yardstick.data.shape
    files: dict[str, Tensor] = {}
    for target in targets:
        path = Path(target)
        if target not in WORDS and not (path / "config.json").exists():
            if not path.exists():
                raise UsageError(f"{target} does not exist; give a run, a folder or an .npz file")
            images = sampling.load_samples(yardstick.registry, path, shape)
            chosen = choice(len(images), protocol.samples or len(images), protocol.seed)
            files[target] = images[chosen.sort().values]
    if files and protocol.samples is None:
        # Runs and calibration rows are to have as many samples as the first file.
        protocol = replace(protocol, samples=len(next(iter(files.values()))))
        yardstick = replace(yardstick, protocol=protocol)
    rows = []
    for target in targets:
        yardstick.reporter.start(f"scoring {target}")
        if target in WORDS:
            rows.append(WORDS[target](yardstick))
        elif target in files:
            rows.append(yardstick.evaluate_images(target, files[target]))
        else:
            rows.append(yardstick.evaluate_run(load(target)))
    return rows


WORDS: Mapping[str, Callable[[Yardstick], dict[str, Any]]] = {
    "real": Yardstick.evaluate_real,
    "copy": Yardstick.evaluate_copy,
    "noise": Yardstick.evaluate_noise,
}
