"""Scores: features and metric specs over samples, the reference they compare with, the card.

What a metric's arithmetic is, plugins know; this module feeds them and keeps their protocol.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from genkit.data import ImageData
from genkit.errors import GenkitError, PluginError
from genkit.progress import Reporter, stage
from genkit.registry import Registry
from genkit.rundir import write_atomic
from genkit.specs import Config, ImageShape


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of a set of feature vectors.

    Args:
        mean: (D,) float32.
        covariance: (D, D) float64, normalised by count - 1.
        count: number of images.
    """

    mean: Tensor
    covariance: Tensor
    count: int


class FeatureExtractor(nn.Module):
    """Base of feature extractors: uint8 images to vectors. Built as `(config)`.

    `identity` is the name with the first eight hex digits of the SHA-256 of the weights: two
    extractors of one identity give the same features. It is a plain string, never a path.
    """

    identity: str

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def check_shape(self, shape: ImageShape) -> None:
        """Raise `UsageError` if images of this shape cannot be scored with these features."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images, (N, C, H, W), to features, (N, D) float32, and class logits, (N, K)."""
        raise NotImplementedError

    def shipped_statistics(self, reference: str) -> Statistics | None:
        """Statistics of the named reference images that come with the extractor, if any."""
        return None


@dataclass(frozen=True)
class Reference:
    """The real images that samples are compared with.

    Args:
        name: for people and for the card, such as "mnist train, 60,000 images".
        count: number of images.
        statistics: of their features under an extractor; computed or looked up when called.
    """

    name: str
    count: int
    statistics: Callable[[FeatureExtractor], Statistics]


def compute_statistics(
    extractor: FeatureExtractor,
    images: Tensor,
    batch_size: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Mean and covariance of the features of images: what a Fréchet distance needs of a set.

    The mean is float32 and the covariance float64, bit for bit as torch-fidelity has them.

    Args:
        images: uint8, (N, C, H, W), N at least 2.
        on_progress: called with (images done, images in all) after each batch.
    """
    extractor.eval()
    features: list[Tensor] = []
    done = 0
    with torch.inference_mode():
        for batch in images.split(batch_size):
            on_device = batch.to(next(extractor.parameters(), batch).device)
            features.append(extractor(on_device)[0].cpu())
            done += len(batch)
            if on_progress is not None:
                on_progress(done, len(images))
    vectors = torch.cat(features).numpy()  # (N, D)
    return Statistics(
        mean=torch.from_numpy(np.mean(vectors, axis=0)),
        covariance=torch.from_numpy(np.cov(vectors, rowvar=False)),
        count=len(images),
    )


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
                    reporter.update(stage("features of the reference", done, total))

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
