"""What genkit's loop adds to one step of a bare PyTorch loop that does the same arithmetic.

The model is tiny, so that its arithmetic does not hide the overhead; fp32, one thread.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from subjects import CPU, steps_of
from timing import Figure, Spread, interleave, main
from torch import nn

from genkit.data import Split
from genkit.model import GenerativeModel, Phase
from genkit.specs import ImageShape, TrainerConfig
from genkit.training.loop import Loop
from genkit.training.stream import Stream

BATCH_SIZE = 32


class TinyMLP(GenerativeModel):
    """A tiny denoiser of 8 x 8 images: two layers, one phase."""

    def __init__(self) -> None:
        super().__init__(TrainerConfig(), ImageShape(1, 8, 8))
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))

    def phases(self):
        optimizer = torch.optim.Adam(self.parameters(), 1e-3, fused=True)
        return [Phase(name="denoise", loss=self.loss, optimizer=optimizer)]

    def loss(self, batch):
        x = batch.images.flatten(1)
        return ((self.layers(x + torch.randn_like(x)) - x) ** 2).mean(), {}


def bare(images: np.ndarray, half_life: int, steps: int) -> Callable[[], None]:
    """Steps as one would write them for this model alone."""
    model = TinyMLP().train()
    pixels = torch.from_numpy(images)
    (phase,) = model.phases()
    optimizer = phase.optimizer
    average = copy.deepcopy(model)
    weight = 1 - 0.5 ** (BATCH_SIZE / half_life) if half_life else 0
    order, position = torch.randperm(len(pixels)), 0

    def step() -> None:
        nonlocal order, position
        if position + BATCH_SIZE > len(pixels):
            order, position = torch.randperm(len(pixels)), 0
        chosen = pixels[order[position : position + BATCH_SIZE]]
        position += BATCH_SIZE
        x = chosen.float().mul_(1 / 127.5).sub_(1).flatten(1)
        optimizer.zero_grad(set_to_none=True)
        loss = ((model.layers(x + torch.randn_like(x)) - x) ** 2).mean()
        loss.backward()
        optimizer.step()
        if half_life:
            with torch.no_grad():
                for own, new in zip(average.parameters(), model.parameters(), strict=True):
                    own.lerp_(new, weight)

    def turn() -> None:
        for _ in range(steps):
            step()

    return turn


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    steps, rounds = (5, 2) if quick else (50, 60)
    images = np.random.default_rng(0).integers(0, 256, (4096, 1, 8, 8), dtype=np.uint8)
    figures = []
    for title, half_life in (("without", 0), ("with", 10_000)):
        stream = Stream(Split(images), batch_size=BATCH_SIZE, seed=0, device=CPU)
        loop = Loop(TinyMLP(), stream, seed=0, ema_half_life=half_life)
        variants = {"bare": bare(images, half_life, steps), "genkit": steps_of(loop, steps)}
        turns = interleave(variants, rounds, warm=3)
        pairs = list(zip(turns["genkit"], turns["bare"], strict=True))
        cpu, wall = (
            Spread.of(1000 / steps * (ours[clock] - other[clock]) for ours, other in pairs)
            for clock in (0, 1)
        )
        alone = 1000 / steps * Spread.of(turn.cpu for turn in turns["bare"]).median
        figures.append(
            Figure(
                f"genkit's loop over a bare one, {title} average of the weights",
                cpu,
                wall,
                unit="ms a step",
                must=0.2,
                aim=0.1,
                note=f"bare {alone:.3f} ms a step",
            )
        )
    return figures


if __name__ == "__main__":
    main(measure, __doc__)
