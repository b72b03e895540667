"""Scores: features and metric specs over samples, the reference they compare with, the card.

What a metric's arithmetic is, plugins know; this module feeds them and keeps their protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

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
