"""A plugin file whose training depends on step, budget and an optimizer of its own."""

import torch
from torch import nn

from genkit.hookspecs import hookimpl
from genkit.model import GenerativeModel, Phase
from genkit.specs import TrainerConfig, TrainerSpec

SEEN = []  # (step, images seen, progress) of each call of a loss
STOP = {}  # "at": the progress at which a loss raises KeyboardInterrupt


@hookimpl
def register_trainers():
    return [
        TrainerSpec(
            name="annealed",
            summary="A line with stages, schedules and a buffer that follows.",
            target="annealed:Annealed",
            config=TrainerConfig,
        )
    ]


class Halves(torch.optim.Optimizer):
    """Matrices by SGD, vectors by Adam; its state has a form of its own."""

    def __init__(self, parameters):
        parameters = list(parameters)
        self.parts = {
            "matrices": torch.optim.SGD([p for p in parameters if p.ndim > 1], 0.1, momentum=0.9),
            "vectors": torch.optim.Adam([p for p in parameters if p.ndim < 2], 0.01),
        }
        super().__init__(parameters, {"lr": 1.0})
        self.param_groups = [g for part in self.parts.values() for g in part.param_groups]

    def step(self, closure=None):
        for part in self.parts.values():
            part.step()

    def state_dict(self):
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state):
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.param_groups = [g for part in self.parts.values() for g in part.param_groups]


class Annealed(GenerativeModel):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        size = image_shape.dimensions
        self.first, self.second = nn.Linear(size, size), nn.Linear(size, size)
        self.register_buffer("target", torch.zeros(size))

    def phases(self):
        first, second = Halves(self.first.parameters()), torch.optim.Adam(self.second.parameters())
        return [
            Phase(
                name="first",
                loss=self.first_loss,
                optimizer=first,
                active=(0.0, 0.5),
                schedule=lambda step, progress: 1 - progress,
            ),
            Phase(
                name="second",
                loss=self.second_loss,
                optimizer=second,
                active=(0.25, 1.0),
                schedule=lambda step, progress: {"lr": 0.01 * (1 - progress), "betas": (0.5, 0.9)},
                after=self.follow,
                skip_above=4.0,
            ),
            Phase(name="lazy", loss=self.second_loss, optimizer=second, every=5),
        ]

    def first_loss(self, batch):
        SEEN.append((batch.step, batch.images_seen, batch.progress))
        if batch.progress >= STOP.get("at", 2):
            raise KeyboardInterrupt
        x = batch.images.flatten(1)
        return (1 + batch.progress) * (self.first(x) - x).square().mean(), {}

    def second_loss(self, batch):
        SEEN.append((batch.step, batch.images_seen, batch.progress))
        if batch.progress >= STOP.get("at", 2):
            raise KeyboardInterrupt
        x = batch.images.flatten(1)
        near = (self.second(x) - self.target).square().mean()
        return near * (50 if batch.step % 3 else 1), {"near": near}

    def follow(self, batch):
        self.target.lerp_(batch.images.flatten(1).mean(0), 0.1 + 0.1 * batch.progress)

    def sample(self, n, labels=None, *, generator):
        shape = self.image_shape
        noise = torch.randn(n, shape.dimensions, generator=generator)
        return self.second(noise).tanh().view(n, shape.channels, shape.height, shape.width)
