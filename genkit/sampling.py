"""Samples from a trained model: n images from a seed, as bytes; grids and files of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genkit.errors import PluginError, UsageError
from genkit.model import GenerativeModel
from genkit.rundir import write_atomic
from genkit.stream import derive_seed, to_bytes

CHUNK = 64  # images drawn at a time, each chunk with a generator of its own


@torch.no_grad()
def draw(
    model: GenerativeModel,
    n: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw n samples: uint8, (n, C, H, W), on the CPU.

    Image i depends on the model, the seed and i alone, not on n: images are always drawn in whole
    chunks of 64, chunk j with a generator seeded by (seed, j), and what is too many is dropped.
    """
    training = model.training
    model.eval()
    parts = []
    for chunk in range(math.ceil(n / CHUNK)):
        generator = torch.Generator(model.device).manual_seed(derive_seed(seed, "sample", chunk))
        images = model.sample(CHUNK, generator=generator)
        _check(model, images)
        parts.append(to_bytes(images).cpu())
        if on_progress:
            on_progress(min((chunk + 1) * CHUNK, n), n)
    model.train(training)
    return torch.cat(parts)[:n].contiguous()


def _check(model: GenerativeModel, images: Tensor) -> None:
    shape = model.image_shape
    expected = (CHUNK, shape.channels, shape.height, shape.width)
    if tuple(images.shape) != expected:
        raise PluginError(
            f"{type(model).__name__}.sample({CHUNK}) returned shape {tuple(images.shape)}, "
            f"not {expected}"
        )
    if not torch.isfinite(images).all():
        raise PluginError(f"{type(model).__name__}.sample() returned values that are not finite")


def timed_draw(
    model: GenerativeModel,
    n: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, float]:
    """`draw`, and the images per second it reached."""
    start = time.perf_counter()
    images = draw(model, n, seed, on_progress)
    return images, n / (time.perf_counter() - start)


def make_grid(images: Tensor, columns: int | None = None, *, gap: int = 2) -> Image.Image:
    """uint8 images, (n, C, H, W), side by side in rows; nearly square unless `columns` is given."""
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 96, np.uint8
    )
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas.squeeze(2) if channels == 1 else canvas)


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    from io import BytesIO

    buffer = BytesIO()
    image.save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())


def check_output(path: Path) -> None:
    """Raise UsageError if samples cannot go to a path, before any work is done."""
    if path.suffix and path.suffix not in (".png", ".npz"):
        raise UsageError(f"--output {path}: write .png (a grid), .npz, or a folder's name")
    if path.exists() and (path.suffix or not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"--output {path} exists; nothing was overwritten, choose another name")


def save_samples(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write uint8 images as a grid (.png), as "images" in an archive (.npz, NHWC), or as single
    PNG files in a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        save_png(make_grid(images, columns), path)
    elif path.suffix == ".npz":
        np.savez_compressed(path, images=images.permute(0, 2, 3, 1).numpy())
    else:
        path.mkdir(exist_ok=True)
        for i, image in enumerate(images):
            save_png(make_grid(image[None], gap=0), path / f"{i:06d}.png")
