"""What several benchmarks train: genkit's loop on digits, and the data of the usual tutorial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from genkit.compute.device import has_fast_bf16, place
from genkit.compute.ranks import ALONE, Ranks
from genkit.config.resolve import resolve
from genkit.config.run import RunConfig
from genkit.data import Split
from genkit.model import GenerativeModel
from genkit.phases.replay import Replays
from genkit.registry.catalogue import Registry, load_registry
from genkit.runs.build import build_model, load_data
from genkit.specs import ImageShape
from genkit.training.loop import Loop
from genkit.training.stream import Stream

CPU = torch.device("cpu")
SHAPE = ImageShape(1, 28, 28)
PRECISIONS = ("fp32", "bf16") if has_fast_bf16(CPU) else ("fp32",)
PRECISION = PRECISIONS[-1]
MNIST_IMAGES = 60_000


@cache
def registry() -> Registry:
    return load_registry()


@cache
def digits() -> Split:
    """10,000 training images."""
    return load_data(registry(), RunConfig()).train


def new_model(name: str, preset: str = "full", **options: Any) -> GenerativeModel:
    """A new model for 1 x 28 x 28 images with its preset's options, some of them changed."""
    spec = registry().trainers.find(name)
    return build_model(spec, resolve(spec, preset=preset, given=options).options, SHAPE, 0)


def new_loop(
    model: GenerativeModel,
    precision: str = PRECISION,
    ranks: Ranks = ALONE,
    compile: bool = False,
    device: torch.device = CPU,
    replays: Replays | None = None,
) -> Loop:
    """genkit's loop over digits, as `genkit train` makes it."""
    config = model.config
    place(model, device)
    stream = Stream(digits(), batch_size=config.batch_size, seed=0, device=device, ranks=ranks)
    return Loop(
        model,
        stream,
        seed=0,
        precision=precision,
        ema_half_life=config.ema_half_life,
        compile=compile,
        ranks=ranks,
        replays=replays,
    )


def steps_of(loop: Loop, count: int) -> Callable[[], None]:
    """Some iterations as a turn."""

    def turn() -> None:
        for _ in range(count):
            loop.iterate()

    return turn


def next_of(steps: Iterator[object], count: int) -> Callable[[], None]:
    """Some steps of an endless generator as a turn."""

    def turn() -> None:
        for _ in range(count):
            next(steps)

    return turn


def memory_batches(batch_size: int) -> Iterator[Tensor]:
    """Batches of digits, endlessly, from floats in memory that are shuffled in each epoch:
    (N, 1, 28, 28) in [-1, 1]."""
    images = torch.from_numpy(digits().images).float() / 127.5 - 1
    while True:
        for chosen in torch.randperm(len(images)).split(batch_size)[: len(images) // batch_size]:
            yield images[chosen]


def tuned(model: GenerativeModel) -> GenerativeModel:
    """The model as a careful script trains it on a CPU."""
    return model.train().to(memory_format=torch.channels_last)


class Pictures(Dataset[Tensor]):
    """What torchvision's MNIST does with each image, as often as MNIST has images."""

    def __init__(self) -> None:
        from torchvision import transforms

        self.images = digits().images
        self.transform = transforms.Compose(
            [transforms.Resize(28), transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
        )

    def __len__(self) -> int:
        return MNIST_IMAGES

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[index % len(self.images), 0]
        return self.transform(Image.fromarray(image))


def classic_batches(batch_size: int) -> Iterator[Tensor]:
    """Images of the usual DataLoader with two workers, endlessly: (N, 1, 28, 28) in [-1, 1]."""
    loader = DataLoader(Pictures(), batch_size, shuffle=True, num_workers=2, drop_last=True)
    while True:
        yield from loader
