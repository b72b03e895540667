"""Interpolations: images between one sample and another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from genkit.errors import PluginError, UsageError, plugin_code
from genkit.model import GenerativeModel, to_bytes
from genkit.sampling.draw import CHUNK, check_images, chunk_generator, evaluating
from genkit.sampling.labels import choose_labels, draw_labels


def interpolate(
    model: GenerativeModel,
    rows: int = 8,
    steps: int = 9,
    seed: int = 0,
    labels: Tensor | Sequence[int] | int | None = None,
) -> Tensor | None:
    """Ways from one sample to another: uint8, (rows, steps, C, H, W), on the CPU; None for models
    without latents.

    Row j leads from sample 2j of the seed to sample 2j + 1 along a great circle of their latents.
    Both are included, up to a rounding by one level. It depends on the model, the seed, `steps`, j
    and the row's label alone. A conditional model draws a row of one class: of `labels`, one for
    each row or one for all, or of sample 2j; the end is then the latent of sample 2j + 1 in that
    class.
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
        classes = choose_labels(model, rows, seed, labels)
        if labels is None and classes is not None:
            classes = draw_labels(model.image_shape, 2 * rows, seed)[::2]
        for row, (start, end) in enumerate(latents.view(rows, 2, *latents.shape[1:])):
            points = between(start, end, shares)
            label = None if classes is None else classes[row].to(model.device).expand(steps)
            with plugin_code(f"{name}.decode_latents()"):
                images.append(model.decode_latents(points, label))
                check_images(model, images[-1], "decode_latents", steps)
    return to_bytes(torch.stack(images)).cpu()


def between(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """Spherical interpolation (White 2016, arXiv 1609.04468, section 2.1) of two latents of one
    shape (...) at shares (S,) of the way, 0 being the start: (S, ...).

    A straight line would pass closer to 0 than nearly all draws of a normal distribution. For
    latents in the same or in opposite directions the great circle is not unique: there a straight
    line is taken.
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
