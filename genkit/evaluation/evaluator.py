"""Scores of images and of runs: metrics, memorisation, likelihood; and the protocol behind them.

Metric plugins do the arithmetic; which targets are scored is in `genkit.evaluation.targets`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from genkit.compute.device import choose_device
from genkit.data import ImageData
from genkit.errors import PluginError, UsageError, WriteError, plugin_code
from genkit.evaluation.by_class import class_scores, label_agreement
from genkit.evaluation.levels import count_levels, round_to_levels, rounded_data
from genkit.evaluation.likelihood import measure_versions
from genkit.evaluation.measure import Scores, measure_all, report
from genkit.evaluation.memorisation import Memorisation
from genkit.evaluation.protocol import Drawn, EvaluationProtocol
from genkit.evaluation.reference import open_features, reference_for
from genkit.features import FeatureExtractor, ImageSet
from genkit.io.progress import Reporter
from genkit.metrics import Reference, choice
from genkit.registry.catalogue import Registry
from genkit.report.protocol_card import ProtocolCard
from genkit.report.rows import ClassScores, Likelihood, ScoreRow, rounded_name
from genkit.runs.provenance import recorded_versions
from genkit.runs.run import Run
from genkit.sampling.draw import timed_draw
from genkit.sampling.labels import choose_labels, how_drawn
from genkit.version import __version__

FEWEST = 10  # samples, and reference images: fewer leave some scores undefined
DEFAULT_SAMPLES = 10_000
OWN_SAMPLES = 100  # of a model, whose likelihood it is asked for
QUANTISATION = "uint8, rounded, no resizing"


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
    rounded: dict[int, Reference] = field(default_factory=dict)  # reference, by levels

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

    def image_set(
        self, images: Tensor, places: Tensor | None = None, labels: Tensor | None = None
    ) -> ImageSet | None:
        """Images with their features, None without an extractor.

        Args:
            images: uint8, (n, C, H, W).
            places: int64, (n,), where each stands in the test split, for real images.
            labels: int64, (n,), of which each was drawn.
        """
        if self.extractor is None:
            return None
        more = {"reporter": self.reporter, "test_places": places, "labels": labels}
        return ImageSet(images, self.extractor, **more)  # type: ignore[arg-type]

    def score(self, samples: ImageSet | None, run: Run | None = None) -> Scores:
        """All metrics' scores of samples; UsageError if there are too few."""
        if samples is None or self.reference is None:
            return Scores()
        for images, of in ((samples, "samples"), (self.reference.train, "reference images")):
            if len(images) < FEWEST:
                raise UsageError(
                    f"{len(images)} {of} are too few for scores: give at least {FEWEST}, and 2,000 "
                    "or more for scores that mean something"
                )
        measured = (self.registry.metrics, samples, self.reference)
        return measure_all(*measured, self.reporter, self.reported, run)

    def score_at(self, images: Tensor, levels: int) -> Scores:
        """The scores that rank, of images, uint8, (n, C, H, W), and of a reference both rounded to
        so many levels."""
        if self.extractor is None:
            return Scores()
        if levels not in self.rounded:
            data = rounded_data(self.data, levels)
            self.rounded[levels] = reference_for(data, self.extractor, self.reporter)
        ranking = {
            name: entry
            for name, entry in self.registry.metrics.items()
            if any(column.ranks for column in entry.spec.columns)
        }
        samples = ImageSet(round_to_levels(images, levels), self.extractor, reporter=self.reporter)
        measured = (ranking, samples, self.rounded[levels])
        found = measure_all(*measured, self.reporter, self.reported)
        return Scores(
            {rounded_name(name, levels): value for name, value in found.values.items()},
            {rounded_name(name, levels): value for name, value in found.deviations.items()},
            found.problems,
        )

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
        run: Run | None = None,
        labels: Tensor | None = None,
    ) -> ScoreRow:
        """A row for images.

        Args:
            images: uint8, (n, C, H, W).
            places: int64, (n,), where each stands in the test split, for real images.
            run: that drew them; it gets neighbours.png, samples above their nearest neighbours.
            labels: int64, (n,), the classes that the images were drawn of.
        """
        samples = self.image_set(images, places, labels)
        found = Memorisation.measure(images, self.data, samples, self.reference, places)
        if run and found:
            try:
                found.save_panel(run.path / "neighbours.png")
            except WriteError as error:
                self.reporter.say(f"Warning: {error}")
        scores = self.score(samples, run)
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
            card=(card or self.card(len(images))).model_copy(
                update={"levels": count_levels(images)}
            ),
        )

    def at_levels(self, row: ScoreRow, images: Tensor, levels: int) -> ScoreRow:
        """The row with the scores of its images, uint8, (n, C, H, W), at so many levels."""
        if row.error:
            return row
        found = self.score_at(images, levels)
        return row.model_copy(
            update={
                "scores": {**row.scores, **found.values},
                "deviations": {**row.deviations, **found.deviations},
                "problems": (*row.problems, *found.problems),
            }
        )

    def draw(self, run: Run, first: int | None = None) -> Drawn:
        """The samples of a run that are scored, or the first few of them."""
        made, wanted = run.model.image_shape, self.data.shape
        if replace(made, classes=wanted.classes) != wanted:
            raise UsageError(f"{run.path} makes images of {made}, {self.data.name} has {wanted}")
        seed, counter = self.protocol.seed, self.reporter.counter("sampling")
        how = "balanced" if self.protocol.balanced and run.model.conditional else None
        labels = choose_labels(run.model, self.count, seed, how)
        count = min(first or self.count, self.count)
        labels = None if labels is None else labels[:count]
        images, rate = timed_draw(run.model, count, seed, counter, labels)
        return Drawn(images, labels, rate)

    def evaluate_run(
        self, run: Run, drawn: Drawn | None = None, likelihood: bool = True
    ) -> ScoreRow:
        """A row for a run: samples, drawn here unless they are given, scored; and, unless that is
        not wanted, the likelihood of test images."""
        drawn = drawn or self.draw(run)
        images, rate, seed = drawn.images, drawn.rate, self.protocol.seed
        balanced, follows = self.protocol.balanced, run.model.conditional
        summary, record = run.summary, run.record
        card = self.card(
            len(images),
            sample_seed=seed,
            **({"sampler": run.sampler} if run.sampler else {}),
            **({"labels": how_drawn(run.model.image_shape, balanced)} if follows else {}),
            weights=f"{summary.weights if summary else 'ema'}{', best in training' * run.best}",
            precision="fp32",
            training_precision=record.precision,
            **({"budget": record.run["budget"]} if "budget" in record.run else {}),
            trained_on=record.data.name,
            trained_on_fingerprint=record.data.fingerprint,
            **({"augmentation": found} if (found := record.data.augmentation) else {}),
        )
        known = drawn.labels if self.data.shape.classes == run.model.image_shape.classes else None
        row = self.evaluate_images(run.name, images, card, run=run, labels=known)
        if likelihood:
            row = self.with_likelihood(row, run, images)
        return row.model_copy(
            update={
                "run": str(run.path),
                "parameters": record.parameters,
                "images": summary.images if summary else None,
                "seconds": summary.seconds if summary else None,
                "train_rate": summary.images_per_second if summary else None,
                "sample_rate": rate,
            }
        )

    def with_likelihood(self, row: ScoreRow, run: Run, samples: Tensor) -> ScoreRow:
        """The row of a run with its likelihood of test images, and of its samples, uint8,
        (n, C, H, W), or why there is none; without one for other options of the sampler, with which
        it is the same."""
        likelihoods, problems = tuple[Likelihood, ...](), row.problems
        try:
            with plugin_code(f"the likelihood of {row.name}"):
                likelihoods = () if run.sampler else self.likelihoods(run, samples)
        except PluginError as error:
            problems = (*problems, *report("likelihood", [error], self.reporter, self.reported))
        found = {"likelihood": next(iter(likelihoods), None), "likelihoods": likelihoods}
        return row.model_copy(update={**found, "problems": problems})

    def likelihoods(self, run: Run, samples: Tensor) -> tuple[Likelihood, ...]:
        """Log-likelihood of each version of the test images that the model can judge, the finest
        first, and beside it that of its own samples; empty for a model without a likelihood.

        Args:
            samples: of the model, uint8, (n, C, H, W).
        """
        images = torch.from_numpy(self.data.test.images)
        return measure_versions(
            run.model,
            images[choice(len(images), self.protocol.likelihood_images, 0)],
            samples[:OWN_SAMPLES],
            draws=self.protocol.draws,
            seed=self.protocol.seed,
            on_progress=self.reporter.counter("likelihood"),
        )
