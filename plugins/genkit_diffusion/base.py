"""What all models of this plugin share: network, labels, optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from genkit.errors import UsageError
from genkit.model import Batch, GenerativeModel, Phase, diverged
from genkit.specs import ImageShape
from genkit_diffusion import NetworkConfig
from genkit_diffusion.augmentation import LABELS, augment
from genkit_diffusion.network import UNet

Loss = Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]

SMALLEST, LARGEST = 8, 128
COARSEST = 8  # places a side of the coarsest level, at most


class UNetModel(GenerativeModel):
    """A model whose network looks at noisy images, times and labels."""

    config: NetworkConfig
    times = 1  # that the network is given
    turns = 50  # of the fastest wave of their embedding, over the whole path

    def __init__(self, config: NetworkConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        sides = (image_shape.height, image_shape.width)
        if min(sides) < SMALLEST or max(sides) > LARGEST:
            raise UsageError(
                f"this model takes images of {SMALLEST} to {LARGEST} pixels a side, not "
                f"{image_shape}"
            )
        if config.conditional and not image_shape.classes:
            raise UsageError("--conditional needs data with labels; leave it out, or choose others")
        self.conditional = config.conditional
        levels = 1 + max(1, math.ceil(math.log2(max(sides) / config.patch / COARSEST)))
        self.network = UNet(
            channels=image_shape.channels,
            size=sides,
            widths=(config.width, *[2 * config.width] * (levels - 1)),
            blocks=config.blocks,
            patch=config.patch,
            attention=min(config.attention, levels),
            times=self.times,
            turns=self.turns,
            classes=image_shape.classes if config.conditional else 0,
            facts=LABELS if config.augment else 0,
            dropout=config.dropout,
        )
        self.mean = image_shape.mean
        self.deviation = image_shape.deviation or 1.0  # 0 where all training images are alike

    def make_phase(
        self,
        name: str,
        loss: Loss,
        *,
        compile: bool = True,
        precision: Literal["fp32"] | None = None,
    ) -> Phase:
        """The phase that trains the network by a loss."""
        optimizer = torch.optim.Adam(
            self.parameters(), self.config.learning_rate, betas=(0.9, 0.99), fused=True
        )
        return Phase(
            name=name,
            loss=loss,
            optimizer=optimizer,
            clip=1.0,
            schedule=self.schedule,
            compile=compile,
            precision=precision,
        )

    def schedule(self, step: int) -> float:
        """Linear warm-up, constant, then 1/sqrt(step): no last step needs to be known."""
        rise = min((step + 1) / self.config.warmup_steps, 1)
        return rise / math.sqrt(max(step / self.config.decay_after, 1))

    def hide_labels(self, labels: Tensor | None) -> Tensor | None:
        """Labels, (N,), some of them replaced by "no label" at random (Ho and Salimans 2022, arXiv
        2207.12598, algorithm 1); None if the model is not conditional."""
        if not self.conditional or labels is None:
            return None
        hidden = torch.rand(labels.shape, device=labels.device) < self.config.label_dropout
        return torch.where(hidden, self.image_shape.classes, labels)

    def augment(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Training images, (N, C, H, W), changed at random, and how, (N, LABELS), for the network
        to see; None without augmentation."""
        if not self.config.augment:
            return images, None
        return augment(images, self.config.augment)

    def draw_noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Standard normal, (n, C, H, W)."""
        shape = self.image_shape
        size = (n, shape.channels, shape.height, shape.width)
        return torch.randn(size, generator=generator, device=self.device)

    def trouble(self, history: Mapping[str, Sequence[float]]) -> str | None:
        """A loss that rises again."""
        names = [name for name in history if name.endswith("/loss")]
        if not any(diverged(history[name]) for name in names):
            return None
        return (
            "the loss rises again: training diverges; try a smaller --learning-rate than "
            f"{self.config.learning_rate:g}"
        )
