"""Samples as files: written by genkit, or read to be scored, whoever made them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genkit.data.alpha import has_alpha, straighten
from genkit.data.datasets import data_root
from genkit.data.decode import decode_whole
from genkit.data.image_file import BadImage, read_content
from genkit.data.walk import EXTENSIONS, find_images
from genkit.errors import UsageError, reason_of
from genkit.io.files import saved, write_atomic
from genkit.registry.catalogue import Registry
from genkit.sampling.grids import make_grid, make_image, save_png
from genkit.specs import ImageShape


def check_output(path: Path) -> None:
    """Raise UsageError if samples cannot go to a path, before any work is done."""
    if path.suffix and path.suffix not in (".png", ".npz"):
        raise UsageError(f"--output {path}: write .png (a grid), .npz, or a folder's name")
    if path.exists() and (path.suffix or not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"--output {path} exists; nothing was overwritten, choose another name")


def save_samples(
    images: Tensor,
    path: Path,
    columns: int | None = None,
    *,
    labels: Tensor | None = None,
    classes: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> None:
    """Write images, uint8, (N, C, H, W), as a grid (.png), as "images" in an archive (.npz, NHWC),
    or as single PNG files in a folder. Transparency is straight in archives and single files.

    Args:
        labels: int64, (N,): go into the archive as "labels"; in a folder each class has a folder.
        classes: the classes' names, for folders; one that is no good name is its number there.
        rows: names of a grid's rows.
    """
    folder = path.parent if path.suffix else path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {path}: {folder} cannot be made: {reason_of(error)}") from None
    if path.suffix == ".png":
        save_png(make_grid(images, columns, names=rows), path)
    elif path.suffix == ".npz":
        pixels = straighten(images.numpy()).transpose(0, 2, 3, 1)  # (N, H, W, C)
        write = partial(np.savez_compressed, images=pixels)
        if labels is not None:
            write = partial(np.savez_compressed, images=pixels, labels=labels.numpy())
        write_atomic(path, saved(write))
    else:
        for i, image in enumerate(images):
            place = path
            if labels is not None:
                place = path / _folder_name(int(labels[i]), classes)
                place.mkdir(exist_ok=True)
            save_png(make_image(image), place / f"{i:06d}.png")


def _folder_name(label: int, classes: Sequence[str]) -> str:
    """The name of a class as that of a folder, else its number."""
    name = classes[label] if label < len(classes) else ""
    return name if re.fullmatch(r"\w[\w .-]{0,99}", name) else str(label)


def load_samples(registry: Registry, path: Path, shape: ImageShape) -> Tensor:
    """Samples to be scored, from an .npz file or a folder of image files: uint8, (n, C, H, W).

    They are taken as they are.

    Raises:
        UsageError: images have another shape than `shape`; scaling would change their scores.
    """
    if path.is_dir():
        return _load_folder(path, shape)
    reader = registry.datasets.get(path.suffix[1:])  # of .npz files: the data set of that name
    if reader is None or reader.spec.source != "PATH":
        raise UsageError(f"{path} is not a run, a folder or an .npz file; give one of these")
    spec = reader.spec
    splits = spec.load()(spec.config(), str(path), data_root())
    parts = [splits.train.images] + ([splits.test.images] if splits.test else [])
    images = np.concatenate(parts)
    if not len(images):
        raise UsageError(f"{path} holds no images")
    if images.shape[1:] != (shape.channels, shape.height, shape.width):
        found = ImageShape(*images.shape[1:])
        raise UsageError(f"{path} holds images of {found}, the data set has {shape}")
    return torch.from_numpy(np.ascontiguousarray(images))


def _load_folder(folder: Path, shape: ImageShape) -> Tensor:
    """All image files below a folder, in the order of their paths, read as data are, but of the
    right size: uint8, (n, C, H, W).

    Raises:
        UsageError: a file is left out; scores would be of fewer samples.
    """
    found = find_images(folder, splits=False)
    for path, reason in found.left_out.items():
        raise UsageError(f"{folder / path} {reason}; samples are scored all or not at all")
    if not found.images:
        raise UsageError(f"{folder} holds no image ({', '.join(e[1:] for e in EXTENSIONS)})")
    channels = 4 if has_alpha(shape.channels) else 3
    images = np.empty((len(found.images), channels, shape.height, shape.width), np.uint8)
    for file, pixels in zip(found.images, images, strict=True):
        path = folder / file.path
        try:
            pixels[:] = decode_whole(read_content(path), shape)
        except BadImage as error:
            raise BadImage(error.reason, str(path)) from None
    if shape.channels < 3:
        if (images[:, :3] != images[:, :1]).any():
            raise UsageError(f"{folder} holds colour images, the data set has {shape}")
        images = np.delete(images, [1, 2], axis=1)
    return torch.from_numpy(np.ascontiguousarray(images))
