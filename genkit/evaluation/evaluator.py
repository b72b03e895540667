"""Scores of images and of runs: metrics, memorisation, likelihood; and the protocol behind them.

Metric plugins do the arithmetic; which targets are scored is in `genkit.evaluation.targets`.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit.compute.device import choose_device
from genkit.data import ImageData
from genkit.errors import PluginError, UsageError, plugin_code
from genkit.evaluation.by_class import class_scores, label_agreement
from genkit.evaluation.likelihood import measure_likelihood
from genkit.evaluation.measure import measure
from genkit.evaluation.memorisation import Memorisation
from genkit.evaluation.reference import open_features, reference_for
from genkit.features import FeatureExtractor, ImageSet
from genkit.io.machine import is_switched_on
from genkit.io.progress import Reporter
from genkit.io.run_records import ProgressState
from genkit.metrics import Reference, choice
from genkit.registry.catalogue import Registry
from genkit.report.protocol_card import ProtocolCard
from genkit.report.rows import ClassScores, Likelihood, ScoreRow
from genkit.runs.provenance import recorded_versions
from genkit.runs.run import Run
from genkit.sampling.draw import timed_draw
from genkit.sampling.labels import choose_labels, how_drawn
from genkit.version import __version__

FEWEST = 10  # samples, and reference images: fewer leave some scores undefined
DEFAULT_SAMPLES = 10_000
SLOW_SECONDS = 30.0  # of a metric, which is then named
QUANTISATION = "uint8, rounded, no resizing"


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """How samples are scored, whatever they are: number and seed of samples, features, likelihood.

    `samples` None takes all images of a file, and 10,000 of a run. A model that follows labels
    draws them from the classes' shares of its training images, or with `balanced` all in turn;
    `per_class` also scores each class by itself.
    """

    samples: int | None = None
    seed: int = 0
    features: str | None = None
    weights: str | None = None
    device: str = "auto"
    likelihood_images: int = 1000
    draws: int = 64
    balanced: bool = False
    per_class: bool = False


@dataclass(frozen=True)
class Scores:
    """All metrics' values for a set of images and their standard deviations, by column.

    The columns of a metric that failed are left out; `problems` says why.
    """

    values: dict[str, float | None] = field(default_factory=dict)
    deviations: dict[str, float | None] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluator:
    """One protocol for a whole table, with the data, features and reference it is about."""

    registry: Registry
    data: ImageData
    protocol: EvaluationProtocol
    features: str  # name, "none" without an extractor
    extractor: FeatureExtractor | None
    reference: Reference | None
    reporter: Reporter
    reported: set[str] = field(default_factory=set)  # metrics whose first problem was reported

    @classmethod
    def choose(
        cls,
        registry: Registry,
        data: ImageData,
        protocol: EvaluationProtocol,
        reporter: Reporter | None = None,
    ) -> Evaluator:
        """The evaluator for a data set, with its own features unless others are named; "none"
        scores by no features at all."""
        reporter = reporter or Reporter()
        name = protocol.features or data.features
        if name == "none":
            return cls(registry, data, protocol, name, None, None, reporter)
        extractor = open_features(registry, name, protocol.weights, data, reporter)
        extractor = extractor.to(choose_device(protocol.device))
        reference = reference_for(data, extractor, reporter)
        return cls(registry, data, protocol, name, extractor, reference, reporter)

    @property
    def count(self) -> int:
        """Samples to draw from a run."""
        return self.protocol.samples or DEFAULT_SAMPLES

    def image_set(self, images: Tensor, places: Tensor | None = None) -> ImageSet | None:
        """Images with their features, None without an extractor.

        Args:
            images: uint8, (n, C, H, W).
            places: int64, (n,), where each stands in the test split, for real images.
        """
        if self.extractor is None:
            return None
        return ImageSet(images, self.extractor, reporter=self.reporter, test_places=places)

    def score(self, samples: ImageSet | None) -> Scores:
        """All metrics' scores of samples; UsageError if there are too few."""
        if samples is None or self.reference is None:
            return Scores()
        for images, of in ((samples, "samples"), (self.reference.train, "reference images")):
            if len(images) < FEWEST:
                raise UsageError(
                    f"{len(images)} {of} are too few for scores: give at least {FEWEST}, and 2,000 "
                    "or more for scores that mean something"
                )
        values: dict[str, float | None] = {}
        deviations: dict[str, float | None] = {}
        problems: list[str] = []
        for name, entry in self.registry.metrics.items():
            self.reporter.update(ProgressState(fraction=1.0, stage=name))
            start = time.monotonic()
            estimates, errors = measure(entry, samples, self.reference)
            problems += self._report(name, errors)
            if (seconds := time.monotonic() - start) > SLOW_SECONDS:
                self.reporter.say(f"metric {name!r} took {seconds:.0f} s")
            for column, estimate in estimates.items():
                values[column] = estimate.value
                if estimate.deviation is not None:
                    deviations[column] = estimate.deviation
        return Scores(values, deviations, tuple(problems))

    def _report(self, name: str, errors: list[PluginError]) -> list[str]:
        """Problems in one line each; the first of each name is reported, once for all rows."""
        if errors and name not in self.reported:
            self.reported.add(name)
            self.reporter.say(str(errors[0]))
            if errors[0].__cause__ and is_switched_on("GENKIT_TRACEBACK"):
                self.reporter.say("".join(traceback.format_exception(errors[0].__cause__)))
        return [str(error) for error in errors]

    def card(self, samples: int, **of_run: Any) -> ProtocolCard:
        """The protocol behind a score.

        Args:
            samples: number of images scored.
            of_run: the card's fields about the run that drew them.
        """
        specs = [entry.spec for entry in self.registry.metrics.values()] if self.extractor else []
        own = [self.registry.features[self.features].spec] if self.extractor else []
        return ProtocolCard(
            features=self.extractor.identity if self.extractor else None,
            features_note=self.extractor.note if self.extractor else "",
            reference=self.reference.name if self.reference else None,
            reference_images=self.reference.count if self.reference else 0,
            data=self.data.name,
            data_fingerprint=self.data.fingerprint,
            train_images=len(self.data.train.images),
            test_images=len(self.data.test.images),
            quantisation=QUANTISATION,
            samples=samples,
            **of_run,
            metrics={spec.name: spec.definition for spec in specs},
            versions={"genkit": __version__, **recorded_versions([*specs, *own], "torch", "numpy")},
        )

    def evaluate_images(
        self,
        name: str,
        images: Tensor,
        card: ProtocolCard | None = None,
        places: Tensor | None = None,
        panel: Path | None = None,
        labels: Tensor | None = None,
    ) -> ScoreRow:
        """A row for images.

        Args:
            images: uint8, (n, C, H, W).
            places: int64, (n,), where each stands in the test split, for real images.
            panel: a folder to write neighbours.png to: samples above their nearest neighbours.
            labels: int64, (n,), the classes that the images were drawn of.
        """
        samples = self.image_set(images, places)
        found = Memorisation.measure(images, self.data, samples, self.reference, places)
        if panel and found:
            found.save_panel(panel / "neighbours.png")
        scores = self.score(samples)
        by_class: tuple[ClassScores, ...] = ()
        if self.protocol.per_class and samples and labels is not None and self.reference:
            real = torch.from_numpy(self.data.train.labels)
            by_class = class_scores(
                self.registry.metrics.values(),
                samples,
                labels,
                self.reference,
                real,
                self.data.classes,
            )
        more: dict[str, Any] = {"by_class": by_class} if by_class else {}
        if agreement := label_agreement(samples, labels):
            more["agreement"] = agreement
        return ScoreRow(
            **more,
            name=name,
            run=None,
            scores=scores.values,
            deviations=scores.deviations,
            problems=scores.problems,
            memorisation=found.shares if found else None,
            card=card or self.card(len(images)),
        )

    def evaluate_run(self, run: Run) -> ScoreRow:
        """A row for a run: samples drawn and scored, likelihood of test images."""
        made, wanted = run.model.image_shape, self.data.shape
        if replace(made, classes=wanted.classes) != wanted:
            raise UsageError(f"{run.path} makes images of {made}, {self.data.name} has {wanted}")
        seed = self.protocol.seed
        counter, balanced = self.reporter.counter("sampling"), self.protocol.balanced
        follows = run.model.conditional
        labels = choose_labels(
            run.model, self.count, seed, "balanced" if balanced and follows else None
        )
        images, rate = timed_draw(run.model, self.count, seed, counter, labels)
        summary, record = run.summary, run.record
        card = self.card(
            len(images),
            sample_seed=seed,
            **({"sampler": run.sampler} if run.sampler else {}),
            **({"labels": how_drawn(run.model.image_shape, balanced)} if follows else {}),
            weights=f"{summary.weights if summary else 'ema'}{', best in training' * run.best}",
            precision="fp32",
            training_precision=record.precision,
            trained_on=record.data.name,
            trained_on_fingerprint=record.data.fingerprint,
        )
        known = labels if wanted.classes == made.classes else None
        row = self.evaluate_images(run.name, images, card, panel=run.path, labels=known)
        likelihood, problems = None, row.problems
        try:
            with plugin_code(f"the likelihood of {row.name}"):
                likelihood = self.likelihood(run)
        except PluginError as error:
            problems = (*problems, *self._report("likelihood", [error]))
        return row.model_copy(
            update={
                "run": str(run.path),
                "problems": problems,
                "likelihood": likelihood,
                "parameters": record.parameters,
                "images": summary.images if summary else None,
                "seconds": summary.seconds if summary else None,
                "train_rate": summary.images_per_second if summary else None,
                "sample_rate": rate,
            }
        )

    def likelihood(self, run: Run) -> Likelihood | None:
        """Log-likelihood of test images, or None for a model without one."""
        images = torch.from_numpy(self.data.test.images)
        return measure_likelihood(
            run.model,
            images[choice(len(images), self.protocol.likelihood_images, 0)],
            draws=self.protocol.draws,
            seed=self.protocol.seed,
            on_progress=self.reporter.counter("likelihood"),
        )
