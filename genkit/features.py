"""Features of images, computed once for all metrics and kept in the cache for real images.

For authors of extractors it also has the cache, thread and progress functions that an extractor
needs which trains a network. What scores mean is in the metrics; which images are compared,
`genkit.evaluation` decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from genkit.compute.cache import cache_folder, hash_tensors, read_cached, write_cached
from genkit.compute.device import cpu_threads, send
from genkit.data import ImageData
from genkit.data.alpha import has_alpha, over_black, over_white
from genkit.errors import PluginError, plugin_code
from genkit.io.progress import Reporter
from genkit.specs import Config, ImageShape

__all__ = [
    "FeatureExtractor",
    "ImageSet",
    "Reporter",
    "Statistics",
    "cache_folder",
    "cpu_threads",
    "extract",
    "hash_tensors",
    "read_cached",
    "statistics_of",
    "write_cached",
]

BATCH_SIZE = 64  # images at a time: faster on a CPU than more, with small networks


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
    """Base of feature extractors: uint8 images to vectors.

    `identity` is the name with the first eight hex digits of the SHA-256 of the weights: two
    extractors of one identity give the same features. It is a plain string, never a path.
    `classes` is the number of the data's own classes that the logits are of, 0 if they are of
    others; `note` is one line on the extractor for the readers of a score, such as its accuracy.
    `file` holds its weights if it trained them itself: given to `--feature-weights`, the file gives
    the same features on another machine.
    """

    identity: str
    classes: int = 0
    note: str = ""
    file: Path | None = None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def open(cls, config: Config, data: ImageData, reporter: Reporter | None = None) -> Self:
        """The extractor for a data set. One that is not there yet may be trained here."""
        return cls(config)

    @classmethod
    def check(cls, config: Config, data: ImageData) -> None:
        """Raise `UsageError` if the extractor cannot score a data set. Called before hours of
        training, so it takes seconds at most: override it if `open` takes longer."""
        cls.open(config, data).check_shape(data.shape)

    def check_shape(self, shape: ImageShape) -> None:
        """Raise `UsageError` if images of this shape cannot be scored with these features."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8 images, (N, C, H, W), to features, (N, D) float32, and class logits, (N, K)
        float32, or None for a network without classes."""
        raise NotImplementedError

    def shipped_statistics(self, reference: str) -> Statistics | None:
        """Statistics of the named reference images that come with the extractor, if any."""
        return None


def extract(
    extractor: FeatureExtractor,
    images: Tensor,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Features, (N, D), and logits, (N, K) or None, of uint8 images, (N, C, H, W), on the CPU.

    Transparent images are seen on white and on black: their features lie one behind the other,
    (N, 2 D), so that alpha counts and hidden colours do not; the logits are of those on white.

    Args:
        on_progress: called with (images done, images in all) after each batch.

    Raises:
        PluginError: the extractor broke its contract.
    """
    features: list[Tensor] = []
    logits: list[Tensor] = []
    done = 0
    extractor.eval()
    device = next((weights.device for weights in extractor.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        for batch in images.split(BATCH_SIZE):
            views = [batch]
            if has_alpha(batch.shape[1]):
                views = [torch.from_numpy(over(batch.numpy())) for over in (over_white, over_black)]
            seen = [_outputs_of(extractor, send(view, device)) for view in views]
            features.append(torch.cat([vectors for vectors, _ in seen], 1))
            if seen[0][1] is not None:
                logits.append(seen[0][1])
            done += len(batch)
            if on_progress is not None:
                on_progress(done, len(images))
        whole = [torch.cat(parts).cpu() for parts in (features, logits) if parts]
    # Cloned, since tensors of inference mode refuse to be changed in place later.
    return whole[0].clone(), whole[1].clone() if logits else None


def _outputs_of(extractor: FeatureExtractor, batch: Tensor) -> tuple[Tensor, Tensor | None]:
    """What an extractor gives for images, on its device, which is not waited for; PluginError if
    it broke its contract."""
    with plugin_code(f"features {extractor.identity}"):
        features, logits = extractor(batch)
    for layer, values in (("features", features), ("logits", logits)):
        if values is None and layer == "logits":
            continue
        if values.dtype != torch.float32 or values.shape[:-1] != batch.shape[:1]:
            raise PluginError(
                f"{layer} of {extractor.identity} are {values.dtype} "
                f"{tuple(values.shape)}: they must be float32 ({len(batch)}, D)"
            )
    return features, logits


def statistics_of(features: Tensor) -> Statistics:
    """Mean and covariance of features, (N, D), N at least 2: what a Fréchet distance needs.

    The mean is float32 and the covariance float64, bit for bit as torch-fidelity has them.
    """
    vectors = features.numpy()
    return Statistics(
        mean=torch.from_numpy(np.mean(vectors, axis=0)),
        covariance=torch.from_numpy(np.atleast_2d(np.cov(vectors, rowvar=False))),
        count=len(vectors),
    )


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and, once they are asked for, their features under one extractor.

    Args:
        images: uint8, (N, C, H, W).
        name: for progress, such as "mnist train".
        keep: keep the features for the next time under this name, in the user's cache.
        test_places: of a set that was taken from the test split, where each image stands in it.
        labels: int64, (N,): the classes of real images, or those that samples were drawn of; None
            where there are none.
    """

    images: Tensor
    extractor: FeatureExtractor
    name: str = "samples"
    keep: str | None = None
    reporter: Reporter | None = None
    test_places: Tensor | None = None
    labels: Tensor | None = None
    _whole: tuple[ImageSet, Tensor] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def features(self) -> Tensor:
        """(N, D) float32."""
        return self._outputs[0]

    @property
    def logits(self) -> Tensor | None:
        """(N, K) float32, or None for an extractor without classes."""
        return self._outputs[1]

    @property
    def probabilities(self) -> Tensor | None:
        """Softmax of the logits: (N, K) float64, or None."""
        return None if self.logits is None else self.logits.double().softmax(1)

    def take(self, places: Tensor) -> ImageSet:
        """The images at some places, (M,) int64; features come with them, or are computed for
        the whole set when they are needed."""
        return replace(
            self,
            images=self.images[places],
            keep=None,
            test_places=None if self.test_places is None else self.test_places[places],
            labels=None if self.labels is None else self.labels[places],
            _whole=(self, places),
        )

    @cached_property
    def _outputs(self) -> tuple[Tensor, Tensor | None]:
        if self._whole is not None:
            whole, places = self._whole
            logits = whole.logits
            return whole.features[places], None if logits is None else logits[places]
        path = cache_folder("features") / f"{self.keep}.safetensors" if self.keep else None
        kept = read_cached(path) if path else None
        if kept is not None and len(kept.get("features", ())) == len(self):
            return kept["features"], kept.get("logits")
        progress = self.reporter.counter(f"features of {self.name}") if self.reporter else None
        features, logits = extract(self.extractor, self.images, progress)
        if path:
            tensors = {"features": features}
            write_cached(path, tensors if logits is None else {**tensors, "logits": logits})
        return features, logits
