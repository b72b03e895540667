"""Diffusion as in EDM: a network that removes noise of any strength, and its samplers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genkit.model import Batch, Phase
from genkit_diffusion import DiffusionConfig, DiffusionSampler
from genkit_diffusion.path import PathModel
from genkit_diffusion.solvers import Watch, solve_data, step

RHO = 7.0  # Karras et al. 2022, table 1


class Diffusion(PathModel):
    """EDM (Karras et al. 2022, arXiv 2206.00364): y = x_1 + sigma n, with ln(sigma) normal in
    training, the preconditioning of table 1 and a loss that weighs all noise alike at first
    (equation 8). Samples go from sigma_max to 0 in the steps of equation 5 by algorithm 1, or, with
    churn, by algorithm 2, which adds noise before each step.

    Departures: the network is given t = 1 / (1 + sigma), the time of a flow with as much noise, not
    ln(sigma) / 4; the data's mean is subtracted; S_noise is 1, and churn is applied at every noise;
    images get uniform noise between their levels in training.
    """

    config: DiffusionConfig
    sampler: DiffusionSampler

    def phases(self) -> list[Phase]:
        return [self.make_phase("denoise", self.loss)]

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Squared error of the clean image, weighed by 1 / c_out^2."""
        augmented, facts = self.augment(batch.images)
        images = self.dequantise(augmented)
        noise = torch.randn_like(images)
        normal = torch.randn(len(images), device=images.device)
        sigma = (self.config.noise_mean + self.config.noise_deviation * normal).exp()
        time = 1 / (1 + sigma)
        t = time[:, None, None, None]
        mixed = torch.lerp(noise, images, t)
        found = self.velocity(mixed, time, self.hide_labels(batch.labels), facts)
        weight = self.variance(t) / self.deviation**2
        return (weight * (found - (images - noise)).square()).mean(), {}

    def draw_latents(self, n: int, *, generator: torch.Generator) -> Tensor | None:
        """Noise of variance 1, (n, C, H, W); None with churn, which adds more on the way."""
        return None if self.sampler.churn else self.draw_noise(n, generator)

    def decode_latents(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The images, (n, C, H, W) in [-1, 1], at sigma = 0."""
        return self.denoise(latents, labels, None)

    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator) -> Tensor:
        """n images, (n, C, H, W) in [-1, 1]."""
        return self.denoise(self.draw_noise(n, generator), labels, generator)

    def noises(self) -> Tensor:
        """The sigmas from sigma_max to 0, (steps + 1,) (equation 5)."""
        ramp = torch.linspace(0, 1, self.sampler.steps, device=self.device)
        low, high = self.config.sigma_min ** (1 / RHO), self.config.sigma_max ** (1 / RHO)
        return torch.cat([(high + ramp * (low - high)) ** RHO, ramp.new_zeros(1)])

    def moments(self) -> Tensor:
        """The times at which a flow has as much noise, (steps + 1,)."""
        return 1 / (1 + self.noises())

    def denoise(
        self, latents: Tensor, labels: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """Images, (n, C, H, W), from noise of variance 1; churn draws from the generator."""
        velocity = self.guided(self.choose_labels(labels, len(latents)))
        sigmas = self.noises()

        def clean(y: Tensor, sigma: Tensor) -> Tensor:
            time = 1 / (1 + sigma)
            return time * y + (1 - time) * velocity(time * y, time)

        def slope(y: Tensor, sigma: Tensor) -> Tensor:
            return (y - clean(y, sigma)) / sigma  # equation 3

        y = self.mean + sigmas[0] * latents
        if self.sampler.solver == "dpm++":
            y = solve_data(clean, y, sigmas, torch.ones_like(sigmas), sigmas)
            return y.clamp(-1, 1)
        more = min(self.sampler.churn / self.sampler.steps, math.sqrt(2) - 1)
        watch = Watch(sigmas)
        for i in range(self.sampler.steps):
            now, solver = sigmas[i], self.sampler.solver
            if more and generator is not None:
                noise = torch.randn(y.shape, generator=generator, device=y.device)
                y, now = y + now * math.sqrt((1 + more) ** 2 - 1) * noise, now * (1 + more)
            if i == self.sampler.steps - 1 and solver == "heun":
                solver = "euler"  # there is no slope at sigma = 0
            y = watch.see(step(slope, y, now, sigmas[i + 1], solver))
        watch.check()
        return y.clamp(-1, 1)
