"""Scoring: of runs, of files of samples, and of the two rows that calibrate every table.

Metric plugins do the arithmetic; this module chooses samples, features and reference, and writes
down the protocol beside the numbers.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit import __version__, sampling
from genkit.config import RunConfig, validate
from genkit.data import ImageData
from genkit.device import choose_device, seed_generators
from genkit.errors import GenkitError, PluginError, UsageError
from genkit.metrics import FeatureExtractor, Reference, open_features, reference_for
from genkit.model import GenerativeModel
from genkit.progress import Reporter, stage
from genkit.registry import Registry
from genkit.rundir import RunDir
from genkit.runs import Run, load_data, read_values
from genkit.stream import derive_seed, to_unit_range

LIKELIHOOD_IMAGES = 1000  # of the test split
LIKELIHOOD_BATCH = 100
GRID_IMAGES = 64


@dataclass(frozen=True)
class Yardstick:
    """One protocol for a whole table: data, features, reference, number and seed of samples."""

    registry: Registry
    data: ImageData
    extractor: FeatureExtractor | None
    reference: Reference | None
    samples: int
    seed: int

    @classmethod
    def choose(
        cls,
        registry: Registry,
        data: ImageData,
        *,
        samples: int,
        seed: int = 0,
        features: str | None = None,
        weights: str | None = None,
        device: str = "auto",
        reporter: Reporter | None = None,
    ) -> Yardstick:
        """The protocol for a data set, with its own features unless others are named; "none"
        scores by no features at all."""
        if features == "none":
            return cls(registry, data, None, None, samples, seed)
        extractor = open_features(registry, features or data.features, weights, data.shape)
        extractor = extractor.to(choose_device(device))
        reference = reference_for(data, extractor, reporter)
        return cls(registry, data, extractor, reference, samples, seed)

    def score(self, images: Tensor) -> dict[str, float]:
        """All metrics' values for samples as uint8, (n, C, H, W)."""
        values: dict[str, float] = {}
        if self.extractor is None or self.reference is None:
            return values
        for name, entry in self.registry.metrics.items():
            spec = entry.spec
            try:
                found = spec.load()(spec.config(), images, self.reference, self.extractor)
                for column in spec.columns:
                    values[column.name] = float(found[column.name])
                    if not math.isfinite(values[column.name]):
                        raise ValueError(f"{column.name} is {values[column.name]}")
            except GenkitError:
                raise
            except Exception as error:
                raise PluginError(
                    f"metric {name!r} failed: {type(error).__name__}: {error}"
                ) from error
        return values

    def card(self, **more: Any) -> dict[str, Any]:
        """The protocol behind a score: what has to be equal for two scores to be comparable."""
        versions = ("torch", "torch-fidelity", "numpy")
        return {
            "features": self.extractor.identity if self.extractor else None,
            "reference": self.reference.name if self.reference else None,
            "reference_images": self.reference.count if self.reference else 0,
            "data": self.data.name,
            "data_fingerprint": self.data.fingerprint,
            "quantisation": "uint8, rounded, no resizing",
            **more,
            "versions": {
                "genkit": __version__,
                **{name: importlib.metadata.version(name) for name in versions},
            },
        }

    def evaluate_run(self, run: Run, reporter: Reporter | None = None) -> dict[str, Any]:
        """A row for a run: samples drawn and scored, likelihood of test images."""
        made, wanted = run.model.image_shape, self.data.shape
        if str(made) != str(wanted):  # the number of classes does not matter here
            raise UsageError(f"{run.path} makes images of {made}, {self.data.name} has {wanted}")

        def progress(done: int, total: int) -> None:
            if reporter:
                reporter.update(stage("sampling", done, total))

        images, rate = sampling.timed_draw(run.model, self.samples, self.seed, progress)
        summary = run.summary
        return {
            "name": run.config["model"],
            "run": str(run.path),
            "scores": self.score(images),
            "likelihood": self.likelihood(run.model),
            "parameters": run.config.get("parameters"),
            "images": summary.get("images"),
            "seconds": summary.get("seconds"),
            "train_rate": summary.get("images_per_second"),
            "sample_rate": rate,
            "card": self.card(
                samples=self.samples,
                sample_seed=self.seed,
                weights=summary.get("weights", "ema"),
                precision="fp32",
            ),
        }

    def evaluate_images(self, name: str, images: Tensor) -> dict[str, Any]:
        """A row for images that are there already, as uint8, (n, C, H, W)."""
        card = self.card(samples=len(images))
        return {"name": name, "run": None, "scores": self.score(images), "card": card}

    def evaluate_real(self) -> dict[str, Any]:
        """The floor: what as many real images that no model has seen score, or all there are.
        A small data set has too few for a score; the row then says so."""
        images = torch.from_numpy(self.data.test.images)
        try:
            chosen = _choice(len(images), self.samples, self.seed)
            return self.evaluate_images("real", images[chosen])
        except UsageError as error:
            return {"name": "real", "run": None, "scores": {}, "error": str(error)}

    def evaluate_noise(self) -> dict[str, Any]:
        """The ceiling: what uniform noise scores."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "noise"))
        shape = (self.samples, *self.data.train.images.shape[1:])
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return self.evaluate_images("noise", images)

    @torch.no_grad()
    def likelihood(self, model: GenerativeModel) -> dict[str, Any] | None:
        """Mean log-likelihood of up to 1,000 test images, or None for a model without one."""
        images = torch.from_numpy(self.data.test.images)
        images = images[_choice(len(images), LIKELIHOOD_IMAGES, 0)]
        nats: list[Tensor] = []
        with torch.random.fork_rng(devices=[]):
            seed_generators(model.device, derive_seed(self.seed, "likelihood"))  # the VAE's z
            for batch in images.split(LIKELIHOOD_BATCH):
                found = model.log_likelihood(to_unit_range(batch.to(model.device)))
                if found is None:
                    return None
                if found.nats.shape != batch.shape[:1] or not torch.isfinite(found.nats).all():
                    raise PluginError(
                        f"{type(model).__name__}.log_likelihood() must return a finite number for "
                        f"each of {len(batch)} images, got {tuple(found.nats.shape)}, "
                        f"{int(torch.isfinite(found.nats).sum())} of them finite"
                    )
                nats.append(found.nats.double().cpu())
                kind, of = found.kind, found.of
        mean = torch.cat(nats).mean().item()
        return {
            "nats": mean,
            "bits_per_dimension": -mean / math.log(2) / self.data.shape.dimensions,
            "kind": kind,
            "of": of,
            "images": len(images),
        }


def evaluate(
    targets: list[str],
    yardstick: Yardstick,
    load: Callable[[str], Run],
    reporter: Reporter | None = None,
) -> list[dict[str, Any]]:
    """Rows for runs, folders and .npz files of samples, and for the words "real" and "noise"."""
    reporter = reporter or Reporter()
    rows = []
    for target in targets:
        reporter.start(f"scoring {target}")
        if target == "real":
            rows.append(yardstick.evaluate_real())
        elif target == "noise":
            rows.append(yardstick.evaluate_noise())
        elif (Path(target) / "config.json").exists():
            rows.append(yardstick.evaluate_run(load(target), reporter))
        elif Path(target).exists():
            shape = yardstick.data.shape
            images = sampling.load_samples(yardstick.registry, Path(target), shape)
            rows.append(yardstick.evaluate_images(target, images))
        else:
            raise UsageError(f"{target} does not exist; give a run, a folder or an .npz file")
    return rows


def choose_data(target: str, chosen: Mapping[str, Any]) -> RunConfig:
    """The data options to score a target by: those chosen, beside the ones a run was trained on.
    Another data set than the run's takes none of the recorded one's options."""
    directory = RunDir(Path(target))
    if not directory.config_path.is_file():
        return validate(RunConfig, chosen)
    recorded = directory.config()["run"]
    if "data" in chosen:
        recorded = {**recorded, "data_option": ()}
    config: RunConfig = read_values(RunConfig, {**recorded, **chosen}, directory)
    return config


def inspect_data(
    registry: Registry,
    chosen: Mapping[str, Any],
    features: str | None,
    weights: str | None,
    device: str,
    grid: Path | None,
) -> dict[str, Any]:
    """What a comparison has to know before it starts: UsageError if data or features fail it.

    Writes test images to `grid`, if given.
    """
    data = load_data(registry, validate(RunConfig, chosen))
    yardstick = Yardstick.choose(
        registry, data, samples=0, features=features, weights=weights, device="cpu"
    )
    if grid:
        images = torch.from_numpy(data.test.images[:GRID_IMAGES])
        sampling.save_png(sampling.make_grid(images), grid)
    return {
        "device": choose_device(device).type,
        "shape": str(data.shape),
        "train_images": len(data.train.images),
        "features": yardstick.extractor.identity if yardstick.extractor else None,
        "features_name": features or data.features,
        "notes": list(data.notes),
    }


def _choice(count: int, wanted: int, seed: int) -> Tensor:
    """Which of `count` images to take: a seeded choice, since head slices of data sets differ."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "choice"))
    return torch.randperm(count, generator=generator)[:wanted]
