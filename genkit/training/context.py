"""What one training is given, and where it stands: plain values that its parts share."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genkit.compute.ranks import Ranks
from genkit.config.budget import Budget
from genkit.config.run import RunConfig
from genkit.data import ImageData
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir
from genkit.io.run_records import RunRecord
from genkit.registry.catalogue import Registry


@dataclass(frozen=True)
class RunContext:
    """All that a training is given beside its model.

    Args:
        record: what config.json holds.
        options: the run's options, as in the record.
        device: this rank's own.
        precision: "fp32" or "bf16".
    """

    directory: RunDir
    record: RunRecord
    options: RunConfig
    data: ImageData
    device: torch.device
    precision: str
    registry: Registry
    reporter: Reporter
    ranks: Ranks

    @property
    def budget(self) -> Budget:
        """How long to train, in a unit that is counted while training."""
        return Budget.parse(self.options.budget).in_images(self.record.flop_per_image)


@dataclass(frozen=True)
class Moment:
    """Where a training stands.

    Args:
        step: iterations done.
        images: training images seen.
        seconds: spent in iterations; grids and checkpoints do not count.
        spent: the share of the budget that is used up, 0 to 1 and above.
    """

    step: int
    images: int
    seconds: float
    spent: float
