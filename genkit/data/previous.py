"""What a folder was prepared to before, from which unchanged images are taken again."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from genkit.data.frame import with_channels
from genkit.data.partial import PARTIAL_FILES
from genkit.data.prepared import (
    IMAGES_FILE,
    MANIFEST_FILE,
    Manifest,
    PrepareOptions,
    npy_header,
    open_images,
    read_manifest,
)
from genkit.data.sources import SourceFile, read_list
from genkit.data.walk import ImageFile
from genkit.data.workers import DecodedFile
from genkit.errors import UsageError
from genkit.io.progress import Reporter


@dataclass(frozen=True)
class Previous:
    """What was prepared before: its files and its array, to be used again."""

    array: Path
    manifest: Manifest
    files: dict[str, SourceFile]

    def take(self, image: ImageFile, channels: int) -> DecodedFile | None:
        """The file as it was decoded before, if it has not changed since."""
        file = self.files.get(str(image.path))
        if file is None or not file.is_of(image) or file.is_worth_another_try():
            return None
        if file.row is None:
            return DecodedFile(file, b"")
        shape = self.manifest.shape
        row_bytes = math.prod(shape[1:])
        with open(self.array, "rb", buffering=0) as array:
            array.seek(len(npy_header(shape)) + file.row * row_bytes)
            pixels = array.read(row_bytes)
        return DecodedFile(file._replace(row=None), with_channels(pixels, shape[1], channels))


def read_previous(out: Path, options: PrepareOptions, reporter: Reporter) -> Previous | None:
    """What was prepared before, if it is whole.

    Raises:
        UsageError: it was prepared with other options.
    """
    if not (out / MANIFEST_FILE).exists():
        return None
    try:
        manifest = read_manifest(out)
        open_images(out, manifest)
        with open(out / IMAGES_FILE, "rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == manifest.sha256
        files = read_list(out, manifest.files_sha256)
    except (UsageError, OSError):
        whole = False
    if not whole:
        # With a partial result, it was killed while the new array replaced the old one.
        if not any((out / name).exists() for name in PARTIAL_FILES):
            reporter.say(f"{out} was damaged or changed; its images are decoded again")
        return None
    if manifest.options != options:
        was = manifest.options
        raise UsageError(
            f"--out {out} was prepared with --size {was.size} --channels {was.channels} "
            f"--window {was.window} --splits {was.splits} --fit {was.fit} --resample "
            f"{was.resample}; choose another, or delete it"
        )
    return Previous(out / IMAGES_FILE, manifest, {file.path: file for file in files})
