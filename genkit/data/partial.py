"""What `genkit data prepare` has decoded so far, in an SQLite database: it survives kills.

A file counts if it was committed, the folder still holds it unchanged, and its pixels are intact.
`write_images` copies the pixels into the array.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from genkit.data.datasets import fingerprint_header
from genkit.data.prepared import PrepareOptions, npy_header
from genkit.data.sources import SourceFile
from genkit.data.walk import ImageFile
from genkit.data.workers import DecodedFile
from genkit.errors import WriteError
from genkit.io.files import sync_directory
from genkit.io.progress import Reporter

PARTIAL_FILE = "decoded.sqlite"
PARTIAL_FILES = (
    *(PARTIAL_FILE, f"{PARTIAL_FILE}-journal"),
    *("entries.partial", "rows.partial"),  # of older versions, which are not read
)
COPIED_BYTES = 2**20  # of pixels at a time, from the database into the array
SOURCE_FILE = TypeAdapter(SourceFile)
# In NORMAL mode a power cut may lose the last commits; what it leaves is checked when it is read.
SCHEMA = """
PRAGMA page_size = 16384;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS options (json TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (
    number INTEGER PRIMARY KEY, json TEXT NOT NULL, pixels BLOB NOT NULL, crc32 INTEGER NOT NULL
);
"""


class PartialResult:
    """The first of some files, in their order, with the pixels of those that could be used.

    Args:
        folder: where it lies; what is there already is continued if its options are the same.
        options: what the pixels follow from, beside the files.
        images: the files, sorted by path.

    Raises:
        WriteError: it cannot be begun.
    """

    def __init__(self, folder: Path, options: PrepareOptions, images: Sequence[ImageFile]) -> None:
        self.folder = folder
        self.files: list[SourceFile] = []
        try:
            try:
                self._open(options, images)
            except sqlite3.OperationalError:
                raise
            except (sqlite3.DatabaseError, ValueError, TypeError, AttributeError):  # damaged
                self.remove()  # begin again
                self._open(options, images)
        except sqlite3.Error as error:
            self.close()
            raise WriteError(f"{folder} could not be written: {error}") from None

    def _open(self, options: PrepareOptions, images: Sequence[ImageFile]) -> None:
        """Read what is there, as far as it is good, and drop the rest."""
        # The folder has a lock of its own, which works on file systems without SQLite's, too.
        uri = f"{(self.folder / PARTIAL_FILE).absolute().as_uri()}?nolock=1"
        self._database = sqlite3.connect(uri, uri=True)
        self._database.executescript(SCHEMA)
        self.files = []
        header = (options.model_dump_json(),)
        if self._database.execute("SELECT json FROM options").fetchall() == [header]:
            found = self._database.execute("SELECT json, pixels, crc32 FROM files ORDER BY number")
            with closing(found):
                for image, (text, pixels, crc32) in zip(images, found, strict=False):
                    file = SOURCE_FILE.validate_python(json.loads(text))
                    if not file.is_of(image) or _checksum(text, pixels) != crc32:
                        break
                    self.files.append(file)
        with self._database:
            self._database.execute("DELETE FROM options")
            self._database.execute("INSERT INTO options VALUES (?)", header)
            self._database.execute("DELETE FROM files WHERE number >= ?", (len(self.files),))

    def append(self, decoded: Iterable[DecodedFile]) -> None:
        """Add files and their pixels.

        Raises:
            WriteError: the disk is full, for instance; what was there before stays good.
        """
        decoded = list(decoded)
        rows = [
            (number, text := json.dumps(file), pixels, _checksum(text, pixels))
            for number, (file, pixels) in enumerate(decoded, len(self.files))
        ]
        try:
            with self._database:
                self._database.executemany("INSERT INTO files VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise WriteError(
                f"{self.folder} could not be written: {error}; "
                f"{len(self.files):,} files are done, the same command continues from there"
            ) from None
        self.files += [file for file, _ in decoded]

    def read_pixels(self, numbers: Sequence[int]) -> list[bytes]:
        """The pixels of some files in ascending order, each the bytes of uint8 (C, H, W)."""
        chosen = ",".join(map(str, numbers))
        query = f"SELECT pixels FROM files WHERE number IN ({chosen}) ORDER BY number"
        return [pixels for (pixels,) in self._database.execute(query)]

    def close(self) -> None:
        with suppress(AttributeError):
            self._database.close()

    def remove(self) -> None:
        """Close and delete it."""
        self.close()
        for name in PARTIAL_FILES:
            with suppress(OSError):
                (self.folder / name).unlink()


def write_images(
    partial: PartialResult,
    path: Path,
    shape: tuple[int, int, int, int],
    kept: Sequence[int],
    numbers: Sequence[int],
    train_images: int,
    labels: NDArray[np.int64] | None,
    reporter: Reporter,
) -> tuple[str, str]:
    """Copy pixels into the array, uint8 of `shape` (N, C, H, W); the SHA-256 of the file, and the
    fingerprint of the data.

    Written as an ordinary file: a full disk is an error there, and a crash in mapped memory.

    Args:
        kept: which of the channels that were decoded.
        numbers: of the files whose pixels are the rows.
        labels: int64, (N,), of the rows.

    Raises:
        WriteError: the disk is full, for instance; what was there before is there still.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    digest, fingerprint = hashlib.sha256(), hashlib.sha256()
    count, written = reporter.counter("writing"), 0
    plane = shape[2] * shape[3]
    batch = max(1, COPIED_BYTES // (plane * shape[1]))
    try:
        with open(temporary, "wb") as file:
            header = npy_header(shape)
            file.write(header)
            digest.update(header)
            for part in (slice(train_images), slice(train_images, None)):
                part_shape = (len(numbers[part]), *shape[1:])
                fingerprint.update(fingerprint_header(part_shape, labels is not None))
                chosen = numbers[part]
                for start in range(0, len(chosen), batch):
                    images = partial.read_pixels(chosen[start : start + batch])
                    pixels = b"".join(
                        image[plane * channel : plane * (channel + 1)]
                        for image in images
                        for channel in kept
                    )
                    file.write(pixels)
                    digest.update(pixels)
                    fingerprint.update(pixels)
                    written += len(images)
                    count(written, shape[0])
                if labels is not None:
                    fingerprint.update(labels[part].astype("<i8").tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise WriteError(
            f"{path} could not be written: {getattr(error, 'strerror', None) or error}; all files "
            "are decoded, the same command continues from there"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return digest.hexdigest(), fingerprint.hexdigest()


def _checksum(text: str, pixels: bytes) -> int:
    return zlib.crc32(pixels, zlib.crc32(text.encode()))
