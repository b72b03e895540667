"""Consistency distillation (Song et al. 2023, arXiv 2303.01469): a diffusion model that was trained
before, see guided_diffusion.py, becomes one that draws in one step or two.

    export GENKIT_PLUGINS=examples/guided_diffusion.py:examples/consistency.py
    genkit train consistency --teacher RUN
    genkit compare RUN NEW@steps=1 NEW@steps=2
"""

import copy

import torch

from genkit.errors import UsageError
from genkit.hookspecs import hookimpl
from genkit.model import GenerativeModel, Phase
from genkit.specs import RunPath, SamplerConfig, TrainerConfig, TrainerSpec, option

LOWEST, HIGHEST = 0.002, 80.0  # deviations of noise, as of the teacher


class ConsistencyConfig(TrainerConfig):
    teacher: RunPath | None = option(None, "run of guided-diffusion to distil")
    guidance: float = option(0.0, "the teacher's, which the student learns", ge=0)
    levels: int = option(18, "noise levels", ge=3)
    rate: float = option(3e-4, "Adam's learning rate", gt=0)


class ConsistencySampler(SamplerConfig):
    steps: int = option(2, "evaluations of the network", ge=1, le=100)


class Consistency(GenerativeModel):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        teacher = self.frozen("teacher")
        if not hasattr(teacher, "denoise"):
            raise UsageError("--teacher must be a run of guided-diffusion")
        self.conditional = teacher.conditional
        self.network = copy.deepcopy(teacher.network).requires_grad_(True)
        self.target = copy.deepcopy(teacher.network)  # follows the network
        high, low = HIGHEST ** (1 / 7), LOWEST ** (1 / 7)
        self.register_buffer("noise", torch.linspace(low, high, config.levels) ** 7)

    def phases(self):
        adam = torch.optim.Adam(self.network.parameters(), self.config.rate)
        return [Phase(name="distil", loss=self.loss, optimizer=adam, after=self.follow)]

    def follow(self, batch):
        for old, new in zip(self.target.parameters(), self.network.parameters(), strict=True):
            old.lerp_(new, 0.05)

    def labels_of(self, labels, n):
        return labels if self.conditional else self.frozen("teacher").any_class(n)

    def image(self, network, x, sigma, labels):
        """What a consistency function makes of x; x itself at the lowest noise, section 3."""
        return self.frozen("teacher").denoise(network, x, sigma, labels, lowest=LOWEST)

    def loss(self, batch):
        """Algorithm 2: neighbours on the teacher's path must give the same image."""
        x, n = batch.images, len(batch.images)
        labels = self.labels_of(batch.labels, n)
        place = torch.randint(len(self.noise) - 1, (n,), device=x.device)
        lower, higher = self.noise[place], self.noise[place + 1]
        noisy = x + higher.view(-1, 1, 1, 1) * torch.randn_like(x)
        with torch.no_grad():
            teacher = self.frozen("teacher")
            less = teacher.step(noisy, higher, lower, labels, self.config.guidance)
            wanted = self.image(self.target, less, lower, labels)
        error = (self.image(self.network, noisy, higher, labels) - wanted).square().flatten(1)
        c = 0.03 * error.shape[1] ** 0.5  # pseudo-Huber (Song and Dhariwal 2023)
        return ((error.sum(1) + c**2).sqrt() - c).mean() / c, {}

    def sample(self, n, labels=None, *, generator):
        """Algorithm 1: to an image, back to less noise, to an image."""
        labels = self.labels_of(self.choose_labels(labels, n), n)
        shape = self.image_shape
        sides = (n, shape.channels, shape.height, shape.width)
        x = HIGHEST * torch.randn(sides, generator=generator, device=self.device)
        levels = torch.linspace(len(self.noise) - 1, 0, self.sampler.steps + 1).long()[:-1]
        for number, place in enumerate(levels):
            sigma = self.noise[place].expand(n)
            if number:
                x = x + sigma.view(-1, 1, 1, 1) * torch.randn(
                    sides, generator=generator, device=self.device
                )
            x = self.image(self.network, x, sigma, labels)
        return x.clamp(-1, 1)


@hookimpl
def register_trainers():
    return [
        TrainerSpec(
            name="consistency",
            summary="A diffusion model distilled, so that it draws in one step or two.",
            target="consistency:Consistency",
            config=ConsistencyConfig,
            sampler=ConsistencySampler,
        )
    ]
