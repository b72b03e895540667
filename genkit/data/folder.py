"""A folder of images read into memory; `genkit data prepare` keeps them on disk instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genkit.data.alpha import is_grey
from genkit.data.decode import decode_image
from genkit.data.frame import (
    DECODED_CHANNELS,
    Channels,
    Fit,
    Frame,
    Resample,
    fewest_channels,
    kept_channels,
    read_size,
    read_window,
)
from genkit.data.image_file import BadImage, read_content
from genkit.data.splits import Split, Splits
from genkit.data.walk import (
    FULL_WINDOW,
    FolderListing,
    ImageFile,
    Seen,
    describe_left_out,
    find_images,
    label_by_folder,
    split_by_folder,
)
from genkit.errors import UsageError


def read_folder(
    folder: Path,
    *,
    size: int | str,
    channels: Channels = "auto",
    window: str = FULL_WINDOW,
    splits: bool = True,
    fit: Fit = "crop",
    resample: Resample = "smooth",
) -> Splits:
    """All images below `folder`, in the order of their paths: uint8, (N, C, H, W), 0 to 255.

    Sub-folders named train and test, or as `genkit.data.walk.find_splits` says, are the splits;
    without them, `test` is None. Within the splits, or else within `folder`, the first-level
    sub-folders are the classes if there are at least two and every image is in one. A file that
    cannot be used is left out, and a note says why.

    Args:
        size: pixels a side, or "WIDTHxHEIGHT".
        channels: "1" for grey, "3" for colour, "2" and "4" for the same with alpha; "auto" takes as
            few as show all that the images have.
        window: "LOW-HIGH", the values of 16-bit images that become 0 and 255.
        splits: look for sub-folders train and test; if not, all sub-folders are classes.
        fit: "crop" the centre of images of another shape, "pad" or "stretch" them; "none" leaves
            out what has another size.
        resample: "smooth", "nearest", or "auto" for nearest where an image looks like pixel art.

    Raises:
        UsageError: there is no such folder, no image in it can be used, or they do not fit into
            memory.
    """
    read_window(window)  # an error also where no image has 16 bits
    height, width = read_size(size)
    frame = Frame(height, width, DECODED_CHANNELS[channels], fit, resample, window)
    listing = find_images(folder, splits)

    def read(path: Path) -> bytes:
        return read_content(folder / path)

    return splits_of(listing, read, frame, channels)


def read_encoded(
    name: str,
    counts: Mapping[str, int],
    read: Callable[[str, int], bytes],
    labels: Mapping[str, Sequence[int]] | None = None,
    *,
    size: int | str,
    channels: Channels = "auto",
    window: str = FULL_WINDOW,
    fit: Fit = "crop",
    resample: Resample = "smooth",
) -> Splits:
    """Images whose files lie elsewhere, as `read_folder` reads those of a folder.

    Args:
        name: of the data set, for messages.
        counts: number of images by split: "train" and, if there are any, "test".
        read: the content of the image file with a number, from 0, in a split. Each is asked for
            once, in order; `BadImage` says why one is left out.
        labels: of each image, by split; the classes are their values.

    Raises:
        UsageError: no image of a split can be used, or they do not fit into memory.
    """
    read_window(window)
    height, width = read_size(size)
    frame = Frame(height, width, DECODED_CHANNELS[channels], fit, resample, window)
    splits = {part: Path(part) for part in counts} if len(counts) > 1 else {}
    places = {Path(part, str(i)): (part, i) for part in counts for i in range(counts[part])}
    listing = FolderListing(Path(name), [ImageFile(path, 0, 0) for path in places], splits=splits)
    label_of = {path: labels[part][i] for path, (part, i) in places.items()} if labels else {}
    return splits_of(listing, lambda path: read(*places[path]), frame, channels, label_of)


def splits_of(
    listing: FolderListing,
    read: Callable[[Path], bytes],
    frame: Frame,
    channels: Channels,
    label_of: Mapping[Path, int] | None = None,
) -> Splits:
    """The splits of the images in a listing, whose content `read` gives.

    Args:
        label_of: the label of each image; none: empty; None: the sub-folders are the classes.
    """
    images, paths, unusable, seen = _read_images(listing, read, frame, channels)
    left_out = {**listing.left_out, **unusable}
    parts = split_by_folder(listing, paths, left_out)
    classes, labels = label_by_folder(listing, paths) if label_of is None else ((), None)
    if label_of:
        values, numbers = np.unique([label_of[path] for path in paths], return_inverse=True)
        classes, labels = tuple(map(str, values)), numbers.astype(np.int64)
    found = [
        Split(images[part], None if labels is None else labels[part]) for part in parts.values()
    ]
    notes = describe_left_out(left_out, listing.others, seen, frame.window, listing.renamed_splits)
    return Splits(found[0], found[1] if len(found) > 1 else None, classes, tuple(notes))


def _read_images(
    listing: FolderListing, read: Callable[[Path], bytes], frame: Frame, channels: Channels
) -> tuple[NDArray[np.uint8], list[Path], dict[Path, str], Seen]:
    """Images, uint8 (N, C, H, W), of the files that can be read; their paths; why the other
    files cannot be read; what kinds of images were seen."""
    shape = (len(listing.images), frame.channels, frame.height, frame.width)
    try:
        images = np.empty(shape, dtype=np.uint8)
    except MemoryError:
        raise UsageError(
            f"{shape[0]:,} images of {shape[1:]} do not fit into memory; keep them on disk: "
            f"genkit data prepare {listing.folder} --out DIR"
        ) from None
    kept: list[Path] = []
    left_out: dict[Path, str] = {}
    grey, deep, transparent, nearest = True, 0, 0, 0
    for path, _, _ in listing.images:
        try:
            found = decode_image(read(path), frame)
        except BadImage as error:
            left_out[path] = error.reason
            continue
        images[len(kept)] = found.pixels
        grey = grey and is_grey(found.pixels)
        deep += found.deep
        transparent += found.transparent and channels == "auto"
        nearest += found.nearest and frame.resample == "auto"
        kept.append(path)
    wanted = fewest_channels(grey, transparent > 0) if channels == "auto" else frame.channels
    if wanted < frame.channels:
        images = images[:, kept_channels(frame.channels, wanted)]
    seen = Seen(deep=deep, transparent=transparent, nearest=nearest)
    return images[: len(kept)], kept, left_out, seen
