"""What the models of this plugin share: network, labels, guidance, optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from genkit.errors import UsageError
from genkit.model import Batch, GenerativeModel, Phase, diverged
from genkit.specs import ImageShape
from genkit_diffusion import GuidedSampler, NetworkConfig
from genkit_diffusion.network import UNet

Loss = Callable[[Batch], tuple[Tensor, Mapping[str, Tensor]]]
# x, (N, C, H, W), times, (N,), and labels, (N,) or None, to (N, C, H, W)
Predict = Callable[[Tensor, Tensor, Tensor | None], Tensor]

SMALLEST, LARGEST = 8, 128
COARSEST = 8  # places a side of the coarsest level, at most


class UNetModel(GenerativeModel):
    """A model whose network looks at noisy images, times and labels."""

    config: NetworkConfig
    sampler: GuidedSampler
    times = 1  # that the network is given

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
            widths=(config.width, *[2 * config.width] * (levels - 1)),
            blocks=config.blocks,
            patch=config.patch,
            attention=min(config.attention, levels),
            times=self.times,
            classes=image_shape.classes if config.conditional else 0,
            dropout=config.dropout,
        )
        self.mean = image_shape.mean
        self.deviation = image_shape.deviation or 1.0  # 0 where all training images are alike

    def make_phase(self, name: str, loss: Loss, *, compile: bool = True) -> Phase:
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
        )

    def schedule(self, step: int, progress: float) -> float:
        """Linear warm-up, then linearly to 0 at the end of the budget."""
        return min((step + 1) / self.config.warmup_steps, 1) * (1 - progress)

    def hide_labels(self, labels: Tensor | None) -> Tensor | None:
        """Labels, (N,), some of them replaced by "no label" at random (Ho and Salimans 2022, arXiv
        2207.12598, algorithm 1); None if the model is not conditional."""
        if not self.conditional or labels is None:
            return None
        hidden = torch.rand(labels.shape, device=labels.device) < self.config.label_dropout
        return torch.where(hidden, self.image_shape.classes, labels)

    def guided(self, predict: Predict, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        """What the network predicts at x, (N, C, H, W), and times, (N,), with classifier-free
        guidance w: f(x) + w (f(x | label) - f(x)), which is Ho and Salimans 2022, equation 6, with
        w - 1 as their w."""
        strength = self.sampler.guidance
        if strength == 1 or labels is None:
            return predict(x, time, labels)
        none = torch.full_like(labels, self.image_shape.classes)
        if strength == 0:
            return predict(x, time, none)
        both = predict(torch.cat([x, x]), torch.cat([time, time]), torch.cat([labels, none]))
        given, free = both.chunk(2)
        return torch.lerp(free, given, strength)

    def check_guidance(self) -> None:
        """Raise UsageError for a guidance that has no label to follow."""
        strength = self.sampler.guidance
        if strength != 1 and not self.conditional:
            raise UsageError(
                f"guidance {strength:g} needs a model trained with --conditional; leave it out"
            )
        if strength != 1 and not self.config.label_dropout:
            raise UsageError(
                f"guidance {strength:g} needs a model trained with --label-dropout above 0"
            )

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
