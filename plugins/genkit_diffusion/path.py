"""Models of the path from noise to images by its velocity: guidance, likelihood, completion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from genkit.errors import UsageError
from genkit.model import LogLikelihood
from genkit_diffusion import PathSampler
from genkit_diffusion.base import UNetModel
from genkit_diffusion.likelihood import log_density
from genkit_diffusion.solvers import follow, step

PATHS, MOMENTS = 8, 12  # rows of a picture of paths, and columns at most
REDRAWS = 3  # of each step of a completion
LEVEL = 2 / 255  # between two levels of images in [-1, 1]


class PathModel(UNetModel):
    """x_t = t x_1 + (1 - t) x_0 runs from noise x_0 to an image x_1, and the network gives its
    velocity, the mean of x_1 - x_0 given x_t.

    As in EDM (Karras et al. 2022, arXiv 2206.00364, equation 7 and appendix B.6) the network sees
    x_t at variance 1 and learns what the best linear velocity leaves, for data of the training
    images' mean and variance. With x_t = t y and sigma = (1 - t) / t it is EDM's network for
    y = x_1 + sigma n.
    """

    sampler: PathSampler

    def variance(self, t: Tensor) -> Tensor:
        """Of the values of x_t, at times t, of any shape."""
        return t**2 * self.deviation**2 + (1 - t) ** 2

    def velocity(
        self,
        images: Tensor,
        times: Tensor,
        labels: Tensor | None = None,
        facts: Tensor | None = None,
    ) -> Tensor:
        """v(x, t) of noisy images x, (N, C, H, W), at times in [0, 1], (N,), given labels, (N,), of
        a conditional model, or None for those of no label: (N, C, H, W). `facts`, (N, LABELS), say
        how images were augmented."""
        t = times[:, None, None, None]
        variance = self.variance(t)
        centred = images - t * self.mean
        found: Tensor = self.network(centred * variance.rsqrt(), times[:, None], labels, facts)
        linear = self.mean + (t * self.deviation**2 - (1 - t)) / variance * centred
        return linear + self.deviation * variance.rsqrt() * found

    forward = velocity  # what is exported

    def network_to_export(self) -> tuple[nn.Module, Mapping[str, Tensor]]:
        """The velocity at noisy images and times; the steps are left out."""
        inputs = {"images": self.draw_noise(5, torch.Generator(self.device).manual_seed(0))}
        inputs["times"] = torch.linspace(0.1, 0.9, 5, device=self.device)
        labels = self.choose_labels(None, 5)
        return self, inputs if labels is None else {**inputs, "labels": labels}

    def dequantise(self, images: Tensor) -> Tensor:
        """Images with uniform noise as wide as a level, which gives them a density (Theis et al.
        2016, arXiv 1511.01844, section 3.1)."""
        return images + LEVEL * (torch.rand_like(images) - 0.5)

    def guided(self, labels: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        """The velocity at x, (N, C, H, W), and a time, (), by labels, (N,), with classifier-free
        guidance w: v(x) + w (v(x | label) - v(x)), which is Ho and Salimans 2022 (arXiv
        2207.12598), equation 6, with w - 1 as their w.

        Raises:
            UsageError: there is no label that a guidance could follow.
        """
        strength = self.sampler.guidance
        if strength != 1 and not self.conditional:
            raise UsageError(
                f"guidance {strength:g} needs a model trained with --conditional; leave it out"
            )
        if strength != 1 and not self.config.label_dropout:
            raise UsageError(
                f"guidance {strength:g} needs a model trained with --label-dropout above 0"
            )

        def field(x: Tensor, time: Tensor) -> Tensor:
            times = time.expand(len(x))
            if strength == 1 or labels is None:
                return self.velocity(x, times, labels)
            none = torch.full_like(labels, self.image_shape.classes)
            if strength == 0:
                return self.velocity(x, times, none)
            both = torch.cat([labels, none])
            given, free = self.velocity(torch.cat([x, x]), times.repeat(2), both).chunk(2)
            return torch.lerp(free, given, strength)

        return field

    def moments(self) -> Tensor:
        """The times of the sampler's steps, from noise to 1, (steps + 1,)."""
        return torch.linspace(0, 1, self.sampler.steps + 1, device=self.device)

    @property
    def solver(self) -> str:
        """The sampler's, or that of the same order where steps are followed one by one."""
        return "heun" if self.sampler.solver == "dpm++" else self.sampler.solver

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """The path of some samples from noise to image, a row each, and the clean images that the
        network sees in them on the way."""
        times, field = self.moments(), self.guided(self.choose_labels(None, PATHS))
        noise = self.draw_noise(PATHS, torch.Generator(self.device).manual_seed(0))
        start = times[0] * self.mean + (1 - times[0]) * noise
        path = list(follow(field, start, times, self.solver))
        seen = [x + (1 - time) * field(x, time) for x, time in zip(path, times, strict=True)]
        shown = torch.linspace(0, len(times) - 1, min(len(times), MOMENTS)).round().int().tolist()
        rows = {"path": path, "clean-images-seen-on-the-path": seen}
        return {name: torch.stack([row[i] for i in shown], 1) for name, row in rows.items()}

    @torch.no_grad()
    def log_likelihood(self, images: Tensor) -> LogLikelihood:
        """A lower bound of ln p of images at 256 levels, by the density of the flow (Song et al.
        2021, arXiv 2011.13456, section 4.3 and appendix D.2) at images with uniform noise. Of a
        conditional model it is that of its network without labels."""
        with torch.autocast(images.device.type, enabled=False):
            spread = self.dequantise(images.float())
            density = log_density(lambda x, time: self.velocity(x, time.expand(len(x))), spread)
        volume = self.image_shape.dimensions * math.log(LEVEL)
        return LogLikelihood(density + volume, "bound", "images at 256 levels")

    def complete(
        self,
        images: Tensor,
        known: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Images with their hidden pixels drawn along the path, (N, C, H, W), as RePaint does
        (Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1): before each step known pixels are put
        in at its noise, and each step is taken back and drawn again, so that hidden pixels agree
        with them. An approximation: no draw from p(hidden | known).

        Departure: the steps are those of the flow's solver, without noise.
        """

        def noise() -> Tensor:
            return torch.randn(images.shape, generator=generator, device=self.device)

        field = self.guided(self.choose_labels(labels, len(images)))
        times = torch.linspace(0, 1, self.sampler.steps + 1, device=self.device)
        x = noise()
        for now, then in pairwise(times.unbind()):
            for redraw in range(REDRAWS):
                x = torch.where(known, torch.lerp(noise(), images, now), x)
                ahead = step(field, x, now, then, self.solver)
                if redraw < REDRAWS - 1:  # back to `now`: x_then scaled, and the missing noise
                    scale = now / then
                    missing = ((1 - now) ** 2 - (scale * (1 - then)) ** 2).clamp(min=0).sqrt()
                    x = scale * ahead + missing * noise()
            x = ahead
        return torch.where(known, images, x.clamp(-1, 1))
