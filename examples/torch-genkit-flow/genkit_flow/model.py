"""Rectified flow: a velocity field that carries noise to images along straight lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from genkit.errors import UsageError
from genkit.model import Batch, GenerativeModel, Phase
from genkit.specs import ImageShape
from genkit_flow import FlowConfig
from genkit_flow.network import UNet

SMALLEST, LARGEST = 8, 64


class Flow(GenerativeModel):
    """Rectified flow (Liu et al. 2022, arXiv 2209.03003): x_t = t x_1 + (1 - t) x_0 runs from
    noise x_0 to an image x_1, and a network learns its velocity x_1 - x_0 by least squares
    (equation 1). Samples follow dx = v(x, t) dt from t = 0 to 1.

    As in EDM (Karras et al. 2022, arXiv 2206.00364, equation 7) the network sees x_t at variance 1
    and learns what the best linear velocity leaves, both for data of variance 1.

    Departures: a small U-Net; times are logit-normal (Esser et al. 2024, arXiv 2403.03206,
    section 3.1); no second rectification.
    """

    def __init__(self, config: FlowConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        self.config: FlowConfig
        sides = (image_shape.height, image_shape.width)
        if min(sides) < SMALLEST or max(sides) > LARGEST:
            raise UsageError(
                f"flow takes images of {SMALLEST} to {LARGEST} pixels a side, not {image_shape}"
            )
        # until the coarsest level has at most 8 places a side
        levels = 1 + max(1, math.ceil(math.log2(max(sides) / config.patch / 8)))
        self.network = UNet(
            channels=image_shape.channels,
            levels=levels,
            width=config.width,
            blocks=config.blocks,
            patch=config.patch,
        )

    def phases(self) -> list[Phase]:
        optimizer = torch.optim.Adam(
            self.parameters(), self.config.learning_rate, betas=(0.9, 0.99), fused=True
        )
        return [
            Phase(
                name="flow",
                loss=self.loss,
                optimizer=optimizer,
                clip=1.0,
                schedule=self.schedule,
            )
        ]

    def schedule(self, step: int) -> float:
        """Linear warm-up, constant, then 1/sqrt(step): no last step needs to be known."""
        ramp = min((step + 1) / self.config.warmup_steps, 1)
        return ramp / math.sqrt(max(step / self.config.decay_after, 1))

    def velocity(self, x: Tensor, time: Tensor) -> Tensor:
        """v(x, t) of points x, (N, C, H, W), at times in [0, 1], (N,): (N, C, H, W)."""
        t = time[:, None, None, None]
        variance = t**2 + (1 - t) ** 2
        residual: Tensor = self.network(x / variance.sqrt(), time)
        return (2 * t - 1) / variance * x + residual / variance.sqrt()

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean squared error of the velocity."""
        images = batch.images
        noise = torch.randn_like(images)
        normal = torch.randn(len(images), device=images.device)
        time = (self.config.time_mean + self.config.time_deviation * normal).sigmoid()
        mixed = torch.lerp(noise, images, time[:, None, None, None])
        return (self.velocity(mixed, time) - (images - noise)).square().mean(), {}

    def draw_latents(self, n: int, *, generator: torch.Generator) -> Tensor:
        """The noise x_0, (n, C, H, W)."""
        shape = self.image_shape
        size = (n, shape.channels, shape.height, shape.width)
        return torch.randn(size, generator=generator, device=self.device)

    def decode_latents(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The images, (n, C, H, W) in [-1, 1], that the noise reaches at t = 1."""
        x, n = latents, latents.shape[0]  # len() would fix the batch of an exported network
        times = torch.linspace(0, 1, self.config.steps + 1, device=self.device)
        for now, then in pairwise(times):
            change = self.velocity(x, now.expand(n))
            if self.config.solver == "heun":
                ahead = self.velocity(x + (then - now) * change, then.expand(n))
                change = (change + ahead) / 2
            x = x + (then - now) * change
        return x.clamp(-1, 1)
