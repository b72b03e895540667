"""What a training costs, counted in floating-point operations: a budget that no machine changes."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from genkit.compute.device import place
from genkit.compute.ranks import Ranks
from genkit.config.budget import Budget
from genkit.config.run import RunConfig
from genkit.data import ImageData
from genkit.errors import UsageError
from genkit.model import Batch, GenerativeModel, Phase
from genkit.training.loop import Loop
from genkit.training.stream import Stream


def flop_of_budget(
    options: RunConfig, model: GenerativeModel, data: ImageData, device: torch.device, ranks: Ranks
) -> float | None:
    """Floating-point operations of training per image, if the budget is in them; else None.

    Raises:
        UsageError: none can be counted.
    """
    if Budget.parse(options.budget).unit != "flop":
        return None
    part = math.ceil(model.config.batch_size / options.accumulate / ranks.count)
    trial = copy.deepcopy(model)
    place(trial, device)
    stream = Stream(data.train, batch_size=part, seed=options.seed, device=device)
    found = flop_per_image(CountingLoop(trial, stream, seed=options.seed))
    if not found:
        raise UsageError(
            f"--budget {options.budget}: torch counts no floating-point operations in the losses "
            f"of {type(model).__name__}; give a budget in kimg or steps"
        )
    return found


class Everywhere:
    """Stands in for torch's tracker of the module at work, whose hooks fail in `autograd.grad`."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class CountingLoop(Loop):
    """Counts what each phase costs in an iteration, by its name, forward and backward: products and
    convolutions, since torch's counter leaves out the rest."""

    def __init__(self, model: GenerativeModel, stream: Stream, *, seed: int) -> None:
        super().__init__(model, stream, seed=seed)
        self.flop: dict[str, int] = {}

    def iterate(self, progress: float = 0.0) -> dict[str, Tensor | float]:
        self.flop = {}
        return super().iterate(progress)

    def _update(self, phase: Phase, parts: list[Batch], batch: Batch) -> dict[str, Tensor | float]:
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = Everywhere()  # type: ignore[assignment]
        with counter:
            logs = super()._update(phase, parts, batch)
        self.flop[phase.name] = self.flop.get(phase.name, 0) + counter.get_total_flops()
        return logs


def flop_per_image(loop: CountingLoop) -> float:
    """Floating-point operations of a whole training for each image seen. A phase that runs in every
    k-th iteration, or in a part of the budget, counts accordingly. The loop is used up by it."""
    found: dict[str, int] = {}
    for start in sorted({phase.active[0] for phase in loop.phases}):
        loop.step = 0  # in which every phase is due
        loop.iterate(start)
        found |= loop.flop
    total = sum(
        found[phase.name] * (phase.active[1] - phase.active[0]) / phase.every
        for phase in loop.phases
    )
    return total / loop.images_per_step
