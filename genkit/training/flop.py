"""What a training costs, counted in floating-point operations: a budget that no machine changes."""

from __future__ import annotations

import copy
import math

import torch
from torch.utils.flop_counter import FlopCounterMode

from genkit.compute.device import place
from genkit.compute.ranks import Ranks
from genkit.config.budget import Budget
from genkit.config.run import RunConfig
from genkit.data import ImageData
from genkit.errors import UsageError
from genkit.model import GenerativeModel
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
    found = flop_per_image(Loop(trial, stream, seed=options.seed))
    if not found:
        raise UsageError(
            f"--budget {options.budget}: torch counts no floating-point operations in the losses "
            f"of {type(model).__name__}; give a budget in kimg or steps"
        )
    return found


def flop_per_image(loop: Loop) -> float:
    """Floating-point operations of a whole training for each image seen, forward and backward, in
    products and convolutions (torch's counter leaves out the rest). The loop is used up by it.

    A phase that runs in every k-th iteration, or in a part of the budget, counts accordingly.
    """
    total = 0.0
    for phase in loop.phases:
        loop.phases, loop.step = [phase], 0  # in which every phase is due
        start, end = phase.active
        with FlopCounterMode(display=False) as counter:
            loop.iterate(start)
        total += counter.get_total_flops() * (end - start) / phase.every
    return total / loop.images_per_step
