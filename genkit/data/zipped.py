"""Images in a zip file, read where they are: nothing is unpacked to the disk."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from genkit.data.folder import splits_of
from genkit.data.frame import (
    DECODED_CHANNELS,
    Channels,
    Fit,
    Frame,
    Resample,
    read_size,
    read_window,
)
from genkit.data.image_file import MOST_BYTES, BadImage
from genkit.data.splits import Splits
from genkit.data.walk import (
    EXTENSIONS,
    FULL_WINDOW,
    OUTSIDE_SPLITS,
    FolderListing,
    ImageFile,
    find_splits,
)
from genkit.errors import UsageError

LABELS_FILE = "dataset.json"  # of StyleGAN's dataset tool
# What zipfile raises for what is damaged, encrypted, or packed in a way that it does not know.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError),
    *(ValueError, EOFError, LookupError),
)


def read_zip(
    path: Path,
    *,
    size: int | str,
    channels: Channels = "auto",
    window: str = FULL_WINDOW,
    splits: bool = True,
    fit: Fit = "crop",
    resample: Resample = "smooth",
) -> Splits:
    """All images in a zip file, as `genkit.data.read_folder` reads those of the same folder.

    With a `dataset.json` of StyleGAN's dataset tool, whose folders are not classes, the labels in
    it are the classes.

    Raises:
        UsageError: there is no such file, it is not a zip file, or no image in it can be used.
    """
    read_window(window)
    height, width = read_size(size)
    frame = Frame(height, width, DECODED_CHANNELS[channels], fit, resample, window)
    try:
        archive = zipfile.ZipFile(path)
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read as a zip file: {reason}") from None
    with archive:
        entries = {PurePosixPath(each.filename): each for each in archive.infolist()}
        listing = _list(path, entries, splits)

        def read(place: Path) -> bytes:
            return _read_entry(archive, entries[PurePosixPath(place.as_posix())])

        label_of = _read_labels(archive, entries, listing)
        return splits_of(listing, read, frame, channels, label_of)


def _list(
    path: Path, entries: Mapping[PurePosixPath, zipfile.ZipInfo], splits: bool
) -> FolderListing:
    """The images among a zip file's entries, as of a folder."""

    def sub_folders(folder: Path) -> list[str]:
        depth = len(folder.parts) - len(path.parts)
        inner = PurePosixPath(*folder.parts[len(path.parts) :])
        names = {
            place.parts[depth]
            for place, entry in entries.items()
            if place.is_relative_to(inner) and len(place.parts) > depth + (not entry.is_dir())
        }
        return sorted(name for name in names if not name.startswith((".", "__")))

    listing = FolderListing(path, splits=find_splits(path, sub_folders) if splits else {})
    for place, entry in entries.items():
        hidden = any(part.startswith((".", "__MACOSX")) for part in place.parts)
        if entry.is_dir() or hidden or place == PurePosixPath(LABELS_FILE):
            continue
        found = Path(*place.parts)
        if place.suffix.lower() not in EXTENSIONS:
            listing.others[place.suffix.lower() or "no extension"] += 1
        elif listing.splits and listing.split_of(found) is None:
            listing.left_out[found] = OUTSIDE_SPLITS
        else:
            listing.images.append(ImageFile(found, entry.file_size, 0))
    listing.images.sort(key=lambda image: image.path.parts)
    return listing


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The content of an entry.

    Raises:
        BadImage: it is damaged or encrypted, or has more than `MOST_BYTES` bytes.
    """
    if entry.file_size > MOST_BYTES:
        raise BadImage(f"has more than {MOST_BYTES:,} bytes")
    try:
        with archive.open(entry) as file:
            return file.read(entry.file_size + 1)
    except UNREADABLE as error:
        raise BadImage(f"cannot be unpacked: {error}") from None


def _read_labels(
    archive: zipfile.ZipFile,
    entries: Mapping[PurePosixPath, zipfile.ZipInfo],
    listing: FolderListing,
) -> dict[Path, int] | None:
    """The labels in `dataset.json`; none for files without one, and empty ones if it has none.

    Raises:
        UsageError: it is damaged, or an image has no label.
    """
    entry = entries.get(PurePosixPath(LABELS_FILE))
    if entry is None:
        return None
    name = f"{LABELS_FILE} in {listing.folder}"
    try:
        pairs = json.loads(_read_entry(archive, entry))["labels"] or []
        label_of = {Path(*PurePosixPath(place).parts): label for place, label in pairs}
    except (BadImage, ValueError, TypeError, LookupError) as error:
        raise UsageError(f"{name} cannot be used: {error}") from None
    missing = [image.path for image in listing.images if image.path not in label_of]
    if label_of and missing:
        raise UsageError(f"{name} has no label for {missing[0]} and {len(missing) - 1:,} others")
    if any(type(label) is not int for label in label_of.values()):
        raise UsageError(f"{name} has labels that are not whole numbers")
    return label_of
