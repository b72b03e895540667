"""One image file to one small uint8 array: which files are trusted, how modes become grey or RGB.

Pillow decodes; what it raises or warns of for a bad file becomes `BadImage` with a short reason.
"""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# Without this list Pillow tries some forty parsers on any bytes, whatever the file is called.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MOST_PIXELS = 64_000_000

BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# What Pillow's parsers raise for damaged files.
DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError),
    *(struct.error, zlib.error),
)

# The EXIF tag and what undoes each of its values.
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(Exception):
    """The file is no image that can be used; the message is the reason."""


@contextlib.contextmanager
def pillow_warnings() -> Iterator[None]:
    """Within this, a suspiciously large image raises, and Pillow is silent about metadata."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_image(path: Path, size: int, channels: int) -> tuple[NDArray[np.uint8], bool]:
    """The centre square of the image, upright and scaled, and whether it had 16 bits a channel.

    Of an animation, the first frame. Must run within `pillow_warnings()`.

    Args:
        path: a regular file.
        size: pixels a side of the square.
        channels: 1 or 3.

    Returns:
        uint8, (channels, size, size).

    Raises:
        BadImage: it is no image, is damaged, or has more than `MOST_PIXELS` pixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise BadImage(f"has more than {MOST_PIXELS:,} pixels")
            # A JPEG can be decoded at a fraction of its size, several times faster.
            image.draft(None, (2 * size, 2 * size))
            deep = image.mode.startswith("I")
            square = ImageOps.fit(_flatten(image), (size, size), Image.Resampling.LANCZOS)
            turn = UPRIGHT.get(_orientation(image))
    except UnidentifiedImageError:
        raise BadImage("is no PNG, JPEG, WebP or BMP image") from None
    except BOMB:
        raise BadImage(f"has more than {MOST_PIXELS:,} pixels") from None
    except DAMAGED as error:
        raise BadImage(f"is damaged: {error}") from None
    if turn is not None:
        square = square.transpose(turn)
    pixels = np.asarray(square.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(size, size, channels).transpose(2, 0, 1), deep  # (H, W, C) -> (C, H, W)


def _flatten(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB, 8 bits a channel, without transparency."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255
        values = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        # White, as on a page: drawings tend to have dark outlines, which black would swallow.
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image.convert("RGBA"))
        return page.convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, if the metadata are damaged."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except DAMAGED:
        return 1
