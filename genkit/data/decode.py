"""One image file to one small uint8 array: which files are trusted, how modes become grey or RGB.

Pillow decodes; what it raises or warns of for a bad file becomes `BadImage` with a short reason.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from genkit.data.alpha import has_alpha
from genkit.errors import UsageError
from genkit.io.files import read_file

# Without this list Pillow tries some forty parsers on any bytes, whatever the file is called.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MOST_PIXELS = 64_000_000
MOST_BYTES = 2**28  # MOST_PIXELS of four bytes, uncompressed

PNG = b"\x89PNG\r\n\x1a\n"
BAND_ROWS = 256
LEVELS = np.rint(np.arange(65536) / 257).astype(np.uint8)  # of 16 bits in 8

# What Pillow's parsers raise for damaged files.
DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError),
    *(AssertionError, AttributeError, RuntimeError, MemoryError, struct.error, zlib.error),
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


class BadImage(UsageError):
    """A file is no image that can be used; `reason` says why, in words to follow its name."""

    def __init__(self, reason: str, name: str = "the image") -> None:
        super().__init__(f"{name} {reason}")
        self.reason = reason


def read_image(path: Path, size: int, channels: int) -> tuple[NDArray[np.uint8], bool]:
    """The file's image as `decode_image` gives it.

    Raises:
        BadImage: as `read_content` and `decode_image` do; its message begins with the path.
    """
    try:
        return decode_image(read_content(path), size, channels)
    except BadImage as error:
        raise BadImage(error.reason, str(path)) from None


def read_content(path: Path) -> bytes:
    """The content of a file, which may have become anything since it was found.

    Raises:
        BadImage: it cannot be read, is no regular file, or has more than `MOST_BYTES` bytes.
    """
    try:
        return read_file(path, MOST_BYTES)
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"
        raise BadImage(f"cannot be read ({reason})", str(path)) from None


def decode_image(content: bytes, size: int, channels: int) -> tuple[NDArray[np.uint8], bool]:
    """The centre square of the image, upright and scaled, and whether it had 16 bits a channel.

    Of an animation, the first frame. Scaled by Lanczos's filter. Without a channel for alpha,
    transparency lies on white; with one, colours are premultiplied before they are scaled.

    Args:
        content: a PNG, JPEG, WebP or BMP file.
        size: pixels a side of the square.
        channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha).

    Returns:
        uint8, (channels, size, size).

    Raises:
        BadImage: as `opened` does.
    """
    with opened(content) as image:
        # A JPEG can be decoded at a fraction of its size, several times faster.
        image.draft(None, (2 * size, 2 * size))
        deep = image.mode.startswith("I")
        turn = UPRIGHT.get(_orientation(image))
        flat = _premultiply(image) if has_alpha(channels) else _flatten(image)
        square = ImageOps.fit(flat, (size, size), Image.Resampling.LANCZOS)
    if turn is not None:
        square = square.transpose(turn)
    if has_alpha(channels):
        *colours, alpha = square.split()
        shown = Image.merge("RGB", colours).convert("L" if channels == 2 else "RGB")
        levels = [np.asarray(band) for band in shown.split()]
        # Lanczos's filter overshoots, in each channel by itself.
        levels = [np.minimum(level, np.asarray(alpha)) for level in levels]
        pixels = np.stack([*levels, np.asarray(alpha)], axis=2)
    else:
        pixels = np.asarray(square.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(size, size, channels).transpose(2, 0, 1), deep  # (H, W, C) -> (C, H, W)


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """A PNG, JPEG, WebP or BMP file's image, not decoded yet.

    Raises:
        BadImage: it is no such image, is damaged, which may show only when it is used within, or
            has more than `MOST_PIXELS` pixels.
    """
    try:
        _check_png(content)
        with _pillow_quiet(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except UnidentifiedImageError:
        raise BadImage("is no PNG, JPEG, WebP or BMP image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"has more than {MOST_PIXELS:,} pixels") from None
    except DAMAGED as error:
        raise BadImage(f"is damaged: {error or type(error).__name__}") from None


@contextlib.contextmanager
def _pillow_quiet() -> Iterator[None]:
    """Within this, a suspiciously large image raises, and Pillow is silent about metadata."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _check_png(content: bytes) -> None:
    """Compare the checksums of a PNG's critical chunks: Pillow takes changed pixels as they are.

    Raises:
        ValueError: one is another. What is cut off is left to Pillow.
    """
    place = len(PNG) if content.startswith(PNG) else len(content)
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 8 + length
        if kind[:1].isupper() and end + 4 <= len(content):
            (expected,) = struct.unpack_from(">I", content, end)
            if zlib.crc32(memoryview(content)[place + 4 : end]) != expected:
                raise ValueError(f"wrong checksum of chunk {kind.decode('latin1')}")
        if kind == b"IEND":
            return
        place = end + 4


def _flatten(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB, 8 bits a channel, without transparency."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255
        values = np.asarray(image)
        return Image.fromarray(LEVELS[values if values.itemsize == 2 else values.clip(0, 65535)])
    if image.has_transparency_data:
        # White, as on a page: drawings tend to have dark outlines, which black would swallow.
        page = Image.new("RGB", image.size, "white")
        for top in range(0, image.height, BAND_ROWS):  # all at once would take twice the memory
            box = (0, top, image.width, min(top + BAND_ROWS, image.height))
            band = image.crop(box).convert("RGBA")
            white = Image.new("RGBA", band.size, "white")
            white.alpha_composite(band)
            page.paste(white.convert("RGB"), box)
        return page
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _premultiply(image: Image.Image) -> Image.Image:
    """The image in mode RGBa, whose colours were multiplied by their alpha."""
    if image.mode.startswith("I"):
        image = _flatten(image)
    page = Image.new("RGBa", image.size)
    for top in range(0, image.height, BAND_ROWS):
        box = (0, top, image.width, min(top + BAND_ROWS, image.height))
        page.paste(image.crop(box).convert("RGBA").convert("RGBa"), box)
    return page


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, if the metadata are damaged."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except DAMAGED:
        return 1
