"""Images beside each other as one PNG."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from genkit.io.files import saved, write_atomic


def make_grid(images: Tensor, columns: int | None = None, *, gap: int = 2) -> Image.Image:
    """Images, uint8, (n, C, H, W), side by side in rows, nearly square unless `columns` is set."""
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
    write_atomic(path, saved(partial(image.save, format="PNG")))
