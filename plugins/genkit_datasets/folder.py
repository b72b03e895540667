"""Images from a folder into memory; `genkit data prepare` keeps them on disk instead."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genkit.data import Split, Splits
from genkit.data.decode import BadImage, read_image
from genkit.data.walk import Found, describe_left_out, find_images, label, split_images
from genkit.errors import UsageError
from genkit_datasets import FolderConfig


def load(config: FolderConfig, source: str, root: Path) -> Splits:
    """Splits from all images below the folder `source`, in the order of their paths.

    Sub-folders named train and test are the splits. Within them, or else within `source`, the
    first-level sub-folders are the classes if there are at least two and every image is in one.

    Raises:
        UsageError: there is no such folder, or no image in it can be used.
    """
    found = find_images(Path(os.path.expanduser(source)))
    images, paths, reasons, deep_count = _read_images(found, config)
    left_out = {**found.left_out, **reasons}
    parts = split_images(found, paths, left_out)
    classes, labels = label(found, paths)
    splits = [
        Split(images[part], None if labels is None else labels[part]) for part in parts.values()
    ]
    notes = describe_left_out(left_out, found.others, deep_count)
    return Splits(splits[0], splits[1] if len(splits) > 1 else None, classes, tuple(notes))


def _read_images(
    found: Found, config: FolderConfig
) -> tuple[NDArray[np.uint8], list[Path], dict[Path, str], int]:
    """Images (N, C, H, W) of the files that can be read, their paths, why the others cannot, and
    how many images had 16 bits a channel."""
    channels = 1 if config.channels == "1" else 3
    shape = (len(found.images), channels, config.size, config.size)
    try:
        images = np.empty(shape, dtype=np.uint8)
    except MemoryError:
        raise UsageError(
            f"{shape[0]:,} images of {shape[1:]} do not fit into memory; keep them on disk: "
            f"genkit data prepare {found.folder} --out DIR"
        ) from None
    kept: list[Path] = []
    left_out: dict[Path, str] = {}
    deep_count = 0
    grey = config.channels == "auto"
    for path, _, _ in found.images:
        try:
            image, deep = read_image(found.folder / path, config.size, channels)
        except BadImage as error:
            left_out[path] = error.reason
            continue
        images[len(kept)] = image
        grey = grey and bool((image == image[:1]).all())
        deep_count += deep
        kept.append(path)
    images = images[: len(kept)]
    return (images[:, :1] if grey else images), kept, left_out, deep_count
