"""Scoring: of runs, of files of samples, and of the rows that calibrate every table.

Metric plugins do the arithmetic; this module chooses samples, features and reference, and writes
down the protocol beside the numbers.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit.compute.device import choose_device
from genkit.compute.seeds import derive_seed
from genkit.data import ImageData
from genkit.data.alpha import premultiply
from genkit.errors import PluginError, UsageError, plugin_code
from genkit.evaluation.likelihood import measure_likelihood
from genkit.evaluation.measure import measure
from genkit.evaluation.memorisation import Memorisation
from genkit.evaluation.reference import open_features, reference_for
from genkit.features import FeatureExtractor, ImageSet
from genkit.io.progress import Reporter
from genkit.metrics import Reference, choice
from genkit.registry.catalogue import Registry
from genkit.runs.run import Run
from genkit.sampling import draw as sampling
from genkit.sampling.files import load_samples
from genkit.version import __version__

FEWEST = 10  # samples, and reference images: fewer leave some scores undefined
DEFAULT_SAMPLES = 10_000
SLOW_SECONDS = 30.0  # of a metric, of which its user is told
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
    told: set[str] = field(default_factory=set)  # metrics of whose problem the user was told

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

    def score(self, samples: ImageSet | None) -> dict[str, Any]:
        """All metrics' values for samples, and their standard deviations: "scores" and
        "deviations", by column. A metric that fails leaves its columns out: "problems" says why."""
        row: dict[str, Any] = {"scores": {}, "deviations": {}, "problems": []}
        if samples is None or self.reference is None:
            return row
        for images, of in ((samples, "samples"), (self.reference.train, "reference images")):
            if len(images) < FEWEST:
                raise UsageError(
                    f"{len(images)} {of} are too few for scores: give at least {FEWEST}, and 2,000 "
                    "or more for scores that mean something"
                )
        for name, entry in self.registry.metrics.items():
            self.reporter.update({"fraction": 1.0, "stage": name})
            start = time.monotonic()
            found, problems = measure(entry, samples, self.reference)
            row["problems"] += self._tell(name, problems)
            if (seconds := time.monotonic() - start) > SLOW_SECONDS:
                self.reporter.say(f"metric {name!r} took {seconds:.0f} s")
            for column, estimate in found.items():
                row["scores"][column] = estimate.value
                if estimate.deviation is not None:
                    row["deviations"][column] = estimate.deviation
        return row

    def _tell(self, name: str, problems: list[PluginError]) -> list[str]:
        """Problems in one line each; the user is told the first of each name, once for all rows."""
        if problems and name not in self.told:
            self.told.add(name)
            self.reporter.say(str(problems[0]))
            if problems[0].__cause__ and os.environ.get("GENKIT_TRACEBACK", "") not in ("", "0"):
                self.reporter.say("".join(traceback.format_exception(problems[0].__cause__)))
        return [str(problem) for problem in problems]

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
            weights=f"{summary.get('weights', 'ema')}{', best in training' * run.best}",
            precision="fp32",
            training_precision=run.config.get("precision"),
            trained_on=trained_on.get("name"),
            trained_on_fingerprint=trained_on.get("fingerprint"),
        )
        row = self.evaluate_images(run.config["model"], images, card, panel=run.path)
        likelihood = None
        try:
            with plugin_code(f"the likelihood of {row['name']}"):
                likelihood = self.likelihood(run)
        except PluginError as error:
            row["problems"] += self._tell("likelihood", [error])
        return {
            **row,
            "run": str(run.path),
            "likelihood": likelihood,
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
            **self.score(samples),
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
        return self.evaluate_images("noise", torch.from_numpy(premultiply(images.numpy())))

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


def evaluate(
    targets: list[str], yardstick: Yardstick, load: Callable[[str], Run]
) -> list[dict[str, Any]]:
    """Rows for runs, folders and .npz files of samples, and for the words "real", "copy" and
    "noise".

    A metric that fails leaves its columns empty; PluginError if nothing at all could be scored.
    """
    protocol, shape = yardstick.protocol, yardstick.data.shape
    files: dict[str, Tensor] = {}
    for target in targets:
        path = Path(target)
        if target not in WORDS and not (path / "config.json").exists():
            if not path.exists():
                raise UsageError(f"{target} does not exist; give a run, a folder or an .npz file")
            images = load_samples(yardstick.registry, path, shape)
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
    problems = [problem for row in rows for problem in row.get("problems", ())]
    if problems and not any(row["scores"] or row.get("likelihood") for row in rows):
        raise PluginError(f"nothing could be scored: {problems[0]}")
    return rows


WORDS: Mapping[str, Callable[[Yardstick], dict[str, Any]]] = {
    "real": Yardstick.evaluate_real,
    "copy": Yardstick.evaluate_copy,
    "noise": Yardstick.evaluate_noise,
}
