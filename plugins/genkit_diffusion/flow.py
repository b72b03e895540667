"""Rectified flow: a velocity field that carries noise to images along straight lines."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genkit.model import Batch, Phase
from genkit_diffusion import FlowConfig, FlowSampler
from genkit_diffusion.base import UNetModel
from genkit_diffusion.solvers import solve


class Flow(UNetModel):
    """Rectified flow (Liu et al. 2022, arXiv 2209.03003), which is flow matching with optimal
    transport paths (Lipman et al. 2023, arXiv 2210.02747, section 4.1, with sigma_min = 0):
    x_t = t x_1 + (1 - t) x_0 runs from noise x_0 to an image x_1, and a network learns its
    velocity x_1 - x_0 by least squares (Liu et al., equation 1). Samples follow dx = v(x, t) dt
    from t = 0 to 1.

    `conditional` gives labels to the network, and hides some of them, so that samples can be
    guided (Ho and Salimans 2022, arXiv 2207.12598).

    Departures: as in EDM (Karras et al. 2022, arXiv 2206.00364, equation 7 and appendix B.6) the
    network sees x_t at variance 1 and learns what the best linear velocity leaves, for data of the
    training images' mean and variance; times are logit-normal (Esser et al. 2024, arXiv
    2403.03206, section 3.1); no second rectification.
    """

    config: FlowConfig
    sampler: FlowSampler

    def phases(self) -> list[Phase]:
        return [self.make_phase("flow", self.loss)]

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean squared error of the velocity."""
        images = batch.images
        noise = torch.randn_like(images)
        normal = torch.randn(len(images), device=images.device)
        time = (self.config.time_mean + self.config.time_deviation * normal).sigmoid()
        mixed = torch.lerp(noise, images, time[:, None, None, None])
        found = self.velocity(mixed, time, self.hide_labels(batch.labels))
        return (found - (images - noise)).square().mean(), {}

    def velocity(self, images: Tensor, times: Tensor, labels: Tensor | None = None) -> Tensor:
        """v(x, t) of noisy images x, (N, C, H, W), at times in [0, 1], (N,), given labels, (N,), of
        a conditional model, or None for those of no label: (N, C, H, W)."""
        t = times[:, None, None, None]
        data = self.deviation**2
        variance = t**2 * data + (1 - t) ** 2  # of x_t
        centred = images - t * self.mean
        found: Tensor = self.network(centred * variance.rsqrt(), times[:, None], labels)
        linear = self.mean + (t * data - (1 - t)) / variance * centred
        return linear + self.deviation * variance.rsqrt() * found

    forward = velocity  # what is exported

    def network_to_export(self) -> tuple[nn.Module, Mapping[str, Tensor]]:
        """The velocity at noisy images and times; the steps are left out."""
        inputs = {"images": self.draw_noise(5, torch.Generator(self.device).manual_seed(0))}
        inputs["times"] = torch.linspace(0.1, 0.9, 5, device=self.device)
        labels = self.choose_labels(None, 5)
        return self, inputs if labels is None else {**inputs, "labels": labels}

    def draw_latents(self, n: int, *, generator: torch.Generator) -> Tensor:
        """The noise x_0, (n, C, H, W)."""
        return self.draw_noise(n, generator)

    def decode_latents(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The images, (n, C, H, W) in [-1, 1], that the noise reaches at t = 1."""
        self.check_guidance()
        n = latents.shape[0]  # len() would fix the batch of an exported network
        labels = self.choose_labels(labels, n)
        times = torch.linspace(0, 1, self.sampler.steps + 1, device=self.device)
        images = solve(
            lambda x, time: self.guided(self.velocity, x, time.expand(n), labels),
            latents,
            times,
            self.sampler.solver,
        )
        return images.clamp(-1, 1)
