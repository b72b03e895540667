"""The cheap contracts of a model, checked before the first step of its training.

They are checked on a model of their own, and leave all random states as they were: the training
that follows computes the same bits as without.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from genkit.compute.device import autocast, is_out_of_memory, place
from genkit.config.resolve import Resolved
from genkit.contracts.contract import (
    PromiseBroken,
    Violations,
    check,
    difference,
    drawn_from,
    own_random_numbers,
    random_states,
    seed_random,
)
from genkit.contracts.images import (
    REMEDIES,
    REMEDY,
    image_violations,
    unit_range_violations,
)
from genkit.contracts.model import BUILDING_CONTRACTS, LOSS_CONTRACTS
from genkit.data import ImageData, Split
from genkit.errors import GenkitError, PluginError, plugin_code
from genkit.io.machine import is_switched_on
from genkit.model import Batch, GenerativeModel, Phase, to_unit_range
from genkit.runs.build import build_model
from genkit.specs import ImageShape, TrainerConfig, TrainerSpec

OFF_SWITCH = "GENKIT_NO_CHECKS"
BATCH, COUNT = 8, 2  # images in a batch, at most, and samples
UNIT_RANGE_MEAN = 0.35  # a new sigmoid gives about 0.5, a new tanh about 0 and both signs
QUICK_SECONDS = 0.3  # a sampler that takes longer is not asked a second time


@dataclass(frozen=True)
class Trial:
    """A model as a training makes it, built once, on its device, and what it is tried on."""

    spec: TrainerSpec
    config: TrainerConfig
    shape: ImageShape
    split: Split
    seed: int
    device: torch.device
    batch_size: int

    def build(self, seed: int = 0) -> GenerativeModel:
        """The model, always the same one."""
        return self._model

    @cached_property
    def _model(self) -> GenerativeModel:
        model = build_model(self.spec, self.config, self.shape, self.seed)
        place(model, self.device)
        return model

    def planned(self) -> tuple[GenerativeModel, list[Phase]]:
        """The model and its phases, always the same ones."""
        return self._model, self._phases

    @cached_property
    def _phases(self) -> list[Phase]:
        with plugin_code(f"{type(self._model).__name__}.phases()"):
            return self._model.train().phases()

    def batch(self) -> Batch:
        """The first training images, (batch_size or fewer, C, H, W)."""
        chosen = slice(self.batch_size)
        images = torch.from_numpy(self.split.images[chosen]).to(self.device)
        labels = self.split.labels
        return Batch(
            to_unit_range(images),
            None if labels is None else torch.from_numpy(labels[chosen]).to(self.device),
        )

    @cached_property
    def drawn(self) -> tuple[Tensor, str | None, float]:
        """Samples, the library whose global generator they were drawn from if any, and the seconds
        that it took."""
        before, start = random_states(), time.perf_counter()
        images = self.sample()
        return images, drawn_from(before), time.perf_counter() - start

    def sample(self) -> Tensor:
        """Samples of always the same generator."""
        generator = torch.Generator(self.device).manual_seed(0)
        with torch.no_grad(), plugin_code(f"{type(self._model).__name__}.sample()"):
            return self._model.eval().sample(COUNT, generator=generator)


def samples_are_images(trial: Trial) -> Violations:
    """Samples must be finite floats in [-1, 1], (n, C, H, W)."""
    images = trial.drawn[0]
    if isinstance(images, Tensor) and images.device.type != trial.device.type:
        yield f"sample({COUNT}) gave a tensor on {images.device}, not on {trial.device}"
    yield from image_violations(images, COUNT, trial.shape, f"sample({COUNT})")


def black_is_minus_one(trial: Trial) -> Violations:
    """Black must be -1 in samples, not 0."""
    images = trial.drawn[0]
    if images.mean() > UNIT_RANGE_MEAN:
        yield from unit_range_violations(images, trial.split)


def samples_follow_from_the_generator(trial: Trial) -> Violations:
    """Samples must follow from the generator that sample() is given, and from nothing else."""
    first, whose, seconds = trial.drawn
    if whose:
        yield f"sampling drew from {whose}'s global generator{REMEDIES.get(whose, REMEDY)}"
    if seconds < QUICK_SECONDS:
        seed_random(1)
        if differs := difference(trial.sample(), first, "a second sample of the same generator"):
            yield f"{differs}{REMEDY}"


TRIAL_CONTRACTS = (
    *BUILDING_CONTRACTS,
    *LOSS_CONTRACTS,
    samples_are_images,
    black_is_minus_one,
    samples_follow_from_the_generator,
)


def check_before_training(
    spec: TrainerSpec,
    resolved: Resolved,
    data: ImageData,
    device: torch.device,
    precision: str,
    processes: int = 1,
) -> None:
    """Check the contracts of a model that cost next to nothing, unless GENKIT_NO_CHECKS is set.

    Args:
        processes: that share each batch.

    Raises:
        PluginError: a contract is broken; the message says which, how, and how to train anyway.
    """
    if is_switched_on(OFF_SWITCH):
        return
    run, options = resolved.run, resolved.options
    part = math.ceil(options.batch_size / run.accumulate / processes)
    batch = min(part, BATCH)
    trial = Trial(spec, options, data.model_shape, data.train, run.seed, device, batch)
    try:
        with own_random_numbers(), autocast(device, precision):
            trial.planned()
            check(spec.name, TRIAL_CONTRACTS, trial)
    except PromiseBroken as broken:
        cause = broken.__cause__
        if is_out_of_memory(cause):
            return  # the training will say it better
        if isinstance(cause, GenkitError):  # a message of the model's, or a failure in its code
            raise cause from cause.__cause__
        raise PluginError(f"{broken}; {OFF_SWITCH}=1 trains all the same") from cause
