"""Image files of others: which are trusted, and what is wrong with those that are not.

Pillow opens them; what it raises or warns of for a bad file becomes `BadImage` with a short reason.
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from genkit.errors import UsageError
from genkit.io.files import read_file

# Without this list Pillow tries some forty parsers on any bytes, whatever the file is called.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
NAMES = "PNG, JPEG, WebP, BMP, GIF or TIFF"
MOST_PIXELS = 64_000_000
MOST_BYTES = 2**28  # MOST_PIXELS of four bytes, uncompressed

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

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
TURNED_SIDEWAYS = [UNDO_ORIENTATION[value] for value in (5, 6, 7, 8)]


class BadImage(UsageError):
    """A file is not an image that can be used; `reason` says why, such as "is damaged: ..."."""

    def __init__(self, reason: str, name: str = "the image") -> None:
        super().__init__(f"{name} {reason}")
        self.reason = reason


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


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """A PNG, JPEG, WebP, BMP, GIF or TIFF file's image, not decoded yet.

    Raises:
        BadImage: it is not such an image, is damaged, which may show only when it is used within,
            has more than `MOST_PIXELS` pixels, or is a TIFF of several pages.
    """
    try:
        _check_png(content)
        with _pillow_quiet(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            if image.format == "TIFF":
                _check_pages(image)
            yield image
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"is not a {NAMES} image") from None
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


def _check_pages(image: Image.Image) -> None:
    """Raise BadImage for a TIFF of several pages: which one counts is not known."""
    try:
        image.seek(1)
    except EOFError:
        image.seek(0)
        return
    raise BadImage("has several pages; save the one to be used as a file of its own")


def what_turns_upright(image: Image.Image) -> Image.Transpose | None:
    """What undoes the EXIF orientation; None if there is none, or the metadata are damaged."""
    try:
        return UNDO_ORIENTATION.get(int(image.getexif().get(ORIENTATION_TAG, 1)))
    except ERRORS_OF_DAMAGED_FILES:
        return None
