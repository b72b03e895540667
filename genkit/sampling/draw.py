"""Samples from a trained model: n images from a seed, as bytes; grids and files of them."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genkit.compute.ranks import ALONE, Ranks
from genkit.data.datasets import data_root
from genkit.data.decode import BadImage, opened, read_content
from genkit.data.walk import EXTENSIONS, find_images
from genkit.errors import PluginError, UsageError, plugin_code
from genkit.io.run_directory import write_atomic
from genkit.model import GenerativeModel
from genkit.registry.catalogue import Registry
from genkit.specs import ImageShape
from genkit.training.stream import derive_seed, to_bytes

CHUNK = 64  # images drawn at a time, each chunk with a generator of its own


@torch.no_grad()
def draw(
    model: GenerativeModel,
    n: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
    label: int | None = None,
) -> Tensor:
    """Draw n samples: uint8, (n, C, H, W), on the CPU; of the class `label` if one is given.

    Image i depends on the model, the seed and i alone, not on n: images are always drawn in whole
    chunks of 64, chunk j with a generator seeded by (seed, j), and what is too many is dropped.
    Several ranks share the chunks, and each gets all images.
    """
    if n < 1:
        raise UsageError(f"{n} samples cannot be drawn; the fewest are 1")
    shape = model.image_shape
    labels = None if label is None else torch.full((CHUNK,), label, device=model.device)
    chunks = [range(rank, math.ceil(n / CHUNK), ranks.count) for rank in range(ranks.count)]
    images = torch.empty(0, shape.channels, shape.height, shape.width, dtype=torch.uint8)
    parts = [images]
    with evaluating(model):
        for done, chunk in enumerate(chunks[ranks.rank], 1):
            generator = chunk_generator(model, seed, chunk)
            with plugin_code(f"{type(model).__name__}.sample()"):
                images = model.sample(CHUNK, labels, generator=generator)
                check_images(model, images, "sample")
                parts.append(to_bytes(images).cpu())
            if on_progress:
                on_progress(min(done * ranks.count * CHUNK, n), n)
    found = ranks.gather(torch.cat(parts), [len(own) * CHUNK for own in chunks])
    order = [each.split(CHUNK) for each in found]  # by the rank that drew them
    chunked = [order[i % ranks.count][i // ranks.count] for i in range(math.ceil(n / CHUNK))]
    return torch.cat(chunked)[:n].contiguous()


@contextmanager
def evaluating(model: GenerativeModel) -> Iterator[None]:
    """A model in evaluation mode; at the end it is in the mode that it was in."""
    training = model.training
    try:
        model.eval()
        yield
    finally:
        model.train(training)


def chunk_generator(model: GenerativeModel, seed: int, chunk: int) -> torch.Generator:
    """The generator, on the model's device, of one chunk of the images of a seed."""
    generator = torch.Generator(model.device)
    return generator.manual_seed(derive_seed(seed, "sample", chunk))


def check_images(model: GenerativeModel, images: Tensor, method: str, count: int = CHUNK) -> None:
    """Raise PluginError if what a method of a model returned is not so many images."""
    shape, call = model.image_shape, f"{type(model).__name__}.{method}"
    expected = (count, shape.channels, shape.height, shape.width)
    found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
    if found != expected:
        raise PluginError(f"{call}({count}) returned {found}, not a tensor of {expected}")
    if images.device != model.device:
        raise PluginError(
            f"{call}() returned a tensor on {images.device}, not on the model's {model.device}"
        )
    if not torch.isfinite(images).all():
        raise PluginError(f"{call}() returned values that are not finite")


def timed_draw(
    model: GenerativeModel,
    n: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, float]:
    """`draw`, and the images per second it reached."""
    start = time.perf_counter()
    images = draw(model, n, seed, on_progress)
    return images, n / (time.perf_counter() - start)


def make_grid(images: Tensor, columns: int | None = None, *, gap: int = 2) -> Image.Image:
    """uint8 images, (n, C, H, W), side by side in rows; nearly square unless `columns` is given."""
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 96, np.uint8
    )
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas.squeeze(2) if channels == 1 else canvas)


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())


def check_output(path: Path) -> None:
    """Raise UsageError if samples cannot go to a path, before any work is done."""
    if path.suffix and path.suffix not in (".png", ".npz"):
        raise UsageError(f"--output {path}: write .png (a grid), .npz, or a folder's name")
    if path.exists() and (path.suffix or not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"--output {path} exists; nothing was overwritten, choose another name")


def save_samples(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write uint8 images as a grid (.png), as "images" in an archive (.npz, NHWC), or as single
    PNG files in a folder."""
    folder = path.parent if path.suffix else path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {path}: {folder} cannot be made: {error.strerror}") from None
    if path.suffix == ".png":
        save_png(make_grid(images, columns), path)
    elif path.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=images.permute(0, 2, 3, 1).numpy())
        write_atomic(path, buffer.getvalue())
    else:
        for i, image in enumerate(images):
            save_png(make_grid(image[None], gap=0), path / f"{i:06d}.png")


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
    images = np.empty((len(found.images), shape.height, shape.width, 3), np.uint8)
    for file, pixels in zip(found.images, images, strict=True):
        path = folder / file.path
        try:
            with opened(read_content(path)) as image:
                if image.size != (shape.width, shape.height):
                    width, height = image.size
                    raise BadImage(f"is {height} x {width}, the data set has {shape}")
                if image.mode not in ("1", "L", "P", "RGB"):
                    raise BadImage(f"is {image.mode}, not 8-bit grey or RGB")
                pixels[:] = np.asarray(image.convert("RGB"))
        except BadImage as error:
            raise BadImage(error.reason, str(path)) from None
    if shape.channels == 1:
        if (images != images[..., :1]).any():
            raise UsageError(f"{folder} holds colour images, the data set has {shape}")
        images = images[..., :1]
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
