"""Pictures that only some models can give: reconstructions, and those at the end of a training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genkit.compute.seeds import seed_generators
from genkit.data import ImageData
from genkit.errors import PluginError, plugin_code
from genkit.model import GenerativeModel, to_bytes, to_unit_range
from genkit.sampling.completion import complete, completion_rows, known_half
from genkit.sampling.draw import draw_classes, evaluating
from genkit.sampling.latents import interpolate
from genkit.specs import NAME

TAKEN = ("step", "reconstructions", "interpolation", "completion", "classes")
ROWS = 8
COMPLETIONS = 3  # of each image
MOST_CLASSES, OF_A_CLASS = 20, 10  # rows, and images of each


def reconstruct_pairs(model: GenerativeModel, images: Tensor) -> Tensor | None:
    """Each image, followed by what the model makes of it; None for models that do not encode.

    Args:
        images: uint8, (N, C, H, W).

    Returns: uint8, (2 N, C, H, W), on the CPU.
    """
    name = f"{type(model).__name__}.reconstruct()"
    with evaluating(model), torch.no_grad(), plugin_code(name):
        made = model.reconstruct(to_unit_range(images.to(model.device)))
    if made is None:
        return None
    return torch.stack([images, to_bytes(made).cpu()], 1).flatten(0, 1)


def own_pictures(model: GenerativeModel, images: Tensor) -> dict[str, Tensor]:
    """The pictures that a model itself wants to be drawn, by name: uint8, (rows, columns, C, H, W),
    on the CPU.

    Args:
        images: uint8, (N, C, H, W).

    Raises:
        PluginError: a name or a picture cannot be used.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    name = f"{type(model).__name__}.pictures()"
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=devices):
        seed_generators(model.device, 0)
        with plugin_code(name):
            found = dict(model.pictures(to_unit_range(images.to(model.device))))
    for key, rows in found.items():
        if not NAME.fullmatch(key) or key in TAKEN:
            raise PluginError(
                f"{name} names a picture {key!r}: use small letters, digits and hyphens, and "
                f"none of {', '.join(TAKEN)}"
            )
        if not isinstance(rows, Tensor) or rows.ndim != 5 or not 1 <= rows.shape[2] <= 4:
            shape = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise PluginError(f"{name} gave {key!r} as {shape}, not (rows, columns, C, H, W)")
    return {key: to_bytes(rows).cpu() for key, rows in found.items()}


def interpolation(model: GenerativeModel, data: ImageData) -> Tensor | None:
    """Ways from one sample to another: uint8, (rows, columns, C, H, W); None without latents."""
    return interpolate(model, ROWS)


def completion(model: GenerativeModel, data: ImageData) -> Tensor | None:
    """Test images whose lower half is drawn again: uint8, (rows, columns, C, H, W); None for models
    that do not complete images."""
    images = torch.from_numpy(data.test.look(ROWS))
    known = known_half(data.shape)
    found = complete(model, images.repeat_interleave(COMPLETIONS, 0), known)
    if found is None:
        return None
    return completion_rows(images, known, found.view(-1, COMPLETIONS, *images.shape[1:]))


def classes(model: GenerativeModel, data: ImageData) -> Tensor | None:
    """A row of samples for each of the first classes: uint8, (rows, columns, C, H, W); None for
    models that follow no labels."""
    if not model.conditional:
        return None
    return draw_classes(model, range(min(model.image_shape.classes, MOST_CLASSES)), OF_A_CLASS)


FINAL_PICTURES: dict[str, Callable[[GenerativeModel, ImageData], Tensor | None]] = {
    "interpolation": interpolation,
    "completion": completion,
    "classes": classes,
}
