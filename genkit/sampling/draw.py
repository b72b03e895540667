"""Samples from a trained model: n images from a seed, as bytes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from genkit.autoregressive import FromUniforms
from genkit.compute.device import is_out_of_memory
from genkit.compute.ranks import ALONE, Ranks
from genkit.compute.seeds import derive_seed
from genkit.errors import PluginError, UsageError, plugin_code
from genkit.model import GenerativeModel, to_bytes
from genkit.sampling.labels import choose_labels

MOST_AT_A_TIME = 65_536
PASS = 1024  # images in one pass on a GPU, which takes little longer than for one chunk
CHUNK = GenerativeModel.sample_batch


@torch.no_grad()
def draw(
    model: GenerativeModel,
    n: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
    labels: Tensor | Sequence[int] | int | str | None = None,
) -> Tensor:
    """Draw n samples: uint8, (n, C, H, W), on the CPU, of the classes that `choose_labels` makes of
    `labels`.

    Image i depends on the model, the seed, its label and i alone, not on n: images are always drawn
    in whole chunks of `model.sample_batch`, chunk j with a generator seeded by (seed, j), and the
    rest is dropped. On a GPU, chunks whose noise can be drawn beforehand go through the model
    together, which may change an image by the rounding of its last bits. Several ranks share the
    chunks, and each gets all images.
    """
    if n < 1:
        raise UsageError(f"{n} samples cannot be drawn; the fewest are 1")
    shape, size = model.image_shape, chunk_size(model)
    parts_of = label_chunks(model, choose_labels(model, n, seed, labels), size)
    chunks = [range(rank, math.ceil(n / size), ranks.count) for rank in range(ranks.count)]
    images = torch.empty(0, shape.channels, shape.height, shape.width, dtype=torch.uint8)
    parts = [images]
    own, at_once, done = chunks[ranks.rank], chunks_at_once(model, size), 0
    with evaluating(model):
        while done < len(own):
            try:
                images = _sample(model, seed, own[done : done + at_once], parts_of, size)
            except (PluginError, RuntimeError) as error:
                if at_once == 1 or not is_out_of_memory(error):
                    raise
                at_once //= 2
                continue
            parts.append(images)
            done += at_once
            if on_progress:
                on_progress(min(done * ranks.count * size, n), n)
    found = ranks.gather(torch.cat(parts), [len(own) * size for own in chunks])
    order = [torch.split(each, size) for each in found]  # by the rank that drew them
    chunked = [order[i % ranks.count][i // ranks.count] for i in range(math.ceil(n / size))]
    return torch.cat(chunked)[:n].contiguous()


def chunks_at_once(model: GenerativeModel, size: int) -> int:
    """How many chunks go through a model together: several only on a GPU."""
    return max(1, PASS // size) if model.device.type == "cuda" else 1


def _sample(
    model: GenerativeModel,
    seed: int,
    chunks: Sequence[int],
    labels_of: Callable[[int], Tensor | None],
    size: int,
) -> Tensor:
    """The images of some chunks: uint8, (len(chunks) * size, C, H, W), on the CPU."""
    generators = [chunk_generator(model, seed, chunk) for chunk in chunks]
    labels = [labels_of(chunk) for chunk in chunks]
    noise: list[Tensor] = []
    decode: Callable[[Tensor, Tensor | None], Tensor] = model.decode_latents
    if len(chunks) > 1:
        draw_noise: Callable[..., Tensor | None] = model.draw_latents
        if isinstance(model, FromUniforms):
            draw_noise, decode = model.draw_uniforms, model.decode_uniforms
        with plugin_code(f"{type(model).__name__}.{draw_noise.__name__}()"):
            found = [draw_noise(size, generator=generator) for generator in generators]
        noise = [each for each in found if each is not None]
    with plugin_code(f"{type(model).__name__}.sample()"):
        if noise:
            given = [each for each in labels if each is not None]
            answers = [decode(torch.cat(noise), torch.cat(given) if given else None)]
        else:  # this model draws more on the way
            answers = [
                model.sample(size, of, generator=generator)
                for of, generator in zip(labels, generators, strict=True)
            ]
        for images in answers:
            check_images(model, images, "sample", size * len(chunks) // len(answers))
        return to_bytes(answers[0] if len(answers) == 1 else torch.cat(answers)).cpu()


def chunk_size(model: GenerativeModel) -> int:
    """How many images a model is asked for at a time; PluginError if that is no number of them."""
    size = model.sample_batch
    if not isinstance(size, int) or not 1 <= size <= MOST_AT_A_TIME:
        raise PluginError(
            f"{type(model).__name__}.sample_batch is {size!r}; give a whole number from 1 to "
            f"{MOST_AT_A_TIME:,}"
        )
    return size


@contextmanager
def evaluating(model: GenerativeModel) -> Iterator[None]:
    """Put a model into evaluation mode; afterwards it is in the mode it was in before."""
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


def label_chunks(
    model: GenerativeModel, labels: Tensor | None, size: int = CHUNK
) -> Callable[[int], Tensor | None]:
    """The labels, int64 (size,), on the model's device, of a chunk by its number; the last one is
    filled up with class 0. None if there are no labels."""
    if labels is None:
        return lambda chunk: None
    filled = F.pad(labels, (0, -len(labels) % size)).to(model.device)
    return lambda chunk: filled[chunk * size :][:size]


def check_images(model: GenerativeModel, images: Tensor, method: str, count: int = CHUNK) -> None:
    """Raise PluginError unless a model's method returned finite images: float, (count, C, H, W)."""
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
    labels: Tensor | Sequence[int] | int | str | None = None,
) -> tuple[Tensor, float]:
    """`draw`: uint8, (n, C, H, W), and the images per second it reached."""
    start = time.perf_counter()
    images = draw(model, n, seed, on_progress, labels=labels)
    return images, n / (time.perf_counter() - start)


def draw_classes(model: GenerativeModel, labels: Sequence[int], n: int, seed: int = 0) -> Tensor:
    """n samples of each class: uint8, (labels, n, C, H, W), on the CPU.

    Image i of a class depends on the model, the seed, the class and i alone; image i of all
    classes comes from the same noise.

    Raises:
        UsageError: the model has no such class, or its samples do not follow labels.
    """
    name, classes = type(model).__name__, model.image_shape.classes
    if not classes:
        raise UsageError(f"{name} was trained on images without classes; draw without --labels")
    for label in labels:
        if not 0 <= label < classes:
            raise UsageError(f"there is no class {label}; classes are 0 to {classes - 1}")
    if not model.conditional and not _follows_labels(model, classes):
        could = hasattr(model.config, "conditional")
        raise UsageError(
            f"{name} is not class-conditional: its samples are the same whatever the label; "
            f"{'train it with --conditional, or ' * could}draw without --labels"
        )
    return torch.stack([draw(model, n, seed, labels=label) for label in labels])


@torch.no_grad()
def _follows_labels(model: GenerativeModel, classes: int) -> bool:
    """Whether other labels give other samples of the same noise."""
    answers = []
    with evaluating(model), plugin_code(f"{type(model).__name__}.sample()"):
        for first in (0, 1):
            labels = (torch.arange(first, first + 4) % classes).to(model.device)
            generator = chunk_generator(model, 0, 0)
            answers.append(model.sample(len(labels), labels, generator=generator))
    return not torch.equal(*answers)
