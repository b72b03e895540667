"""The picture of a comparison: a grid of samples of each model, side by side."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from genkit.io.files import write_atomic
from genkit.report.thumbnails import double_small


def join_grids(pictures: list[tuple[str, Path]], path: Path) -> None:
    """Sample grids side by side, each under its model's name, small ones at twice their
    size."""
    grids = []
    for name, source in pictures:
        with Image.open(source) as image:
            grids.append((name, double_small(image.convert("RGB"))))
    margin, title = 12, 36
    width = sum(grid.width + margin for _, grid in grids) + margin
    canvas = Image.new("RGB", (width, max(g.height for _, g in grids) + title + margin), "white")
    pen, left = ImageDraw.Draw(canvas), margin
    for name, grid in grids:
        pen.text((left, 8), name, fill="black", font=ImageFont.load_default(20))
        canvas.paste(grid, (left, title))
        left += grid.width + margin
    buffer = BytesIO()
    canvas.save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())
