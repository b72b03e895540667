"""Models that use other runs: one of a mean image, one that learns from a run of it and draws with
another."""

import torch

from genkit.hookspecs import hookimpl
from genkit.model import GenerativeModel, Phase
from genkit.specs import RunPath, TrainerConfig, TrainerSpec, option


class MeanConfig(TrainerConfig):
    factor: float = option(1.0, "of the noise")
    extra: int = option(0, "weights that do nothing", ge=0)


class Mean(GenerativeModel):
    """Learns the mean image."""

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.mean = torch.nn.Parameter(torch.randn(image_shape.dimensions))
        self.extra = torch.nn.Parameter(torch.zeros(config.extra), requires_grad=False)

    def phases(self):
        adam = torch.optim.Adam([self.mean], 0.05)
        return [Phase(name="fit", loss=self.loss, optimizer=adam)]

    def loss(self, batch):
        noise = torch.rand(len(batch.images), 1)
        return ((self.mean - batch.images.flatten(1)) * noise).square().mean(), {}

    def sample(self, n, labels=None, *, generator):
        noise = torch.randn(n, len(self.mean), generator=generator, device=self.device)
        return self.images(self.mean + 0.1 * noise)

    def images(self, flat):
        shape = self.image_shape
        return flat.view(-1, shape.channels, shape.height, shape.width).clamp(-1, 1)


class PupilConfig(TrainerConfig):
    teacher: RunPath | None = option(None, "run to learn from")
    first: RunPath | None = option(None, "run that draws the noise")
    registers: bool = option(False, "make the first run a layer")


class Pupil(Mean):
    """Learns its teacher's mean image; the noise is its first stage's."""

    def __init__(self, config, image_shape):
        config = config.model_copy()
        GenerativeModel.__init__(self, config, image_shape)
        self.mean = torch.nn.Parameter(torch.randn(image_shape.dimensions))
        self.weight = self.frozen("first").config.factor  # an option of another run
        if config.registers:
            self.layer = self.frozen("first")

    def loss(self, batch):
        wanted = self.frozen("teacher").mean + torch.randn(len(batch.images), 1)
        return (self.mean - wanted).square().mean(), {}

    def sample(self, n, labels=None, *, generator):
        noise = self.frozen("first").sample(n, generator=generator)
        return self.images(self.mean + self.weight * noise.flatten(1))


@hookimpl
def register_trainers():
    return [
        TrainerSpec(name="mean", summary="A mean.", target="frozen_plugin:Mean", config=MeanConfig),
        TrainerSpec(
            name="pupil", summary="Learns it.", target="frozen_plugin:Pupil", config=PupilConfig
        ),
    ]
