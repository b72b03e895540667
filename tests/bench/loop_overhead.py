"""What genkit's loop adds to one step of a bare PyTorch loop that does the same arithmetic.

A tiny model, so that the arithmetic hides nothing. Blocks of steps are interleaved and compared
by their medians: other work on the machine then weighs on all alike.
"""

import copy
import statistics
import time

import numpy as np
import torch
from torch import nn

from genkit.data import Split
from genkit.loop import Loop
from genkit.model import GenerativeModel, Phase
from genkit.specs import ImageShape, TrainerConfig
from genkit.stream import Stream

BATCH, STEPS, ROUNDS = 32, 50, 60


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


def make_bare(images, model, half_life=0):
    """A step as one would write it for this model alone."""
    pixels = torch.from_numpy(images)
    (phase,) = model.train().phases()
    optimizer = phase.optimizer
    average = copy.deepcopy(model)
    weight = 1 - 0.5 ** (BATCH / half_life) if half_life else 0
    order, position = torch.randperm(len(pixels)), 0

    def step():
        nonlocal order, position
        if position + BATCH > len(pixels):
            order, position = torch.randperm(len(pixels)), 0
        chosen = pixels[order[position : position + BATCH]]
        position += BATCH
        x = chosen.float().mul_(1 / 127.5).sub_(1).flatten(1)
        optimizer.zero_grad(set_to_none=True)
        loss = ((model.layers(x + torch.randn_like(x)) - x) ** 2).mean()
        loss.backward()
        optimizer.step()
        if half_life:
            with torch.no_grad():
                for own, new in zip(average.parameters(), model.parameters(), strict=True):
                    own.lerp_(new, weight)

    return step


def make_genkit(images, model, half_life=0):
    stream = Stream(Split(images), batch_size=BATCH, seed=0, device=torch.device("cpu"))
    return Loop(model, stream, seed=0, ema_half_life=half_life).iterate


def milliseconds(step) -> float:
    """Per step, of this process's CPU time, which other processes disturb least."""
    start = time.process_time()
    for _ in range(STEPS):
        step()
    return (time.process_time() - start) / STEPS * 1000


def main() -> None:
    torch.set_num_threads(1)
    images = np.random.default_rng(0).integers(0, 256, (4096, 1, 8, 8), dtype=np.uint8)
    print(f"MLP of two layers, batch {BATCH}, fp32, 1 thread; medians of {ROUNDS} x {STEPS} steps")
    for title, half_life in (("without average", 0), ("with average", 10_000)):
        steps = {
            "bare": make_bare(images, TinyMLP(), half_life),
            "genkit": make_genkit(images, TinyMLP(), half_life),
        }
        times = {name: [] for name in steps}
        for _ in range(ROUNDS + 3):
            for name, step in steps.items():
                times[name].append(milliseconds(step))
        bare, genkit = (statistics.median(times[name][3:]) for name in steps)
        difference = statistics.median(
            g - b for g, b in zip(times["genkit"][3:], times["bare"][3:], strict=True)
        )
        print(
            f"{title}: bare {bare:.3f} ms a step, genkit {genkit:.3f} ms, "
            f"difference {difference:+.3f} ms"
        )


if __name__ == "__main__":
    main()
