"""Rectified flow: a velocity field that carries noise to images along straight lines."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from torch import Tensor

from genkit.errors import UsageError
from genkit.model import Batch, Phase
from genkit.specs import ImageShape
from genkit_diffusion import FlowConfig
from genkit_diffusion.path import PathModel
from genkit_diffusion.solvers import solve, solve_data


class Flow(PathModel):
    """Rectified flow (Liu et al. 2022, arXiv 2209.03003), which is flow matching with optimal
    transport paths (Lipman et al. 2023, arXiv 2210.02747, section 4.1, with sigma_min = 0):
    x_t = t x_1 + (1 - t) x_0 runs from noise x_0 to an image x_1, and a network learns its
    velocity x_1 - x_0 by least squares (Liu et al., equation 1). Samples follow dx = v(x, t) dt
    from t = 0 to 1.

    `conditional` gives labels to the network, and hides some of them, so that samples can be
    guided (Ho and Salimans 2022, arXiv 2207.12598).

    Departures: the network's input and output are scaled as in EDM, see `PathModel`; times are
    logit-normal (Esser et al. 2024, arXiv 2403.03206, section 3.1); images get uniform noise
    between their levels; no second rectification.

    With `coupling="optimal-transport"` the noise of a batch is dealt to its images so that the sum
    of squared distances is least (Tong et al. 2024, arXiv 2302.00482, section 3.3, solved exactly),
    which straightens the paths. Departure: if the model is conditional, among the images of each
    class, since the noise of a class must be as that of all.
    """

    config: FlowConfig

    def __init__(self, config: FlowConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        if config.coupling == "optimal-transport" and find_spec("scipy") is None:
            raise UsageError("--coupling optimal-transport needs SciPy: pip install scipy")

    def phases(self) -> list[Phase]:
        return [self.make_phase("flow", self.loss)]

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Mean squared error of the velocity."""
        augmented, facts = self.augment(batch.images)
        images = self.dequantise(augmented)
        noise = torch.randn_like(images)
        if self.config.coupling == "optimal-transport":
            noise = couple(noise, images, batch.labels if self.conditional else None)
        normal = torch.randn(len(images), device=images.device)
        time = (self.config.time_mean + self.config.time_deviation * normal).sigmoid()
        mixed = torch.lerp(noise, images, time[:, None, None, None])
        found = self.velocity(mixed, time, self.hide_labels(batch.labels), facts)
        return (found - (images - noise)).square().mean(), {}

    def draw_latents(self, n: int, *, generator: torch.Generator) -> Tensor:
        """The noise x_0, (n, C, H, W)."""
        return self.draw_noise(n, generator)

    def decode_latents(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The images, (n, C, H, W) in [-1, 1], that the noise reaches at t = 1."""
        field = self.guided(self.choose_labels(labels, len(latents)))
        times = self.moments()
        if self.sampler.solver == "dpm++":
            images = solve_data(
                lambda x, time: x + (1 - time) * field(x, time), latents, times, times, 1 - times
            )
        else:
            images = solve(field, latents, times, self.sampler.solver)
        return images.clamp(-1, 1)


def couple(noise: Tensor, images: Tensor, labels: Tensor | None) -> Tensor:
    """The same noise in the order in which the sum of its squared distances to the images is least,
    among those of equal labels if there are any; (N, C, H, W)."""
    from scipy.optimize import linear_sum_assignment

    order = torch.arange(len(noise), device=noise.device)
    labels = torch.zeros_like(order) if labels is None else labels
    for label in labels.unique():
        places = (labels == label).nonzero()[:, 0]
        cost = torch.cdist(images[places].flatten(1), noise[places].flatten(1)).square()
        _, nearest = linear_sum_assignment(cost.cpu().numpy())  # of each image
        order[places] = places[torch.from_numpy(nearest).to(places.device)]
    return noise[order]
