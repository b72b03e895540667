"""What is wrong with samples: shape, type, range."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from genkit.contracts.contract import Violations
from genkit.data import Split
from genkit.specs import ImageShape

SLACK = 1e-3  # beyond [-1, 1]; it disappears when samples are rounded to bytes
MOSTLY_BLACK = 100  # images with a mean level below this are mostly black
REMEDY = ": draw all noise by torch with generator=generator"
REMEDIES = {"torch": ": give generator=generator to every draw, and turn dropout off in eval()"}


def image_violations(images: Any, n: int, shape: ImageShape, source: str) -> Violations:
    """Why something is not n images, (n, C, H, W) float in [-1, 1], of a shape."""
    sides = (n, shape.channels, shape.height, shape.width)
    if not isinstance(images, Tensor):
        yield f"{source} gave {type(images).__name__}"
    if tuple(images.shape) != sides:
        yield f"{source} gave {tuple(images.shape)}, not {sides}"
    if not images.is_floating_point():
        yield f"{source} gave {images.dtype}"
    if not images.isfinite().all():
        yield f"{source} gave values that are not finite"
    if images.abs().max() > 1 + SLACK:
        yield f"{source} gave values from {images.min():.4g} to {images.max():.4g}"


def unit_range_violations(images: Tensor, split: Split) -> Violations:
    """Why samples, (n, C, H, W), seem to lie in [0, 1]: none is below 0, though the training images
    are mostly black."""
    if split.images.mean() < MOSTLY_BLACK and images.min() >= 0:
        yield f"{len(images)} samples go from {images.min():.4g} to {images.max():.4g}"
