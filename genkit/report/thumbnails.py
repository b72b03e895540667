"""Pictures for a page: grids cut to what fits, encoded without loss, as data: URIs. Light."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from genkit.data.image_file import BadImage, opened, read_content

SMALL = 600  # pixels; narrower pictures are shown at twice their size
GAP = 2  # pixels between the images of a grid
SHOWN = 280  # pixels across that a grid has at most where it stands beside others
WORST = 80  # WebP quality of what would be too large without loss


@dataclass(frozen=True)
class Picture:
    """A picture as a page embeds it.

    Args:
        width, height: of the picture itself, in pixels.
        across, down: at which size it is shown: a whole multiple, or a corner of it.
        columns, rows: images in it, 0 if that is not known.
    """

    source: str
    width: int
    height: int
    across: int
    down: int
    columns: int = 0
    rows: int = 0

    @property
    def size(self) -> int:
        """Bytes that it adds to a page."""
        return len(self.source)


Tile = tuple[int, int] | None


def embed(
    path: Path,
    tile: Tile = None,
    *,
    most_bytes: int = 150_000,
    across: int = SHOWN,
    most_images: int | None = None,
    square: bool = False,
) -> Picture:
    """An image file as a data: URI.

    Args:
        tile: (width, height) of the images in it, if it is a grid.
        most_bytes: of the encoded picture. A grid with more loses rows, and columns if `square`;
            what is still too large is encoded with loss.
        across: pixels across to show it at; of a square grid that is wider, a corner is shown.
        most_images: a side, of a square grid.

    Raises:
        OSError: the file is not an image that can be read, or is a huge one.
    """
    image = _open(path)
    columns = rows = 0
    if tile:
        width, height = tile[0] + GAP, tile[1] + GAP
        columns, rows = (image.width - GAP) // width, (image.height - GAP) // height
        if columns * width + GAP != image.width or rows * height + GAP != image.height:
            columns = rows = 0  # not a grid of such images

    def cut(columns: int, rows: int) -> Image.Image:
        return image.crop((0, 0, columns * width + GAP, rows * height + GAP))

    if columns and most_images:
        columns, rows = min(columns, most_images), min(rows, most_images)
        image = cut(columns, rows)
    data, kind = _encode(image)
    while len(data) > most_bytes and max(rows, columns * square) > 2:
        share = most_bytes / len(data)
        if square:
            share = math.sqrt(share)
            columns = max(min(math.floor(columns * share), columns - 1), 1)
        rows = max(min(math.floor(rows * share), rows - 1), 1)
        image = cut(columns, rows)
        data, kind = _encode(image)
    if len(data) > most_bytes:
        data, kind = _save(image, "WEBP", quality=WORST, method=1), "webp"
    zoom = max(across // image.width, 1)
    shown_width, shown_height = zoom * image.width, zoom * image.height
    if square and columns and shown_width > across:
        side = _fitting(columns, lambda count: count * width + GAP, across)
        shown_width, shown_height = side * width + GAP, min(side, rows) * height + GAP
    text = base64.b64encode(data).decode()
    source = f"data:image/{kind};base64,{text}"
    return Picture(source, *image.size, shown_width, shown_height, columns, rows)


def double_small(image: Image.Image) -> Image.Image:
    """The image, at twice its size if it is less than 600 pixels wide."""
    if image.width >= SMALL:
        return image
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST)


def _open(path: Path) -> Image.Image:
    """An image file's pixels, grey or RGB; OSError whatever is wrong with the file."""
    try:
        with opened(read_content(path)) as image:
            return image.convert("L" if image.mode in ("L", "1") else "RGB")
    except BadImage as error:
        raise OSError(error.reason) from error


def _fitting(most: int, width: Callable[[int], int], room: int) -> int:
    return max((count for count in range(1, most + 1) if width(count) <= room), default=1)


def _encode(image: Image.Image) -> tuple[bytes, str]:
    """The image as lossless WebP or PNG, whichever is smaller, and which it is."""
    webp = _save(image, "WEBP", lossless=True, method=1)
    if image.width * image.height > 20_000:  # PNG wins for the smallest pictures only
        return webp, "webp"
    png = _save(image, "PNG", compress_level=9)
    return (png, "png") if len(png) < len(webp) else (webp, "webp")


def _save(image: Image.Image, kind: str, **options: int | bool) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()
