"""The model fixture: a small model, built and trained once for all contracts, as in a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from genkit.compute.device import place
from genkit.contracts.contract import CLASSES, seed_random
from genkit.data import Split
from genkit.model import Batch, GenerativeModel, Phase, to_unit_range
from genkit.runs.build import build_model
from genkit.runs.tree import StateDict, pack, unpack
from genkit.sampling.draw import draw
from genkit.specs import ImageShape, TrainerConfig, TrainerSpec
from genkit.training.loop import Loop
from genkit.training.stream import Stream

__tracebackhide__ = True

CPU = torch.device("cpu")
LEARNING_STEPS = 40
BEFORE, AFTER, MOST_AFTER = 3, 3, 20  # iterations before and after resuming


@dataclass(frozen=True)
class ModelFixture:
    """A trainer with small options on images of one shape, and what has been trained so far."""

    spec: TrainerSpec
    config: TrainerConfig
    shape: ImageShape
    split: Split

    def build(self, seed: int = 0, classes: int = 0) -> GenerativeModel:
        """A new model, as a run makes it."""
        sides = (self.shape.channels, self.shape.height, self.shape.width)
        model = build_model(self.spec, self.config, ImageShape(*sides, classes), seed)
        place(model, CPU)
        return model

    def loop(self, seed: int = 0, precision: str = "fp32", labelled: bool = False) -> Loop:
        """A new loop of a new model; `seed` is that of its weights, all else is always the same."""
        model = self.build(seed, len(CLASSES) if labelled else 0)
        split = self.split if labelled else Split(self.split.images)
        stream = Stream(split, batch_size=self.config.batch_size, seed=0, device=CPU)
        half_life = self.config.ema_half_life or 1000
        return Loop(model, stream, seed=0, precision=precision, ema_half_life=half_life)

    def planned(self) -> tuple[GenerativeModel, list[Phase]]:
        """A new model and its phases."""
        model = self.build()
        return model, model.phases()

    def batch(self) -> Batch:
        """The first batch of the training."""
        split = Split(self.split.images)
        return Stream(split, batch_size=self.config.batch_size, seed=0, device=CPU).batch(0)

    @cached_property
    def trained(self) -> Loop:
        """A loop after some dozens of iterations."""
        return run(self.loop(), LEARNING_STEPS)

    @property
    def before_and_after(self) -> tuple[int, int]:
        """Iterations before and after resuming; phases with `every` run in the latter."""
        lazy = max(phase.every for phase in self.trained.phases)
        return BEFORE, min(max(AFTER, lazy), MOST_AFTER)

    @cached_property
    def uninterrupted(self) -> StateDict:
        """The state of a loop that ran through."""
        return run(self.loop(), sum(self.before_and_after)).state_dict()

    def sample(self, n: int, seed: int = 0, others: int = 0) -> Tensor:
        """Samples of the averaged weights, (n, C, H, W); `others` seeds the global generators."""
        seed_random(others)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            return self.trained.average.eval().sample(n, generator=generator)

    @cached_property
    def drawn(self) -> Tensor:
        """Five samples as genkit draws them, (5, C, H, W) uint8."""
        return draw(self.trained.average, 5, seed=0)

    def images(self, count: int) -> Tensor:
        """The first training images, (count, C, H, W) float32 in [-1, 1], as a model gets them."""
        return to_unit_range(torch.from_numpy(self.split.images[:count]))


def run(loop: Loop, steps: int) -> Loop:
    """Do so many more iterations, check that all weights are finite, and return the loop."""
    for _ in range(steps):
        loop.iterate(loop.step * 7 % 10 / 10)  # so that each stage of the budget has its turn
    loop.check_weights()
    return loop


def reread(state: StateDict) -> StateDict:
    """A training state through a file's bytes, as a resumed run reads it."""
    found: StateDict = unpack(pack(state))
    return found
