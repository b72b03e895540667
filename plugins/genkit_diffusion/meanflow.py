"""MeanFlow: a network that gives the average velocity over any part of the path, for one step."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from genkit.model import Batch, Phase
from genkit_diffusion import MeanFlowConfig, MeanFlowSampler
from genkit_diffusion.base import UNetModel
from genkit_diffusion.derivative import along
from genkit_diffusion.solvers import Watch


class MeanFlow(UNetModel):
    """MeanFlow (Geng et al. 2025, arXiv 2505.13447). The network learns u(x, t, s), the average
    velocity on the way from time t to s >= t, by the identity u = v + (s - t) du/dt (equation 6,
    with time from noise at 0 to images at 1), whose right side is computed by one forward
    derivative and kept fixed (equations 9 to 11). A sample is x_0 + u(x_0, 0, 1) (algorithm 2).

    `guidance` of a conditional model is built into what is learned (equations 18 and 19).

    Departures: what the network leaves to learn is scaled as in EDM (Karras et al. 2022, arXiv
    2206.00364), so that an untrained model carries noise to a Gaussian of the data's mean and
    variance; the error in the weight of equation 22 is a mean over pixels, not a sum; a fixed share
    of each batch has s > t.
    """

    config: MeanFlowConfig
    sampler: MeanFlowSampler
    times = 2
    turns = 1  # its derivative is part of the loss

    def phases(self) -> list[Phase]:
        return [self.make_phase("meanflow", self.loss, compile=False, precision="fp32")]

    def average_velocity(
        self,
        images: Tensor,
        start: Tensor,
        end: Tensor,
        labels: Tensor | None = None,
        facts: Tensor | None = None,
    ) -> Tensor:
        """u(x, t, s) of noisy images x, (N, C, H, W), from times t to s, (N,): (N, C, H, W).
        `facts`, (N, LABELS), say how images were augmented."""
        data = self.deviation**2
        t, s = start[:, None, None, None], end[:, None, None, None]
        deviation = (t**2 * data + (1 - t) ** 2).sqrt()  # of x_t
        ahead = (s**2 * data + (1 - s) ** 2).sqrt()
        centred = images - t * self.mean
        times = torch.stack([start, end - start], 1)  # (N, 2)
        found: Tensor = self.network(centred / deviation, times, labels, facts)
        # (ahead - deviation) / (s - t), also where s = t
        growth = ((t + s) * data - (2 - t - s)) / (ahead + deviation)
        return self.mean + growth / deviation * centred + self.deviation / deviation * found

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Squared error of the average velocity, weighed by 1 / (error + c)^p (equation 22)."""
        labels = self.hide_labels(batch.labels)
        images, facts = self.augment(batch.images)
        noise = torch.randn_like(images)
        normal = torch.randn(2, len(images), device=images.device)
        drawn = (self.config.time_mean + self.config.time_deviation * normal).sigmoid()
        start, end = drawn.amin(0), drawn.amax(0)
        whole = round(self.config.span_share * len(images))  # images with s > t
        end = torch.where(torch.arange(len(images), device=images.device) < whole, end, start)
        x = torch.lerp(noise, images, start[:, None, None, None])
        velocity = self.guide(images - noise, x, start, labels, facts)
        parts = []
        if whole:
            first = [None if one is None else one[:whole] for one in (labels, facts)]
            found, change = along(
                lambda x, start: self.average_velocity(x, start, end[:whole], *first),
                (x[:whole], start[:whole]),
                (velocity[:whole], torch.ones_like(start[:whole])),
            )
            span = (end - start)[:whole, None, None, None]
            parts.append(found - (velocity[:whole] + span * change).detach())
        if whole < len(images):
            rest = [None if one is None else one[whole:] for one in (labels, facts)]
            found = self.average_velocity(x[whole:], start[whole:], end[whole:], *rest)
            parts.append(found - velocity[whole:])
        error = torch.cat(parts).square().flatten(1).mean(1)  # (N,)
        weight = (error.detach() + self.config.weight_floor) ** -self.config.weight_power
        return (weight * error).mean(), {"error": error.detach().mean()}

    def guide(
        self,
        velocity: Tensor,
        x: Tensor,
        time: Tensor,
        labels: Tensor | None,
        facts: Tensor | None = None,
    ) -> Tensor:
        """Velocities, (N, C, H, W), pushed away from those without a label, where there is one."""
        strength = self.config.guidance
        if labels is None or strength == 1:
            return velocity
        with torch.no_grad():
            none = torch.full_like(labels, self.image_shape.classes)
            free = self.average_velocity(x, time, time, none, facts)
        labelled = (labels < self.image_shape.classes)[:, None, None, None]
        return torch.where(labelled, torch.lerp(free, velocity, strength), velocity)

    def draw_latents(self, n: int, *, generator: torch.Generator) -> Tensor:
        """The noise x_0, (n, C, H, W)."""
        return self.draw_noise(n, generator)

    def decode_latents(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The images, (n, C, H, W) in [-1, 1], that the noise reaches at t = 1."""
        x, n = latents, latents.shape[0]  # len() would fix the batch of an exported network
        labels = self.choose_labels(labels, n)
        times = torch.linspace(0, 1, self.sampler.steps + 1, device=self.device)
        watch = Watch(times)
        for now, then in pairwise(times.unbind()):
            average = self.average_velocity(x, now.expand(n), then.expand(n), labels)
            x = watch.see(x + (then - now) * average)
        if not torch.compiler.is_compiling():
            watch.check()
        return x.clamp(-1, 1)
