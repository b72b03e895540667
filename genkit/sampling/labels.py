"""Labels of samples: as asked for, or drawn from the shares of the training images, or balanced."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genkit.compute.seeds import derive_seed
from genkit.errors import UsageError
from genkit.model import GenerativeModel, check_labels
from genkit.specs import ImageShape

BLOCK = 64  # labels drawn at a time, each block with a generator of its own


def draw_labels(shape: ImageShape, n: int, seed: int, *, balanced: bool = False) -> Tensor:
    """Labels of n samples: int64, (n,), on the CPU. Label i follows from the seed and i alone.

    They are drawn from the classes' shares of the training images, or uniformly where these are
    not known. With `balanced`, label i is i modulo the number of classes, whatever the seed.
    """
    if balanced:
        return torch.arange(n) % shape.classes
    shares = shape.class_shares or [1 / shape.classes] * shape.classes
    ends = torch.tensor(shares, dtype=torch.float64).cumsum(0)
    parts = []
    for block in range(-(-n // BLOCK)):
        generator = torch.Generator().manual_seed(derive_seed(seed, "labels", block))
        uniforms = torch.rand(BLOCK, dtype=torch.float64, generator=generator)
        parts.append(torch.searchsorted(ends, uniforms * ends[-1], right=True))
    return torch.cat(parts)[:n].clamp(max=shape.classes - 1)


def how_drawn(shape: ImageShape, balanced: bool) -> str:
    """How `draw_labels` draws, for a protocol card."""
    if balanced:
        return "balanced: all classes in turn"
    return "from the training shares" if shape.class_shares else "uniformly"


def choose_labels(
    model: GenerativeModel,
    n: int,
    seed: int,
    labels: Tensor | Sequence[int] | int | str | None = None,
) -> Tensor | None:
    """What n samples of a model are drawn of: int64, (n,), on the CPU; None for a model that does
    not follow labels.

    Args:
        labels: one for all, one for each, "balanced", or None for `draw_labels`.

    Raises:
        UsageError: labels are no whole numbers of classes, too few or too many; or the model was
            trained on images without classes.
    """
    name, shape = type(model).__name__, model.image_shape
    balanced = isinstance(labels, str) and labels == "balanced"
    if labels is None or balanced:
        if balanced and not model.conditional:
            raise UsageError(f"{name} does not follow labels, so they cannot be balanced")
        return draw_labels(shape, n, seed, balanced=balanced) if model.conditional else None
    if not shape.classes:
        raise UsageError(f"{name} was trained on images without classes; draw without labels")
    try:
        found = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, NotImplementedError):  # of names, of rows, on the device meta
        raise UsageError(f"labels must be numbers of classes, not {labels!r:.80}") from None
    if found.ndim == 0:
        found = found.expand(n)
    check_labels(found, n, shape.classes)
    return found.to(torch.int64)
