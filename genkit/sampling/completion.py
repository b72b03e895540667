"""What only some models can show: the way from one sample to another, images completed, classes.

All is uint8 and follows from a seed, as samples do; `sampling` makes files of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from genkit.errors import PluginError, UsageError, plugin_code
from genkit.model import GenerativeModel
from genkit.sampling.draw import CHUNK, check_images, chunk_generator, draw, evaluating
from genkit.specs import ImageShape
from genkit.training.stream import derive_seed, to_bytes, to_unit_range

Side = Literal["top", "bottom", "left", "right"]
GREY = 128  # what is hidden looks like


def interpolate(
    model: GenerativeModel, rows: int = 8, steps: int = 9, seed: int = 0
) -> Tensor | None:
    """Ways from one sample to another: uint8, (rows, steps, C, H, W), on the CPU; None for models
    without latents.

    Row j leads from sample 2j of the seed to sample 2j + 1, both included but for a level of
    rounding, along a great circle of their latents. It depends on the model, the seed, `steps` and
    j alone.
    """
    if rows < 1 or steps < 2:
        raise UsageError(f"{rows} rows of {steps} images cannot be drawn; the fewest are 1 of 2")
    name = type(model).__name__
    parts, images = [], []
    with evaluating(model), torch.no_grad():
        for chunk in range(math.ceil(2 * rows / CHUNK)):
            with plugin_code(f"{name}.draw_latents()"):
                part = model.draw_latents(CHUNK, generator=chunk_generator(model, seed, chunk))
            if part is None:
                return None
            if not isinstance(part, Tensor) or part.shape[:1] != (CHUNK,) or part.ndim < 2:
                found = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise PluginError(f"{name}.draw_latents({CHUNK}) returned {found}, not {CHUNK}")
            parts.append(part)
        latents = torch.cat(parts)[: 2 * rows]
        shares = torch.linspace(0, 1, steps, device=latents.device)
        for start, end in latents.view(rows, 2, *latents.shape[1:]):
            with plugin_code(f"{name}.decode_latents()"):
                images.append(model.decode_latents(between(start, end, shares)))
                check_images(model, images[-1], "decode_latents", steps)
    return to_bytes(torch.stack(images)).cpu()


def between(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """Spherical interpolation (White 2016, arXiv 1609.04468, section 2.1) of two latents of one
    shape (...) at shares (S,) of the way, 0 being the start: (S, ...).

    A straight line would pass closer to 0 than nearly all draws of a normal distribution lie.
    Latents that point the same way, or opposite ways, have no one great circle: there it is a
    straight line after all.
    """
    a, b = start.flatten().double(), end.flatten().double()
    cosine = F.cosine_similarity(a, b, dim=0).clamp(-1, 1)
    shares = shares.double()[:, None]  # (S, 1)
    angle = cosine.acos()
    if angle.sin() < 1e-6:
        points = (1 - shares) * a + shares * b
    else:
        points = (((1 - shares) * angle).sin() * a + (shares * angle).sin() * b) / angle.sin()
    return points.to(start.dtype).view(-1, *start.shape)


@torch.no_grad()
def complete(model: GenerativeModel, images: Tensor, known: Tensor, seed: int = 0) -> Tensor | None:
    """Images with the pixels that are not known drawn anew; None for models that cannot do that.

    Completion i depends on the model, the seed, image i, its known pixels and i alone.

    Args:
        images: uint8, (N, C, H, W), of the model's shape.
        known: bool, (N, 1, H, W) or what expands to it.

    Returns: uint8, (N, C, H, W), on the CPU. Known pixels may be rounded to the model's levels.
    """
    shape, count = model.image_shape, len(images)
    if images.shape[1:] != (shape.channels, shape.height, shape.width):
        raise UsageError(f"images to complete are {tuple(images.shape)}, the model's are {shape}")
    known = known.expand(count, 1, shape.height, shape.width)
    left_over = (0, 0, 0, 0, 0, 0, 0, -count % CHUNK)  # whole chunks, as in `draw`
    parts = torch.split(F.pad(to_unit_range(images), left_over), CHUNK)
    masks = torch.split(F.pad(known, left_over, value=True), CHUNK)
    found = []
    with evaluating(model):
        for chunk, (part, mask) in enumerate(zip(parts, masks, strict=True)):
            generator = chunk_generator(model, derive_seed(seed, "complete"), chunk)
            with plugin_code(f"{type(model).__name__}.complete()"):
                part, mask = part.to(model.device), mask.to(model.device)
                answer = model.complete(part, mask, generator=generator)
                if answer is None:
                    return None
                check_images(model, answer, "complete")
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
    """A row for each image: it with its hidden pixels in grey, its completions, itself.

    Args:
        images: uint8, (N, C, H, W).
        known: bool, (1, H, W).
        completions: uint8, (N, count, C, H, W).

    Returns: uint8, (N, count + 2, C, H, W).
    """
    given = torch.where(known, images, GREY)
    return torch.cat([given[:, None], completions, images[:, None]], 1)


def draw_classes(model: GenerativeModel, labels: Sequence[int], n: int, seed: int = 0) -> Tensor:
    """n samples of each class: uint8, (labels, n, C, H, W), on the CPU.

    Image i of a class depends on the model, the seed, the class and i alone; image i of all
    classes comes from the same noise.

    Raises:
        UsageError: the model knows no such class, or its samples do not follow labels.
    """
    name, classes = type(model).__name__, model.image_shape.classes
    if not classes:
        raise UsageError(f"{name} was trained on images without classes; draw without --labels")
    for label in labels:
        if not 0 <= label < classes:
            raise UsageError(f"there is no class {label}; classes are 0 to {classes - 1}")
    if not _follows_labels(model, classes):
        raise UsageError(
            f"{name} is not class-conditional: its samples are the same whatever the label; draw "
            "without --labels"
        )
    return torch.stack([draw(model, n, seed, label=label) for label in labels])


@torch.no_grad()
def _follows_labels(model: GenerativeModel, classes: int) -> bool:
    """Whether other labels give other samples of the same noise."""
    answers = []
    with evaluating(model), plugin_code(f"{type(model).__name__}.sample()"):
        for first in (0, 1):
            labels = (torch.arange(first, first + 4) % classes).to(model.device)
            generator = chunk_generator(model, 0, 0)
            answers.append(model.sample(len(labels), labels, generator=generator))
    return not torch.equal(*answers)
