"""Samples as files: written for others, and read from others to be scored."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genkit.data.alpha import has_alpha, premultiply, straighten
from genkit.data.datasets import data_root
from genkit.data.decode import BadImage, opened, read_content
from genkit.data.walk import EXTENSIONS, find_images
from genkit.errors import UsageError
from genkit.io.files import write_atomic
from genkit.registry.catalogue import Registry
from genkit.sampling.grids import make_grid, make_image, save_png
from genkit.specs import ImageShape


def check_output(path: Path) -> None:
    """Raise UsageError if samples cannot go to a path, before any work is done."""
    if path.suffix and path.suffix not in (".png", ".npz"):
        raise UsageError(f"--output {path}: write .png (a grid), .npz, or a folder's name")
    if path.exists() and (path.suffix or not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"--output {path} exists; nothing was overwritten, choose another name")


def save_samples(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write uint8 images as a grid (.png), as "images" in an archive (.npz, NHWC), or as single
    PNG files in a folder. Transparency is straight in archives and single files."""
    folder = path.parent if path.suffix else path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {path}: {folder} cannot be made: {error.strerror}") from None
    if path.suffix == ".png":
        save_png(make_grid(images, columns), path)
    elif path.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=straighten(images.numpy()).transpose(0, 2, 3, 1))
        write_atomic(path, buffer.getvalue())
    else:
        for i, image in enumerate(images):
            save_png(make_image(image), path / f"{i:06d}.png")


def load_samples(registry: Registry, path: Path, shape: ImageShape) -> Tensor:
    """Samples to be scored, from an .npz file or a folder of image files: uint8, (n, C, H, W).

    They are taken as they are. Raises UsageError for images of another shape than `shape`: scaled
    ones would get other scores.
    """
    if path.is_dir():
        return _load_folder(path, shape)
    if path.suffix != ".npz":
        raise UsageError(f"{path} is no run, no folder and no .npz file; give one of these")
    spec = registry.datasets.find("npz")
    splits = spec.load()(spec.config(), str(path), data_root())
    parts = [splits.train.images] + ([splits.test.images] if splits.test else [])
    images = np.concatenate(parts)
    if images.shape[1:] != (shape.channels, shape.height, shape.width):
        found = ImageShape(*images.shape[1:])
        raise UsageError(f"{path} holds images of {found}, the data set has {shape}")
    return torch.from_numpy(np.ascontiguousarray(images))


def _load_folder(folder: Path, shape: ImageShape) -> Tensor:
    """All image files below a folder, in the order of their paths; UsageError if one is left out,
    since scores count what there is."""
    found = find_images(folder)
    for path, reason in found.left_out.items():
        raise UsageError(f"{folder / path} {reason}; samples are scored all or not at all")
    if not found.images:
        raise UsageError(f"{folder} holds no image ({', '.join(e[1:] for e in EXTENSIONS)})")
    transparent = has_alpha(shape.channels)
    mode, modes, kinds = "RGB", ["1", "L", "P", "RGB"], "8-bit grey or RGB"
    if transparent:
        mode, modes, kinds = "RGBA", [*modes, "LA", "PA", "RGBA"], "8-bit grey, RGB or RGBA"
    images = np.empty((len(found.images), shape.height, shape.width, len(mode)), np.uint8)
    for file, pixels in zip(found.images, images, strict=True):
        path = folder / file.path
        try:
            with opened(read_content(path)) as image:
                if image.size != (shape.width, shape.height):
                    width, height = image.size
                    raise BadImage(f"is {height} x {width}, the data set has {shape}")
                if image.mode not in modes or (image.has_transparency_data and not transparent):
                    raise BadImage(f"is {image.mode}, not {kinds}")
                pixels[:] = np.asarray(image.convert(mode))
        except BadImage as error:
            raise BadImage(error.reason, str(path)) from None
    images = images.transpose(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
    if shape.channels < 3:
        if (images[:, :3] != images[:, :1]).any():
            raise UsageError(f"{folder} holds colour images, the data set has {shape}")
        images = np.delete(images, [1, 2], axis=1)
    return torch.from_numpy(np.ascontiguousarray(premultiply(images)))
