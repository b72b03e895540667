"""`genkit data prepare`: a folder of images decoded once, into one array on disk and a manifest.

Files are decoded in the order of their paths into a partial result, which no kill can harm. From it
the array is made: training images first, test images behind them. Neither is ever in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from genkit.data.frame import (
    DECODED_CHANNELS,
    Channels,
    Fit,
    Resample,
    fewest_channels,
    kept_channels,
    read_size,
    read_window,
)
from genkit.data.partial import PARTIAL_FILES, PartialResult, write_images
from genkit.data.prepared import (
    IMAGES_FILE,
    MANIFEST_FILE,
    Manifest,
    PrepareOptions,
    is_manifest,
)
from genkit.data.previous import Previous, read_previous
from genkit.data.sources import LIST_FILE, list_to_bytes
from genkit.data.walk import (
    FULL_WINDOW,
    FolderListing,
    Seen,
    find_images,
    hold_out,
    label_by_folder,
    split_by_folder,
)
from genkit.data.workers import DecodedFile, decoders, finished
from genkit.errors import UsageError, printable
from genkit.io.files import write_atomic
from genkit.io.locks import LOCK_FILES, locked
from genkit.io.progress import Reporter

FEWEST_SHARED_BYTES = 2**24  # below, starting processes takes longer than decoding
BATCH_BYTES = 2**22  # of pixels that a process decodes before they are written


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
    size: int | str,
    channels: Channels = "auto",
    window: str = FULL_WINDOW,
    splits: Literal["auto", "none"] = "auto",
    fit: Fit = "crop",
    resample: Resample = "smooth",
    workers: int = 1,
    reporter: Reporter | None = None,
) -> Prepared:
    """Decode all images below `folder` into `out`, or only those that changed since the last time.

    The images are those of the data set `folder`, and so are splits, labels and fingerprint. The
    result does not depend on `workers`, nor on how often the work was interrupted.

    Args:
        size: pixels a side, or "WIDTHxHEIGHT".
        channels: "auto" takes as few as show all that the images have.
        window: "LOW-HIGH", the values of 16-bit images that become 0 and 255.
        splits: "none" takes all sub-folders for classes.
        fit, resample: as in `genkit.data.frame.Frame`.
        workers: processes that decode, if there is enough to do.

    Raises:
        UsageError: no image can be used, or `out` cannot hold the result.
        WriteError: the disk is full, say; the same call continues where it stopped.
    """
    reporter = reporter or Reporter()
    real = Path(os.path.realpath(folder))  # Path.resolve raises for a link to itself
    if Path(os.path.realpath(out)).is_relative_to(real):
        raise UsageError(f"--out {out} lies in {folder}, whose images are read; choose another")
    listing = find_images(folder, splits == "auto")
    read_window(window)  # an error now, not in another process
    height, width = read_size(size)
    options = PrepareOptions(
        size=height if height == width else f"{width}x{height}",
        channels=channels,
        window=window,
        splits=splits,
        fit=fit,
        resample=resample,
    )
    _make(out)
    with locked(out, "prepares"):
        previous = read_previous(out, options, reporter)
        if previous and previous.manifest.is_of(listing, tuple(previous.files.values())):
            return Prepared(out, previous.manifest, decoded=0, up_to_date=True)
        partial = PartialResult(out, options, listing.images)
        reporter.start(f"prepare {printable(real.name)}")
        try:
            decoded = _decode(partial, listing, options, previous, workers, reporter)
            manifest = _finish(partial, listing, options, out, reporter)
        except UsageError:  # the folder is of no use: leave nothing behind
            partial.remove()
            raise
        except (KeyboardInterrupt, SystemExit):
            reporter.say("interrupted; all is saved, the same command continues from here")
            raise
        finally:
            partial.close()
            reporter.stop()
        partial.remove()
    return Prepared(out, manifest, decoded)


def _make(out: Path) -> None:
    """Make the folder for the result; UsageError if something else is in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in out.iterdir()} - {*LOCK_FILES}
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made: {error.strerror or error}") from None
    interrupted = MANIFEST_FILE not in names and not names.isdisjoint(PARTIAL_FILES)
    if names and not interrupted and not is_manifest(out / MANIFEST_FILE):
        raise UsageError(f"--out {out} is neither empty nor a prepared folder; choose another")


def _decode(
    partial: PartialResult,
    listing: FolderListing,
    options: PrepareOptions,
    previous: Previous | None,
    workers: int,
    reporter: Reporter,
) -> int:
    """Complete the partial result; how many files were decoded for it."""
    first, total, decoded = len(partial.files), len(listing.images), 0
    if first:
        reporter.say(f"continuing: {first:,} of {total:,} files were decoded before")
    count = reporter.counter("decoding")

    def write(known: list[DecodedFile | None], future: Future[list[DecodedFile]]) -> None:
        fresh = iter(finished(future))
        partial.append([file or next(fresh) for file in known])
        count(len(partial.files) - first, total - first)

    if sum(image.size_bytes for image in listing.images[first:]) < FEWEST_SHARED_BYTES:
        workers = 1
    frame = options.frame
    batch = max(8, min(256, BATCH_BYTES // (frame.channels * frame.height * frame.width)))
    waiting: deque[tuple[list[DecodedFile | None], Future[list[DecodedFile]]]] = deque()
    with decoders(workers) as decode:
        for start in range(first, total, batch):
            files = listing.images[start : start + batch]
            known = [previous.take(image, frame.channels) if previous else None for image in files]
            missing = [image for image, file in zip(files, known, strict=True) if not file]
            waiting.append((known, decode(listing.folder, missing, options)))
            decoded += len(missing)
            if len(waiting) > 2 * workers:
                write(*waiting.popleft())
        while waiting:
            write(*waiting.popleft())
    return decoded


def _finish(
    partial: PartialResult,
    listing: FolderListing,
    options: PrepareOptions,
    out: Path,
    reporter: Reporter,
) -> Manifest:
    """Write array and manifest from a partial result that is complete."""
    usable = {n: file for n, file in enumerate(partial.files) if file.left_out is None}
    left_out = {Path(file.path): file.left_out for file in partial.files if file.left_out}
    paths = [Path(file.path) for file in usable.values()]
    parts = split_by_folder(listing, paths, {**listing.left_out, **left_out})
    if listing.splits:
        every = np.arange(len(paths))
        train, test = every[parts["train"]], every[parts["test"]]
    else:
        train, test = hold_out(len(paths), str(listing.folder))
    if len(train) < 2:
        raise UsageError(f"{listing.folder} holds a single training image; the fewest are 2")
    classes, labels = label_by_folder(listing, paths)
    order = np.concatenate([train, test])
    numbers = np.array(list(usable))[order].tolist()  # of the files, in the order of the rows
    row_of = {number: row for row, number in enumerate(numbers)}
    if labels is not None:
        labels = labels[order]
    frame, wanted = options.frame, DECODED_CHANNELS[options.channels]
    seen = Seen(
        deep=sum(bool(file.deep) for file in usable.values()),
        transparent=sum(bool(file.transparent) for file in usable.values())
        * (options.channels == "auto"),
        nearest=sum(bool(file.nearest) for file in usable.values()),
    )
    if options.channels == "auto":
        wanted = fewest_channels(all(file.grey for file in usable.values()), seen.transparent > 0)
    shape = (len(paths), wanted, frame.height, frame.width)
    kept = kept_channels(frame.channels, wanted)
    sha256, fingerprint = write_images(
        partial, out / IMAGES_FILE, shape, kept, numbers, len(train), labels, reporter
    )
    files = list_to_bytes(
        [file._replace(row=row_of.get(number)) for number, file in enumerate(partial.files)]
    )
    write_atomic(out / LIST_FILE, files)
    manifest = Manifest(
        options=options,
        shape=shape,
        train_images=len(train),
        held_out=not listing.splits,
        classes=classes,
        labels=None if labels is None else tuple(labels.tolist()),
        sha256=sha256,
        fingerprint=fingerprint,
        files_sha256=hashlib.sha256(files).hexdigest(),
        seen=seen,
        left_out={
            str(path): reason for path, reason in sorted((listing.left_out | left_out).items())
        },
        other_files=dict(sorted(listing.others.items())),
        renamed_splits=listing.renamed_splits,
    )
    write_atomic(out / MANIFEST_FILE, manifest.to_bytes())
    return manifest
