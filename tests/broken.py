"""A model that keeps every contract, and helpers for tests of models that break one."""

import pytest
import torch
from torch import nn

from genkit.contracts.contract import statement
from genkit.model import GenerativeModel, LogLikelihood, Phase
from genkit.specs import TrainerSpec
from genkit.testing import PromiseBroken, check_trainer

SHAPE = (1, 4, 4)


def spec_of(toy):
    return TrainerSpec(name="toy", summary="A toy.", target=f"{toy.__module__}:{toy.__name__}")


def recorder(cases):
    """A decorator for toys: they break a contract, and the report of it contains `seen`."""

    def breaks(contract, seen):
        def record(toy):
            cases.append(pytest.param(toy, contract, seen, id=toy.__name__))
            return toy

        return record

    return breaks


def assert_reported(contract, seen, check, *arguments, **options):
    """A check names the contract that something called "toy" breaks, and what it saw."""
    with pytest.raises(PromiseBroken) as caught:
        check(*arguments, **options)
    name, _, report = str(caught.value).partition(": ")
    required, _, found = report.partition("; ")
    assert name in ("toy", "toy (1 x 4 x 4)")
    assert required == statement(contract)
    assert seen in found


def assert_model_reported(toy, contract, seen):
    spec, options = spec_of(toy), {"batch_size": 16}
    assert_reported(contract, seen, check_trainer, spec, options=options, shapes=[SHAPE])


class Toy(GenerativeModel):
    """Keeps every contract: a layer that takes noise off images, with a Gaussian's likelihood."""

    names = ("denoise",)

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        size = image_shape.dimensions
        self.layer = nn.Linear(size, size)
        self.register_buffer("offset", torch.zeros(()))
        self.calls = 0

    def phases(self):
        optimizer = torch.optim.Adam(self.parameters(), 1e-2)
        return [Phase(name=name, loss=self.loss, optimizer=optimizer) for name in self.names]

    def loss(self, batch):
        x = batch.images.flatten(1)  # (N, D)
        return (self.layer(x + torch.randn_like(x)).float() - x).square().mean(), {}

    def draw_latents(self, n, *, generator):
        return torch.randn(n, self.image_shape.dimensions, generator=generator)

    def decode_latents(self, latents, labels=None):
        return self.images_of(latents)

    def complete(self, images, known, *, generator):
        noise = torch.randn(len(images), self.image_shape.dimensions, generator=generator)
        return torch.where(known, images, self.images_of(noise))

    def images_of(self, noise):
        shape = self.image_shape
        return self.layer(noise).tanh().view(-1, shape.channels, shape.height, shape.width)

    def log_likelihood(self, images):
        x = images.flatten(1)
        nats = -0.5 * (self.layer(x) - x).square().sum(1)
        return LogLikelihood(nats, "exact", "toys")

    def log_weights(self, images, draws):
        nats = self.log_likelihood(images).nats
        return LogLikelihood(nats + torch.randn(draws, len(images)), "bound", "toys")

    def reconstruct(self, images):
        return self.images_of(images.flatten(1))
