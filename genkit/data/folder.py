"""A folder of images read into memory; `genkit data prepare` keeps them on disk instead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genkit.data.datasets import Channels
from genkit.data.decode import decode_image, read_window
from genkit.data.image_file import BadImage, read_content
from genkit.data.splits import Split, Splits
from genkit.data.walk import (
    FULL_WINDOW,
    FolderListing,
    describe_left_out,
    find_images,
    label_by_folder,
    split_by_folder,
)
from genkit.errors import UsageError


def read_folder(
    folder: Path,
    *,
    size: int,
    channels: Channels = "auto",
    window: str = FULL_WINDOW,
    splits: bool = True,
) -> Splits:
    """All images below `folder`, in the order of their paths: uint8, (N, C, size, size), 0 to 255.

    Sub-folders named train and test, or as `genkit.data.walk.find_splits` says, are the splits;
    without them, `test` is None. Within the splits, or else within `folder`, the first-level
    sub-folders are the classes if there are at least two and every image is in one. Each image is
    scaled and its centre square is cut out. A file that cannot be used is left out, and a note says
    why.

    Args:
        size: pixels a side.
        channels: "1" for grey, "3" for colour; "auto" takes 1 if all images are grey.
        window: "LOW-HIGH", the values of 16-bit images that become 0 and 255.
        splits: look for sub-folders train and test; if not, all sub-folders are classes.

    Raises:
        UsageError: there is no such folder, no image in it can be used, or they do not fit into
            memory.
    """
    read_window(window)  # an error also where no image has 16 bits
    listing = find_images(folder, splits)
    images, paths, unusable, deep_count = _read_images(listing, size, channels, window)
    left_out = {**listing.left_out, **unusable}
    parts = split_by_folder(listing, paths, left_out)
    classes, labels = label_by_folder(listing, paths)
    found = [
        Split(images[part], None if labels is None else labels[part]) for part in parts.values()
    ]
    notes = describe_left_out(left_out, listing.others, deep_count, window, listing.renamed_splits)
    return Splits(found[0], found[1] if len(found) > 1 else None, classes, tuple(notes))


def _read_images(
    listing: FolderListing, size: int, channels: Channels, window: str
) -> tuple[NDArray[np.uint8], list[Path], dict[Path, str], int]:
    """Images, uint8 (N, C, size, size), of the files that can be read; their paths; why the other
    files cannot be read; how many images had 16 bits a channel."""
    channel_count = 1 if channels == "1" else 3
    shape = (len(listing.images), channel_count, size, size)
    try:
        images = np.empty(shape, dtype=np.uint8)
    except MemoryError:
        raise UsageError(
            f"{shape[0]:,} images of {shape[1:]} do not fit into memory; keep them on disk: "
            f"genkit data prepare {listing.folder} --out DIR"
        ) from None
    kept: list[Path] = []
    left_out: dict[Path, str] = {}
    deep_count = 0
    grey = channels == "auto"
    for path, _, _ in listing.images:
        try:
            content = read_content(listing.folder / path)
            image, deep = decode_image(content, size, channel_count, window)
        except BadImage as error:
            left_out[path] = error.reason
            continue
        images[len(kept)] = image
        grey = grey and bool((image == image[:1]).all())
        deep_count += deep
        kept.append(path)
    images = images[: len(kept)]
    return (images[:, :1] if grey else images), kept, left_out, deep_count
