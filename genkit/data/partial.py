"""What `genkit data prepare` has decoded so far, on disk: pull the plug, and it goes on from there.

Rows of pixels lie in one file, a line on each source file in another. A line counts if it is
whole, fits the folder as it is now, and its row is there, unchanged.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit.data.datasets import fingerprint_header
from genkit.data.prepared import ARRAY, CHUNK_BYTES, npy_header
from genkit.data.walk import ImageFile
from genkit.errors import WriteError
from genkit.io.files import sync_directory
from genkit.io.progress import Reporter

ROWS, ENTRIES = "rows.partial", "entries.partial"


def write_all(file: FileIO, content: bytes | memoryview) -> None:
    """Write all of it; a nearly full disk takes a part before it fails."""
    rest = memoryview(content).cast("B")
    while rest:
        rest = rest[file.write(rest) :]


class Draft:
    """Entries on the first of some files, in their order, and a row of pixels for each that could
    be used.

    Args:
        folder: where it lies; a draft that is there already goes on if its options are the same.
        options: what the rows follow from, beside the files.
        images: the files, sorted by path.
        row_bytes: of one decoded image.

    Raises:
        WriteError: it cannot be begun.
    """

    def __init__(
        self, folder: Path, options: dict[str, Any], images: Sequence[ImageFile], row_bytes: int
    ) -> None:
        self.folder = folder
        self.row_bytes = row_bytes
        self.entries: list[dict[str, Any]] = []
        self.rows = 0
        with ExitStack() as opened:
            try:
                self._entries = opened.enter_context(open(folder / ENTRIES, "a+b", buffering=0))
                self._rows = opened.enter_context(open(folder / ROWS, "a+b", buffering=0))
                self._take_up(_line(options), images)
            except OSError as error:
                raise WriteError(
                    f"{folder} could not be written: {error.strerror or error}"
                ) from None
            self._files = opened.pop_all()  # all went well: they stay open

    def _take_up(self, header: bytes, images: Sequence[ImageFile]) -> None:
        """Read what is there, as far as it is good, and drop the rest."""
        for file in (self._entries, self._rows):
            file.seek(0)
        lines = self._entries.read().splitlines(keepends=True)
        size = 0
        if lines and lines[0] == header:
            size = len(header)
            for line, image in zip(lines[1:], images, strict=False):
                entry = _parse(line)
                if entry is None or not is_of(entry, image) or not self._has_row(entry):
                    break
                self.entries.append(entry)
                self.rows += "crc32" in entry
                size += len(line)
        self._rows.truncate(self.rows * self.row_bytes)
        self._entries.truncate(size)
        if not size:
            write_all(self._entries, header)

    def _has_row(self, entry: dict[str, Any]) -> bool:
        """Whether the next row is the entry's, if it has one."""
        if "crc32" not in entry:
            return True
        row = self._rows.read(self.row_bytes)
        return len(row) == self.row_bytes and zlib.crc32(row) == entry["crc32"]

    def append(self, decoded: Iterable[tuple[dict[str, Any], bytes]]) -> None:
        """Add entries, each with its row, or none if it was left out.

        Raises:
            WriteError: the disk is full, for instance; what was there before stays good.
        """
        pairs = list(decoded)
        try:
            write_all(self._rows, b"".join(row for _, row in pairs))
            os.fsync(self._rows.fileno())  # a line must not outlive its row
            write_all(self._entries, b"".join(_line(entry) for entry, _ in pairs))
        except OSError as error:
            raise WriteError(
                f"{self.folder} could not be written: {error.strerror or error}; "
                f"{len(self.entries):,} files are done, the same command goes on from there"
            ) from None
        self.entries += [entry for entry, _ in pairs]
        self.rows += sum(bool(row) for _, row in pairs)

    def read_rows(self, start: int, count: int) -> NDArray[np.uint8]:
        """Rows of pixels, (count, row_bytes)."""
        self._rows.seek(start * self.row_bytes)
        content = bytearray(count * self.row_bytes)
        self._rows.readinto(content)
        return np.frombuffer(content, np.uint8).reshape(count, self.row_bytes)

    def close(self) -> None:
        self._files.close()

    def remove(self) -> None:
        """Delete it, lines first: rows without lines are nothing."""
        self.close()
        for name in (ENTRIES, ROWS):
            with suppress(OSError):
                (self.folder / name).unlink()


def write_array(
    draft: Draft,
    out: Path,
    shape: tuple[int, int, int, int],
    parts: tuple[NDArray[np.int64], NDArray[np.int64]],
    labels: NDArray[np.int64] | None,
    reporter: Reporter,
) -> tuple[str, str]:
    """Copy the draft's rows, part after part, into the array; its SHA-256, and the fingerprint
    of the data.

    Raises:
        WriteError: the disk is full, for instance; what was there before is there still.
    """
    temporary = out / f".{ARRAY}.tmp"
    digest, fingerprint = hashlib.sha256(), hashlib.sha256()
    count, written = reporter.counter("writing"), 0
    chunk = max(1, CHUNK_BYTES // draft.row_bytes)
    try:
        with open(temporary, "wb", buffering=0) as file:
            header = npy_header(shape)
            write_all(file, header)
            digest.update(header)
            for part in parts:
                part_shape = (len(part), *shape[1:])
                fingerprint.update(fingerprint_header(part_shape, labels is not None))
                chosen = np.zeros(draft.rows, dtype=bool)
                chosen[part] = True
                for start in range(0, draft.rows, chunk):
                    rows = draft.read_rows(start, min(chunk, draft.rows - start))
                    # Of grey images all channels are alike: the first comes first.
                    kept = rows[chosen[start : start + chunk], : np.prod(shape[1:])].tobytes()
                    write_all(file, kept)
                    digest.update(kept)
                    fingerprint.update(kept)
                    written += int(chosen[start : start + chunk].sum())
                    count(written, shape[0])
                if labels is not None:
                    fingerprint.update(labels[part].astype("<i8").tobytes())
            os.fsync(file.fileno())
        os.replace(temporary, out / ARRAY)
        sync_directory(out)
    except OSError as error:
        raise WriteError(
            f"{out / ARRAY} could not be written: {error.strerror or error}; all files are "
            "decoded, the same command goes on from there"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return digest.hexdigest(), fingerprint.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_of(entry: dict[str, Any], image: ImageFile) -> bool:
    """Whether an entry is on this file, unchanged by its size and time."""
    found = (entry.get("path"), entry.get("size_bytes"), entry.get("modified_ns"))
    return found == (str(image.path), image.size_bytes, image.modified_ns)


def _line(content: dict[str, Any]) -> bytes:
    """JSON behind its CRC-32, so that a damaged line is no line."""
    text = json.dumps(content).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> dict[str, Any] | None:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry
