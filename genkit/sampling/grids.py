"""Images beside each other as one PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from genkit.data.alpha import over_checkers, straighten
from genkit.errors import printable
from genkit.io.files import saved, write_atomic

GREY = (96, 96, 96)  # between images
LONGEST_NAME = 16  # letters of a row's name


def make_grid(
    images: Tensor, columns: int | None = None, *, gap: int = 2, names: Sequence[str] = ()
) -> Image.Image:
    """Images, uint8, (n, C, H, W), side by side in rows, nearly square unless `columns` is set;
    `names`, one for each row, stand to their left. Transparent ones lie on a checkerboard."""
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
    grid = Image.fromarray(canvas.squeeze(2) if channels == 1 else canvas)
    return _with_names(grid, names, height + gap) if names else grid


def _with_names(grid: Image.Image, names: Sequence[str], pitch: int) -> Image.Image:
    """A grid with a name left of each of its rows, which are `pitch` pixels apart."""
    font = ImageFont.load_default(size=min(max(pitch * 0.5, 8), 14))
    texts = [
        name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
        for name in map(printable, names)
    ]
    width = math.ceil(max(font.getlength(text) for text in texts)) + 8
    wide = Image.new(grid.mode, (width + grid.width, grid.height), 96 if grid.mode == "L" else GREY)
    wide.paste(grid, (width, 0))
    ink = 255 if grid.mode == "L" else (255, 255, 255)
    for row, text in enumerate(texts):
        middle = (width - 4, row * pitch + pitch // 2)
        ImageDraw.Draw(wide).text(middle, text, fill=ink, font=font, anchor="rm")
    return wide


def make_image(image: Tensor) -> Image.Image:
    """One uint8 image, (C, H, W), as it is: grey, RGB, or with straight transparency."""
    pixels = straighten(image[None].numpy())[0]
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    write_atomic(path, saved(partial(image.save, format="PNG")))
