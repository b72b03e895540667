"""Prepared folders: the manifest and the array that `genkit data prepare` writes, read and checked.

`images.npy` holds the training images and, behind them, the test images; `manifest.json` says
which file each came from and which were left out. It ends with the SHA-256 of its other lines.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit.data import Split, Splits
from genkit.data.walk import Found, describe_left_out
from genkit.errors import UsageError
from genkit.io.files import parse_json, read_file

ARRAY, MANIFEST = "images.npy", "manifest.json"
FORMAT = 1
FIRST_LINE = b'{"genkit_prepared": '
ENDING = b',\n"checksum": "'
CHUNK_BYTES = 2**22
REMEDY = "prepare it again: genkit data prepare FOLDER --out"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` holds.

    Args:
        options: `size` and `channels`, as they were asked for.
        shape: of the array, (N, C, H, W).
        train_images: how many of its rows are training images; test images follow.
        held_out: genkit chose the test images; else they come from a sub-folder test.
        classes: their names, in the order of the labels.
        labels: a number for each row, or None.
        sha256: of `images.npy`.
        fingerprint: of the data, as in `genkit.data.ImageData`.
        files: for each file that is an image by name, sorted by path, `path`, `size_bytes` and
            `modified_ns`; then either `row`, `sha256` of its content, whether it is `grey` and
            whether it is `deep` (16 bits a channel), or why it was `left_out`.
        passed_over: why other things, such as links, were left out, by path.
        other_files: number of files of each extension that is no image's.
    """

    options: dict[str, Any]
    shape: tuple[int, int, int, int]
    train_images: int
    held_out: bool
    classes: list[str]
    labels: list[int] | None
    sha256: str
    fingerprint: str
    files: list[dict[str, Any]]
    passed_over: dict[str, str]
    other_files: dict[str, int]

    @property
    def left_out(self) -> dict[str, str]:
        """Why files and other things were left out, by path."""
        files = {file["path"]: file["left_out"] for file in self.files if "left_out" in file}
        return files | self.passed_over

    @property
    def notes(self) -> list[str]:
        """What a user should know of the images, as of a folder's."""
        left_out = {Path(path): reason for path, reason in self.left_out.items()}
        deep_count = sum(file.get("deep", False) for file in self.files)
        return describe_left_out(left_out, Counter(self.other_files), deep_count)

    def is_of(self, found: Found) -> bool:
        """Whether a folder still holds what was prepared: the same files, unchanged by their sizes
        and times, and none that could not be read."""
        files = [(file["path"], file["size_bytes"], file["modified_ns"]) for file in self.files]
        passed_over = {str(path): reason for path, reason in found.left_out.items()}
        return (
            files == [(str(path), size, time) for path, size, time in found.images]
            and (passed_over, found.others) == (self.passed_over, Counter(self.other_files))
            and self.held_out != found.has_splits
            and not any(is_passing(file.get("left_out", "")) for file in self.files)
        )

    def to_bytes(self) -> bytes:
        """The file's content; a line for each file, so that people can read it, too."""
        lines = [FIRST_LINE + str(FORMAT).encode()]
        for key, value in vars(self).items():
            if key == "files":
                rows = ",\n".join(json.dumps(file) for file in value)
                lines.append(f'"{key}": [\n{rows}\n]'.encode())
            else:
                lines.append(f'"{key}": {json.dumps(value)}'.encode())
        content = b",\n".join(lines)
        return content + ENDING + hashlib.sha256(content).hexdigest().encode() + b'"}\n'


def is_passing(reason: str) -> bool:
    """Whether a file may be readable the next time, though it stays as it is."""
    return reason.startswith("cannot be read")


def is_manifest(path: Path) -> bool:
    """Whether a file is a manifest of a prepared folder, possibly a damaged one."""
    try:
        with open(path, "rb") as file:
            return file.read(len(FIRST_LINE)) == FIRST_LINE
    except OSError:
        return False


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared folder.

    Raises:
        UsageError: there is none, it was changed, or a later genkit wrote it.
    """
    path = folder / MANIFEST
    try:
        content = read_file(path)
    except OSError as error:
        problem = (
            f"{folder} is no prepared folder ({path.name} {error.strerror or error})"
            if folder.is_dir()
            else f"{folder} is no folder"
        )
        raise UsageError(f"{problem}; {REMEDY} {folder}") from None
    body, _, checksum = content.rpartition(ENDING)
    if not content.startswith(FIRST_LINE):
        raise UsageError(f"{path} is no manifest of a prepared folder; {REMEDY} {folder}")
    if checksum != hashlib.sha256(body).hexdigest().encode() + b'"}\n':
        raise UsageError(f"{path} was changed since genkit wrote it; {REMEDY} {folder}")
    try:
        values = parse_json(body + b"}")
        version = values.pop("genkit_prepared")
        if version != FORMAT:
            raise UsageError(
                f"{path} is of format {version}, this genkit reads {FORMAT}; {REMEDY} {folder}"
            )
        return Manifest(**{**values, "shape": tuple(values["shape"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} cannot be used ({error}); {REMEDY} {folder}") from None


def npy_header(shape: tuple[int, ...]) -> bytes:
    """What stands before uint8 values of that shape in a .npy file (numpy's format 1.0)."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(10 + len(text) + 1) % 64) + "\n"  # so that the values begin at a multiple
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin1")


def open_array(folder: Path, manifest: Manifest) -> NDArray[np.uint8]:
    """The images, (N, C, H, W), left on disk; what is written to them stays in memory.

    Raises:
        UsageError: the file is not there, is longer or shorter, or begins otherwise.
    """
    path, header = folder / ARRAY, npy_header(manifest.shape)
    try:
        with open(path, "rb") as file:
            size, first = file.seek(0, 2), (file.seek(0), file.read(len(header)))[1]
        expected = len(header) + int(np.prod(manifest.shape, dtype=np.int64))
        if size != expected or first != header:
            raise UsageError(
                f"{path} is damaged: it has {size:,} bytes, those of its images are {expected:,}; "
                f"{REMEDY} {folder}"
                if size != expected
                else f"{path} is damaged: it begins otherwise; {REMEDY} {folder}"
            )
        # Copy-on-write: torch wants writable arrays.
        return np.memmap(path, np.uint8, "c", len(header), manifest.shape)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read ({reason}); {REMEDY} {folder}") from None


def read_splits(folder: Path) -> Splits:
    """The prepared images as a data set, on disk; `open_data` checks their fingerprint.

    Raises:
        UsageError: as `read_manifest` and `open_array` do.
    """
    manifest = read_manifest(folder)
    images = open_array(folder, manifest)
    try:
        count, labels = manifest.train_images, None
        if manifest.labels is not None:
            labels = np.array(manifest.labels, dtype=np.int64)
        train, test = (
            Split(images[part], None if labels is None else labels[part])
            for part in (slice(count), slice(count, None))
        )
        classes, notes = tuple(manifest.classes), tuple(manifest.notes)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UsageError(
            f"{folder / MANIFEST} cannot be used ({error}); {REMEDY} {folder}"
        ) from None
    return Splits(train, test, classes, notes, manifest.fingerprint, manifest.held_out)
