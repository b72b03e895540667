"""The picture of a comparison: a grid of samples of each model, side by side."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from genkit.io.files import write_atomic
from genkit.report.thumbnails import double_small

IN_A_ROW, MARGIN, TITLE = 4, 12, 36  # pictures; pixels


def join_grids(pictures: list[tuple[str, Path]], path: Path) -> None:
    """Sample grids side by side, at most four in a row, each under its model's name, small ones at
    twice their size."""
    grids = []
    for name, source in pictures:
        with Image.open(source) as image:
            grids.append((name, double_small(image.convert("RGB"))))
    rows = [grids[start : start + IN_A_ROW] for start in range(0, len(grids), IN_A_ROW)]
    heights = [max(grid.height for _, grid in row) + TITLE + MARGIN for row in rows]
    width = max(sum(grid.width + MARGIN for _, grid in row) for row in rows) + MARGIN
    canvas = Image.new("RGB", (width, sum(heights)), "white")
    pen, top = ImageDraw.Draw(canvas), 0
    for row, height in zip(rows, heights, strict=True):
        left = MARGIN
        for name, grid in row:
            pen.text((left, top + 8), name, fill="black", font=ImageFont.load_default(20))
            canvas.paste(grid, (left, top + TITLE))
            left += grid.width + MARGIN
        top += height
    buffer = BytesIO()
    canvas.save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())
