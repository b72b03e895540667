"""Prepared folders: the manifest and the array that `genkit data prepare` writes, read and checked.

`images.npy` holds the training images and, behind them, the test images; `manifest.json` says what
they are and which files were left out. It ends with the SHA-256 of its other lines. `files.jsonl`
says which file each image came from; it is read only when the folder is prepared again.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from genkit.config.validation import explain
from genkit.data.frame import DECODED_CHANNELS, Channels, Fit, Frame, Resample, read_size
from genkit.data.sources import REMEDY, SourceFile
from genkit.data.splits import Split, Splits
from genkit.data.walk import FULL_WINDOW, FolderListing, Seen, describe_left_out
from genkit.errors import UsageError
from genkit.io.files import parse_json, read_file
from genkit.io.records import Record

IMAGES_FILE, MANIFEST_FILE = "images.npy", "manifest.json"
FORMAT = 2
FIRST_LINE = b'{"genkit_prepared": '
CHECKSUM_LINE = b',\n"checksum": "'

Positive = Annotated[int, Field(gt=0)]
FromList = Field(strict=False)  # JSON has lists, not tuples


class PrepareOptions(Record):
    """What was asked for.

    Args:
        size: pixels a side, or "WIDTHxHEIGHT".
        channels: "auto" for as few as show all that the images have.
        window: values of 16-bit images that become 0 and 255.
        splits: "none" if all sub-folders are classes.
        fit, resample: as in `genkit.data.frame.Frame`.
    """

    size: Positive | str
    channels: Channels
    window: str = FULL_WINDOW
    splits: Literal["auto", "none"] = "auto"
    fit: Fit = "crop"
    resample: Resample = "smooth"

    @property
    def frame(self) -> Frame:
        """How files are decoded, which shows whether fewer channels will do."""
        height, width = read_size(self.size)
        channels = DECODED_CHANNELS[self.channels]
        return Frame(height, width, channels, self.fit, self.resample, self.window)


class Manifest(Record):
    """What `manifest.json` holds.

    Args:
        options: what was asked for.
        shape: of the array, (N, C, H, W).
        train_images: how many of its rows are training images; test images follow.
        held_out: genkit chose the test images; else they come from a sub-folder test.
        classes: their names, in the order of the labels.
        labels: a number for each row, or None.
        sha256: of `images.npy`.
        fingerprint: of the data, as in `genkit.data.ImageData`.
        files_sha256: of `files.jsonl`.
        seen: how many images of special kinds there are.
        left_out: why files and other things, such as links, were left out, by path.
        other_files: number of files of each extension that is not an image's.
        renamed_splits: sub-folders of the splits, if they are not simply train and test.
    """

    options: PrepareOptions
    shape: Annotated[tuple[Positive, Positive, Positive, Positive], FromList]
    train_images: Positive
    held_out: bool
    classes: Annotated[tuple[str, ...], FromList]
    labels: Annotated[tuple[int, ...], FromList] | None
    sha256: str
    fingerprint: str
    files_sha256: str
    seen: Seen
    left_out: dict[str, str]
    other_files: dict[str, int]
    renamed_splits: dict[str, str] = Field({})

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        count = self.shape[0]
        if self.train_images >= count:
            raise ValueError(f"train_images is {self.train_images}, of {count} images")
        if self.labels is not None and len(self.labels) != count:
            raise ValueError(f"there are {len(self.labels)} labels for {count} images")
        return self

    @property
    def notes(self) -> list[str]:
        """What a user should know of the images, in the same words as for a folder."""
        left_out = {Path(path): reason for path, reason in self.left_out.items()}
        return describe_left_out(
            left_out,
            Counter(self.other_files),
            self.seen,
            self.options.window,
            self.renamed_splits,
        )

    def is_of(self, listing: FolderListing, files: Sequence[SourceFile]) -> bool:
        """Whether a folder still holds what was prepared: the same files, unchanged by their sizes
        and times, and none that could not be read."""
        unusable = {file.path: file.left_out for file in files if file.left_out is not None}
        passed_over = {str(path): reason for path, reason in listing.left_out.items()}
        return (
            len(files) == len(listing.images)
            and all(map(SourceFile.is_of, files, listing.images))
            and (passed_over | unusable, listing.others) == (self.left_out, self.other_files)
            and self.held_out != bool(listing.splits)
            and self.renamed_splits == listing.renamed_splits
            and not any(file.is_worth_another_try() for file in files)
        )

    def to_bytes(self) -> bytes:
        """The file's content, a line for each fact, so that people can read it, too."""
        lines = [FIRST_LINE + str(FORMAT).encode()]
        for key, value in self:
            known = value.model_dump(mode="json") if isinstance(value, Record) else value
            lines.append(f'"{key}": {json.dumps(known)}'.encode())
        content = b",\n".join(lines)
        return content + CHECKSUM_LINE + hashlib.sha256(content).hexdigest().encode() + b'"}\n'


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
    path = folder / MANIFEST_FILE
    try:
        content = read_file(path)
    except OSError as error:
        problem = (
            f"{folder} is not a prepared folder ({path.name} {error.strerror or error})"
            if folder.is_dir()
            else f"{folder} is not a folder"
        )
        raise UsageError(f"{problem}; {REMEDY} {folder}") from None
    body, _, checksum = content.rpartition(CHECKSUM_LINE)
    if not content.startswith(FIRST_LINE):
        raise UsageError(f"{path} is not the manifest of a prepared folder; {REMEDY} {folder}")
    if checksum != hashlib.sha256(body).hexdigest().encode() + b'"}\n':
        raise UsageError(f"{path} was changed since genkit wrote it; {REMEDY} {folder}")
    try:
        values = parse_json(body + b"}")
        version = values["genkit_prepared"]
        if version == 1:
            _bring_up_to_date(values)
        elif version != FORMAT:
            raise UsageError(
                f"{path} is of format {version}, this genkit reads {FORMAT}; {REMEDY} {folder}"
            )
        # Not from_json: names of files may hold what UTF-8 cannot, and pydantic's JSON refuses it.
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{explain(error, f'{path}, ')}; {REMEDY} {folder}") from None
    except ValueError as error:
        raise UsageError(f"{path} cannot be used: {error}; {REMEDY} {folder}") from None


def _bring_up_to_date(values: dict[str, Any]) -> None:
    """Turn what a manifest of format 1 says into that of format 2. Its list of files, which was in
    it, is not kept: what is prepared again is decoded again."""
    files = values.pop("files")
    values["left_out"] = values.pop("passed_over")
    values["left_out"] |= {file["path"]: file["left_out"] for file in files if "left_out" in file}
    values["seen"] = {"deep": sum(file.get("deep", False) for file in files)}
    values["files_sha256"] = ""


def npy_header(shape: tuple[int, ...]) -> bytes:
    """What stands before uint8 values of that shape in a .npy file (numpy's format 1.0)."""
    header = io.BytesIO()
    facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    return header.getvalue()


def open_images(folder: Path, manifest: Manifest) -> NDArray[np.uint8]:
    """The images, uint8 (N, C, H, W), left on disk; what is written to them stays in memory.

    Raises:
        UsageError: the file is not there, is longer or shorter, or has another header.
    """
    path, header = folder / IMAGES_FILE, npy_header(manifest.shape)
    expected = len(header) + math.prod(manifest.shape)
    try:
        with open(path, "rb") as file:
            first, size = file.read(len(header)), file.seek(0, io.SEEK_END)
        if size != expected:
            raise UsageError(
                f"{path} is damaged: it has {size:,} bytes, not {expected:,}; {REMEDY} {folder}"
            )
        if first != header:  # compared before numpy reads it: it may say anything
            raise UsageError(f"{path} is damaged: wrong header; {REMEDY} {folder}")
        # Copy-on-write: torch wants writable arrays.
        return np.memmap(path, np.uint8, "c", len(header), manifest.shape)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read ({reason}); {REMEDY} {folder}") from None


def read_prepared(folder: Path) -> Splits:
    """What `genkit data prepare` left in `folder`: uint8, (N, C, H, W), 0 to 255, on disk.

    The arrays are mapped into memory, and so may be more than fit there; what is written to them
    is not kept. Whoever opens the data compares it with `Splits.fingerprint`.

    Raises:
        UsageError: it is not a prepared folder, is damaged, or was changed.
    """
    manifest = read_manifest(folder)
    images = open_images(folder, manifest)
    labels = None if manifest.labels is None else np.array(manifest.labels, dtype=np.int64)
    train, test = (
        Split(images[part], None if labels is None else labels[part])
        for part in (slice(manifest.train_images), slice(manifest.train_images, None))
    )
    return Splits(
        train,
        test,
        manifest.classes,
        tuple(manifest.notes),
        manifest.fingerprint,
        manifest.held_out,
    )
