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

from genkit.errors import UsageError
from genkit.io.files import read_file

# Without this list Pillow tries some forty parsers on any bytes, whatever the file is called.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MOST_PIXELS = 64_000_000
MOST_BYTES = 2**28  # MOST_PIXELS of four bytes, uncompressed

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
BAND_ROWS = 256
EIGHT_BITS = np.rint(np.arange(65536) / 257).astype(np.uint8)  # of each value of 16 bits

# What Pillow's parsers raise for damaged files.
ERRORS_OF_DAMAGED_FILES = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError),
    *(AssertionError, AttributeError, RuntimeError, MemoryError, struct.error, zlib.error),
)

# The EXIF tag, and what undoes each of its values.
ORIENTATION_TAG = 0x0112
UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(UsageError):
    """A file is not an image that can be used; `reason` says why, such as "is damaged: ..."."""

    def __init__(self, reason: str, name: str = "the image") -> None:
        super().__init__(f"{name} {reason}")
        self.reason = reason


def read_image(path: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """The centre square of an image file, upright and scaled.

    Args:
        path: of a PNG, JPEG, WebP or BMP file.
        size: pixels a side of the square.
        channels: 1 for grey, 3 for colour.

    Returns:
        uint8, (channels, size, size), 0 to 255.

    Raises:
        BadImage: the file cannot be used; the message begins with its path, and `reason` says why.
    """
    try:
        return decode_image(read_content(path), size, channels)[0]
    except BadImage as error:
        raise BadImage(error.reason, str(path)) from None


def read_content(path: Path) -> bytes:
    """The content of a file, which may have become anything since it was found.

    Raises:
        BadImage: it cannot be read, is not a regular file, or has more than `MOST_BYTES` bytes.
    """
    try:
        return read_file(path, MOST_BYTES)
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"
        raise BadImage(f"cannot be read ({reason})", str(path)) from None


def decode_image(content: bytes, size: int, channels: int) -> tuple[NDArray[np.uint8], bool]:
    """The centre square of the image, upright and scaled, and whether it had 16 bits a channel.

    Of an animation, the first frame. Scaled by Lanczos's filter; transparency lies on white.

    Args:
        content: a PNG, JPEG, WebP or BMP file.
        size: pixels a side of the square.
        channels: 1 or 3.

    Returns:
        uint8, (channels, size, size), 0 to 255.

    Raises:
        BadImage: as `opened` does.
    """
    with opened(content) as image:
        # A JPEG can be decoded at a fraction of its size, several times faster.
        image.draft(None, (2 * size, 2 * size))
        deep = image.mode.startswith("I")
        turn = UNDO_ORIENTATION.get(_orientation(image))
        square = ImageOps.fit(_flatten(image), (size, size), Image.Resampling.LANCZOS)
    if turn is not None:
        square = square.transpose(turn)
    pixels = np.asarray(square.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(size, size, channels).transpose(2, 0, 1), deep  # (H, W, C) -> (C, H, W)


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """A PNG, JPEG, WebP or BMP file's image, not decoded yet.

    Raises:
        BadImage: it is not such an image, is damaged, which may show only when it is used within,
            or has more than `MOST_PIXELS` pixels.
    """
    try:
        _check_png(content)
        with _pillow_quiet(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except UnidentifiedImageError:
        raise BadImage("is not a PNG, JPEG, WebP or BMP image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"has more than {MOST_PIXELS:,} pixels") from None
    except ERRORS_OF_DAMAGED_FILES as error:
        raise BadImage(f"is damaged: {error or type(error).__name__}") from None


@contextlib.contextmanager
def _pillow_quiet() -> Iterator[None]:
    """Within this, a suspiciously large image raises, and Pillow is silent about metadata."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _check_png(content: bytes) -> None:
    """Compare the checksums of a PNG's critical chunks: Pillow accepts changed pixels.

    Raises:
        ValueError: a checksum is wrong. Pillow reports files that are cut off.
    """
    place = len(PNG_SIGNATURE) if content.startswith(PNG_SIGNATURE) else len(content)
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
    """The image in mode L or RGB, 8 bits a channel, laid over white if it is transparent."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255
        values = np.asarray(image)
        return Image.fromarray(
            EIGHT_BITS[values if values.itemsize == 2 else values.clip(0, 65535)]
        )
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


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, if the metadata are damaged."""
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except ERRORS_OF_DAMAGED_FILES:
        return 1
