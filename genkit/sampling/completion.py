"""Completions: images of which a part is drawn again, given the rest. They follow from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from genkit.compute.seeds import derive_seed
from genkit.errors import UsageError, plugin_code
from genkit.model import GenerativeModel, to_bytes, to_unit_range
from genkit.sampling.draw import (
    check_images,
    chunk_generator,
    chunk_size,
    evaluating,
    label_chunks,
)
from genkit.sampling.labels import choose_labels
from genkit.specs import ImageShape

Side = Literal["top", "bottom", "left", "right"]
GREY = 128  # of hidden pixels


@torch.no_grad()
def complete(
    model: GenerativeModel,
    images: Tensor,
    known: Tensor,
    seed: int = 0,
    labels: Tensor | Sequence[int] | int | None = None,
) -> Tensor | None:
    """Images with the unknown pixels drawn again; None for models that cannot do that.

    Completion i depends on the model, the seed, image i, its known pixels, its label and i alone.

    Args:
        images: uint8, (N, C, H, W), of the model's shape.
        known: bool, (N, 1, H, W) or what expands to it.
        labels: classes of the images, one for each or one for all; drawn for a conditional model
            if they are not given.

    Returns: uint8, (N, C, H, W), on the CPU. Known pixels may be rounded to the model's levels.
    """
    shape, count = model.image_shape, len(images)
    if images.shape[1:] != (shape.channels, shape.height, shape.width):
        raise UsageError(f"images to complete are {tuple(images.shape)}, the model's are {shape}")
    known = known.expand(count, 1, shape.height, shape.width)
    size = chunk_size(model)
    left_over = (0, 0, 0, 0, 0, 0, 0, -count % size)  # whole chunks, as in `draw`
    parts = torch.split(F.pad(to_unit_range(images), left_over), size)
    masks = torch.split(F.pad(known, left_over, value=True), size)
    found = []
    parts_of = label_chunks(model, choose_labels(model, count, seed, labels), size)
    with evaluating(model):
        for chunk, (part, mask) in enumerate(zip(parts, masks, strict=True)):
            generator = chunk_generator(model, derive_seed(seed, "complete"), chunk)
            with plugin_code(f"{type(model).__name__}.complete()"):
                part, mask = part.to(model.device), mask.to(model.device)
                label = parts_of(chunk)
                given = (part, mask) if label is None else (part, mask, label)
                answer = model.complete(*given, generator=generator)
                if answer is None:
                    return None
                check_images(model, answer, "complete", size)
                found.append(to_bytes(answer).cpu())
    return torch.cat(found)[:count].contiguous()


def known_half(shape: ImageShape, hide: Side = "bottom") -> Tensor:
    """Which pixels are known where one half is hidden: bool, (1, H, W). Of an odd number of rows
    or columns the middle one is hidden."""
    known = torch.zeros(1, shape.height, shape.width, dtype=torch.bool)
    top, left = shape.height // 2, shape.width // 2
    if hide == "bottom":
        known[:, :top] = True
    elif hide == "right":
        known[:, :, :left] = True
    elif hide == "top":
        known[:, shape.height - top :] = True
    else:
        known[:, :, shape.width - left :] = True
    return known


def completion_rows(images: Tensor, known: Tensor, completions: Tensor) -> Tensor:
    """A row for each image: the image with its hidden pixels in grey, completions, the image.

    Args:
        images: uint8, (N, C, H, W).
        known: bool, (1, H, W).
        completions: uint8, (N, count, C, H, W).

    Returns: uint8, (N, count + 2, C, H, W).
    """
    given = torch.where(known, images, GREY)
    return torch.cat([given[:, None], completions, images[:, None]], 1)
