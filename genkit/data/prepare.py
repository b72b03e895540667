"""`genkit data prepare`: a folder of images decoded once, into one array on disk and a manifest.

Files are decoded in the order of their paths into a draft, which being killed cannot harm. From it
the array is made: training images first, test images behind them. Neither is ever in memory.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genkit.data.partial import ENTRIES, Draft, hash_file, is_of, write_array
from genkit.data.prepared import (
    ARRAY,
    CHUNK_BYTES,
    MANIFEST,
    Manifest,
    is_manifest,
    is_passing,
    npy_header,
    open_array,
    read_manifest,
)
from genkit.data.walk import Found, ImageFile, find_images, hold_out, label, split_images
from genkit.data.workers import Decoded, decoders
from genkit.errors import UsageError, printable
from genkit.io.files import write_atomic
from genkit.io.locks import LOCK_FILES, locked
from genkit.io.progress import Reporter

FEWEST_SHARED_BYTES = 2**24  # below, starting processes takes longer than decoding


@dataclass(frozen=True)
class Prepared:
    """A prepared folder, and how many files were decoded for it just now."""

    path: Path
    manifest: Manifest
    decoded: int
    up_to_date: bool = False


def prepare(
    folder: Path,
    out: Path,
    *,
    size: int,
    channels: Literal["auto", "1", "3"] = "auto",
    workers: int = 1,
    reporter: Reporter | None = None,
) -> Prepared:
    """Decode all images below `folder` into `out`, or only those that changed since the last time.

    The images are those of the data set `folder`, and so are splits, labels and fingerprint. The
    result does not depend on `workers`, nor on how often the work was interrupted.

    Args:
        size: pixels a side.
        channels: "auto" takes 1 if all images are grey.
        workers: processes that decode, if there is enough to do.

    Raises:
        UsageError: no image can be used, or `out` is no place for the result.
        WriteError: the disk is full, say; the same call goes on where it stopped.
    """
    reporter = reporter or Reporter()
    real = Path(os.path.realpath(folder))  # Path.resolve raises for a link to itself
    if Path(os.path.realpath(out)).is_relative_to(real):
        raise UsageError(f"--out {out} lies in {folder}, whose images are read; choose another")
    found = find_images(folder)
    options = {"size": size, "channels": channels}
    _make(out)
    with locked(out, "prepares"):
        old = _read_old(out, options, reporter)
        if old and old.manifest.is_of(found):
            return Prepared(out, old.manifest, decoded=0, up_to_date=True)
        row_channels = 1 if channels == "1" else 3
        draft = Draft(out, options, found.images, row_channels * size**2)
        reporter.start(f"prepare {printable(real.name)}")
        try:
            decoded = _fill(draft, found, old, size, row_channels, workers, reporter)
            manifest = _finish(draft, found, options, out, reporter)
        except UsageError:  # the folder is of no use: leave nothing behind
            draft.remove()
            raise
        except (KeyboardInterrupt, SystemExit):
            reporter.say("interrupted; all is saved, the same command goes on from here")
            raise
        finally:
            draft.close()
            reporter.stop()
        draft.remove()
    return Prepared(out, manifest, decoded)


def _make(out: Path) -> None:
    """Make the folder for the result; UsageError if something else is in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in out.iterdir()} - {*LOCK_FILES}
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made: {error.strerror or error}") from None
    ours = is_manifest(out / MANIFEST) or (ENTRIES in names and MANIFEST not in names)
    if names and not ours:
        raise UsageError(f"--out {out} is not empty and no prepared folder; choose another")


@dataclass(frozen=True)
class _Old:
    """What was prepared before: entries and rows to be used again."""

    path: Path
    manifest: Manifest
    entries: dict[str, dict[str, Any]]

    def take(self, image: ImageFile, channels: int) -> Decoded | None:
        """Entry and row of a file, if it has not changed since."""
        entry = self.entries.get(str(image.path))
        if entry is None or not is_of(entry, image) or is_passing(entry.get("left_out", "")):
            return None
        if "left_out" in entry:
            return entry, b""
        shape = self.manifest.shape
        row_bytes = int(np.prod(shape[1:]))
        with open(self.path, "rb", buffering=0) as file:
            file.seek(len(npy_header(shape)) + entry["row"] * row_bytes)
            row = file.read(row_bytes) * (channels // shape[1])
        kept = {key: value for key, value in entry.items() if key != "row"}
        return {**kept, "crc32": zlib.crc32(row)}, row


def _read_old(out: Path, options: dict[str, Any], reporter: Reporter) -> _Old | None:
    """What was prepared before, if it is whole.

    Raises:
        UsageError: it was prepared with other options.
    """
    if not (out / MANIFEST).exists():
        return None
    try:
        manifest = read_manifest(out)
        open_array(out, manifest)
        whole = hash_file(out / ARRAY) == manifest.sha256
    except (UsageError, OSError):
        whole = False
    if not whole:
        if not (out / ENTRIES).exists():  # else it was killed while the old made way for the new
            reporter.say(f"{out} was damaged or changed; its images are decoded again")
        return None
    if manifest.options != options:
        was = " ".join(f"--{key} {value}" for key, value in manifest.options.items())
        raise UsageError(f"--out {out} was prepared with {was}; choose another, or delete it")
    return _Old(out / ARRAY, manifest, {file["path"]: file for file in manifest.files})


def _fill(
    draft: Draft,
    found: Found,
    old: _Old | None,
    size: int,
    channels: int,
    workers: int,
    reporter: Reporter,
) -> int:
    """Bring the draft to the end of the files; how many of them were decoded."""
    first, total, decoded = len(draft.entries), len(found.images), 0
    if first:
        reporter.say(f"going on: {first:,} of {total:,} files were decoded before")
    count = reporter.counter("decoding")

    def write(known: list[Decoded | None], future: Future[list[Decoded]]) -> None:
        fresh = iter(future.result())
        draft.append([pair or next(fresh) for pair in known])
        count(len(draft.entries) - first, total - first)

    if sum(image.size_bytes for image in found.images[first:]) < FEWEST_SHARED_BYTES:
        workers = 1
    batch = max(8, min(256, CHUNK_BYTES // draft.row_bytes))
    waiting: deque[tuple[list[Decoded | None], Future[list[Decoded]]]] = deque()
    with decoders(workers) as submit:
        for start in range(first, total, batch):
            files = found.images[start : start + batch]
            known = [old.take(image, channels) if old else None for image in files]
            missing = [image for image, pair in zip(files, known, strict=True) if not pair]
            waiting.append((known, submit(found.folder, missing, size, channels)))
            decoded += len(missing)
            if len(waiting) > 2 * workers:
                write(*waiting.popleft())
        while waiting:
            write(*waiting.popleft())
    return decoded


def _finish(
    draft: Draft,
    found: Found,
    options: dict[str, Any],
    out: Path,
    reporter: Reporter,
) -> Manifest:
    """Make array and manifest of a draft that is complete."""
    usable = [entry for entry in draft.entries if "left_out" not in entry]
    paths = [Path(entry["path"]) for entry in usable]
    reasons = {Path(e["path"]): e["left_out"] for e in draft.entries if "left_out" in e}
    parts = split_images(found, paths, {**found.left_out, **reasons})
    if found.has_splits:
        every = np.arange(len(paths))
        train, test = every[parts["train"]], every[parts["test"]]
    else:
        train, test = hold_out(len(paths), str(found.folder))
    if len(train) < 2:
        raise UsageError(f"{found.folder} holds a single training image; the fewest are 2")
    classes, labels = label(found, paths)
    grey = options["channels"] == "auto" and all(entry["grey"] for entry in usable)
    channels = 1 if grey else draft.row_bytes // options["size"] ** 2
    shape = (len(paths), channels, options["size"], options["size"])
    sha256, fingerprint = write_array(draft, out, shape, (train, test), labels, reporter)
    order = np.concatenate([train, test])
    row_of = {usable[index]["path"]: row for row, index in enumerate(order.tolist())}
    manifest = Manifest(
        options=options,
        shape=shape,
        train_images=len(train),
        held_out=not found.has_splits,
        classes=list(classes),
        labels=None if labels is None else labels[order].tolist(),
        sha256=sha256,
        fingerprint=fingerprint,
        files=[_describe(entry, row_of) for entry in draft.entries],
        passed_over={str(path): reason for path, reason in sorted(found.left_out.items())},
        other_files=dict(sorted(found.others.items())),
    )
    write_atomic(out / MANIFEST, manifest.to_bytes())
    return manifest


def _describe(entry: dict[str, Any], row_of: dict[str, int]) -> dict[str, Any]:
    """A draft's entry as the manifest has it: with its row for good."""
    if "left_out" in entry:
        return entry
    kept = {key: value for key, value in entry.items() if key != "crc32"}
    return {**kept, "row": row_of[entry["path"]]}
