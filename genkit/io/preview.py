"""Samples on a terminal: two pixels a character, one in each half of it. Imports no torch.

Colours become those that the terminal has; where it has none, pixels are black or white.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

MOST_ACROSS, ROWS = 8, 2  # images
READABLE = 14  # pixels across; rather than smaller images, fewer are shown
FEWEST_LINES = 4
HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


class Preview:
    """Some of the images, as large as the width and half the height of a terminal allow.

    Args:
        images: uint8, (n, C, H, W), C 1 or 3; the first 16 at most are shown.
    """

    def __init__(self, images: np.ndarray) -> None:
        self.images = images[: MOST_ACROSS * ROWS]
        self._drawn: dict[tuple[int, int, bool], list[list[Segment]]] = {}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        colours = console.color_system is not None and not console.no_color
        key = (options.max_width, max(console.height // 2, FEWEST_LINES), colours)
        if key not in self._drawn:
            self._drawn = {key: self._draw(*key)}
        for line in self._drawn[key]:
            yield from line
            yield Segment.line()

    def _draw(self, width: int, lines: int, colours: bool) -> list[list[Segment]]:
        count, _, tall, wide = self.images.shape
        across = min(MOST_ACROSS, count, max(1, (width + 1) // (min(READABLE, wide) + 1)))
        columns = min((width + 1) // across - 1, wide)  # characters of an image
        rows = ROWS if count >= 2 * across and 2 * _halves(tall, wide, columns) < lines else 1
        if rows == 1:  # one row may be as tall as there is room
            columns = min(columns, max(1, 2 * lines * wide // tall))
        if columns < 1:
            return []
        drawn: list[list[Segment]] = []
        for row in range(rows):
            images = [self._scaled(i, columns) for i in range(row * across, (row + 1) * across)]
            if row:
                drawn.append([])  # a line between rows
            draw = _coloured if colours else _dithered
            parts = [draw(pixels) for pixels in images]
            for line in zip(*parts, strict=True):
                drawn.append([s for part in line for s in (*part, Segment(" "))][:-1])
        return drawn

    def _scaled(self, place: int, columns: int) -> Image.Image:
        """An image as RGB, that many pixels wide; its height is even."""
        pixels = self.images[place].transpose(1, 2, 0)  # (H, W, C)
        _, tall, wide = self.images.shape[1:]
        image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (tall, wide, 3))))
        return image.resize((columns, 2 * _halves(tall, wide, columns)), Image.Resampling.BOX)


def _halves(tall: int, wide: int, columns: int) -> int:
    """Lines of text of an image of that many columns."""
    return max(1, round(tall * columns / wide / 2))


def _style(upper: tuple[int, int, int], lower: tuple[int, int, int]) -> Style:
    return Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower))


def _coloured(image: Image.Image) -> list[list[Segment]]:
    """Upper pixels in the colour of the text, lower ones in that of the background; equal
    neighbours are one segment."""
    pixels = np.asarray(image).tolist()
    lines = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        pairs = [(tuple(a), tuple(b)) for a, b in zip(upper, lower, strict=True)]
        lines.append([Segment("▀" * len([*same]), _style(*pair)) for pair, same in groupby(pairs)])
    return lines


def _dithered(image: Image.Image) -> list[list[Segment]]:
    """Black and white by Floyd and Steinberg's diffusion of errors."""
    pixels = np.asarray(image.convert("1")).tolist()
    return [
        [Segment("".join(HALVES[pair] for pair in zip(upper, lower, strict=True)))]
        for upper, lower in zip(pixels[::2], pixels[1::2], strict=True)
    ]
