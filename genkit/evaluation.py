"""Scoring: of runs, of files of samples, and of the two rows that calibrate every table.

Metric plugins do the arithmetic; this module chooses samples, features and reference, and writes
down the protocol beside the numbers.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from genkit import __version__, sampling
from genkit.data import ImageData
from genkit.device import choose_device, seed_generators
from genkit.errors import GenkitError, PluginError, UsageError
from genkit.metrics import FeatureExtractor, Reference, Statistics, compute_statistics
from genkit.model import GenerativeModel
from genkit.progress import Reporter
from genkit.registry import Registry
from genkit.rundir import write_atomic
from genkit.runs import Run
from genkit.specs import ImageShape
from genkit.stream import derive_seed, to_unit_range

LIKELIHOOD_IMAGES = 1000  # of the test split
LIKELIHOOD_BATCH = 100


def open_features(
    registry: Registry, name: str, weights: str | None, shape: ImageShape
) -> FeatureExtractor:
    """The feature extractor of that name; UsageError if it cannot take images of the shape."""
    spec = registry.features.find(name)
    values = {"weights": weights} if weights and "weights" in spec.config.model_fields else {}
    extractor = spec.load()(spec.config(**values))
    if not isinstance(extractor, FeatureExtractor):
        raise PluginError(f"{spec.target} made a {type(extractor).__name__}, no FeatureExtractor")
    extractor.check_shape(shape)
    return extractor.eval()


def reference_for(
    data: ImageData, extractor: FeatureExtractor, reporter: Reporter | None = None
) -> Reference:
    """What samples of a data set are compared with: the images that the extractor ships
    statistics of, if they are this data set's reference; else its training split."""
    shipped = extractor.shipped_statistics(data.reference) if data.reference else None
    if shipped is not None:
        return Reference(str(data.reference), shipped.count, lambda _: shipped)
    images = torch.from_numpy(data.train.images)
    name = f"{data.name} train"

    def statistics(extractor: FeatureExtractor) -> Statistics:
        path = _cache_folder() / f"{extractor.identity}-{data.fingerprint[:32]}.safetensors"
        cached = _read_statistics(path)
        if cached is None:

            def progress(done: int, total: int) -> None:
                if reporter:
                    reporter.update(_state("features of the reference", done, total))

            cached = compute_statistics(extractor, images, on_progress=progress)
            _write_statistics(path, cached)
        return cached

    return Reference(name, len(images), statistics)


def _cache_folder() -> Path:
    root = os.environ.get("GENKIT_CACHE") or Path.home() / ".cache" / "genkit"
    return Path(root) / "references"


def _read_statistics(path: Path) -> Statistics | None:
    """Statistics out of the cache; None if they are not there, damaged or cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            recorded = file.metadata()
            count = int(recorded["count"])
            found = Statistics(file.get_tensor("mean"), file.get_tensor("covariance"), count)
        return found if _digest(found) == recorded["sha256"] else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _digest(statistics: Statistics) -> str:
    """SHA-256 of the numbers: safetensors reads a file with a flipped bit without a word."""
    arrays = (statistics.mean.numpy(), statistics.covariance.numpy())
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def _write_statistics(path: Path, statistics: Statistics) -> None:
    """Keep statistics for the next time; a cache that cannot be written is only slower."""
    tensors = {"mean": statistics.mean, "covariance": statistics.covariance}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"count": str(statistics.count), "sha256": _digest(statistics)}
        write_atomic(path, save(tensors, metadata))
    except (OSError, GenkitError):
        pass


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
                reporter.update(_state("sampling", done, total))

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


def _choice(count: int, wanted: int, seed: int) -> Tensor:
    """Which of `count` images to take: a seeded choice, since head slices of data sets differ."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "choice"))
    return torch.randperm(count, generator=generator)[:wanted]


def _state(what: str, done: int, total: int) -> dict[str, Any]:
    return {"fraction": done / total, "stage": what, "step": done, "images": done}
