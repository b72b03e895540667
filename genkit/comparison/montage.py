"""Pictures made of pictures: sample grids side by side."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from genkit.io.files import write_atomic


def join_grids(pictures: list[tuple[str, Path]], path: Path) -> None:
    """Sample grids side by side, each under its model's name, at twice their size."""
    grids = []
    for name, source in pictures:
        with Image.open(source) as image:
            size = (2 * image.width, 2 * image.height) if image.width < 600 else image.size
            grids.append((name, image.convert("RGB").resize(size, Image.Resampling.NEAREST)))
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
