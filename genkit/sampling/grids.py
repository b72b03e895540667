"""Images beside each other as one PNG."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from genkit.data.alpha import over_checkers, straighten
from genkit.io.files import write_atomic


def make_grid(images: Tensor, columns: int | None = None, *, gap: int = 2) -> Image.Image:
    """uint8 images, (n, C, H, W), side by side in rows; nearly square unless `columns` is given.
    Transparent ones lie on a checkerboard."""
    pixels = over_checkers(images.numpy())
    count, channels, height, width = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 96, np.uint8
    )
    for i, image in enumerate(pixels.transpose(0, 2, 3, 1)):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas.squeeze(2) if channels == 1 else canvas)


def make_image(image: Tensor) -> Image.Image:
    """One uint8 image, (C, H, W), as it is: grey, RGB, or with straight transparency."""
    pixels = straighten(image[None].numpy())[0]
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())
