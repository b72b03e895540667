"""Differentiable augmentation: what a discriminator sees, changed at random, so that it cannot
learn few images by heart. The same for real images and for samples, through which gradients pass.

(Zhao et al. 2020, Differentiable Augmentation for Data-Efficient GAN Training, arXiv 2006.10738;
mirroring is added here.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SHIFT = 1 / 8  # of a side, at most
HOLE = 1 / 2  # of each side


def augment(images: Tensor, kinds: Sequence[str], share: float | Tensor = 1.0) -> Tensor:
    """Images with some changes, in the order of `AUGMENTATIONS`. Randomness comes from torch's
    global generators.

    Args:
        images: in [-1, 1], float, (N, C, H, W); what comes back may lie beyond.
        kinds: names of `AUGMENTATIONS`.
        share: of the images, to which each kind is applied, independently of the others.

    Raises:
        ValueError: a kind is not known.
    """
    check_kinds(kinds)
    for name, change in AUGMENTATIONS.items():
        if name in kinds:
            changed = change(images)
            if isinstance(share, Tensor) or share < 1:
                chosen = _uniform(images) < share
                changed = torch.where(chosen, changed, images)
            images = changed
    return images


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise ValueError if a kind of augmentation is not known."""
    for kind in kinds:
        if kind not in AUGMENTATIONS:
            raise ValueError(f"{kind!r} is not one of {', '.join(AUGMENTATIONS)}")


def _uniform(images: Tensor) -> Tensor:
    """A number in [0, 1) for each image, (N, 1, 1, 1)."""
    return torch.rand(len(images), 1, 1, 1, device=images.device, dtype=images.dtype)


def _whole(images: Tensor, low: int, high: int) -> Tensor:
    """A whole number from low to high for each image, (N, 1)."""
    return torch.randint(low, high + 1, (len(images), 1), device=images.device)


def _flip(images: Tensor) -> Tensor:
    """Half of the images mirrored, left to right."""
    return torch.where(_uniform(images) < 0.5, images.flip(3), images)


def _colour(images: Tensor) -> Tensor:
    """Another brightness, by up to 0.5 either way, then saturation, 0 to 2 times, and contrast, 0.5
    to 1.5 times. A fourth channel, transparency, stays as it is."""
    seen, rest = images[:, :3], images[:, 3:]
    seen = seen + (_uniform(images) - 0.5)
    if seen.shape[1] == 3:
        grey = seen.mean(1, keepdim=True)
        seen = grey + (seen - grey) * (2 * _uniform(images))
    mean = seen.mean((1, 2, 3), keepdim=True)
    seen = mean + (seen - mean) * (_uniform(images) + 0.5)
    return torch.cat([seen, rest], 1) if rest.shape[1] else seen


def _translation(images: Tensor) -> Tensor:
    """Moved by up to an eighth of each side, by whole pixels; zeros move in."""
    count, _, height, width = images.shape
    down, right = (int(side * SHIFT + 0.5) for side in (height, width))
    padded = F.pad(images, (right, right, down, down)).permute(0, 2, 3, 1)
    rows = torch.arange(height, device=images.device) + down + _whole(images, -down, down)
    columns = torch.arange(width, device=images.device) + right + _whole(images, -right, right)
    each = torch.arange(count, device=images.device)[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(images: Tensor) -> Tensor:
    """With a hole of zeros, half as high and wide as the image, which may lie partly outside."""
    kept = []
    for side in images.shape[2:]:
        length = int(side * HOLE + 0.5)
        start = _whole(images, -(length // 2), side - (length + 1) // 2)
        places = torch.arange(side, device=images.device)
        kept.append((places < start) | (places >= start + length))
    rows, columns = kept  # (N, H) and (N, W)
    return images * (rows[:, None, :, None] | columns[:, None, None, :])


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": _flip,
    "colour": _colour,
    "translation": _translation,
    "cutout": _cutout,
}
