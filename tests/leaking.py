"""Models whose likelihood is none, beside the example package's, and an honest latent one."""

import torch
import torch.nn.functional as F
from genkit_broken_likelihoods.models import Honest
from torch import nn

from genkit.model import LogLikelihood


class PerDimension(Honest):
    @torch.no_grad()
    def log_likelihood(self, images):
        nats = self.nats(images) / images[0].numel()
        return LogLikelihood(nats, "exact", "images at 2 levels")


class WrongSign(Honest):
    @torch.no_grad()
    def log_likelihood(self, images):
        return LogLikelihood(-self.nats(images), "exact", "images at 2 levels")


class SamplesOtherwise(Honest):
    """Samples are drawn at a lower temperature than the likelihood is of."""

    def sample(self, n, labels=None, *, generator):
        self.logits.weight.data *= 2
        try:
            return super().sample(n, generator=generator)
        finally:
            self.logits.weight.data /= 2


class SamplesBetweenLevels(Honest):
    def sample(self, n, labels=None, *, generator):
        return 0.9 * super().sample(n, generator=generator)


class CompletesBlindly(Honest):
    """Hidden pixels are those of a sample, whatever is known."""

    def complete(self, images, known, *, generator):
        if not known.any():
            return super().complete(images, known, generator=generator)
        return torch.where(known, images, self.sample(len(images), generator=generator))


class Latent(Honest):
    """A latent of two Bernoullis' logits: p(x | z) has independent pixels."""

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.decoder = nn.Linear(2, image_shape.dimensions)
        self.encoder = nn.Linear(image_shape.dimensions, 2)

    def weights(self, x, z, mean):
        logits = self.decoder(z)  # (draws, N, D)
        like = -F.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        ).sum(2)
        prior, posterior = (-0.5 * (z - m).square().sum(2) for m in (0, mean))
        return like, prior, posterior

    @torch.no_grad()
    def log_weights(self, images, draws):
        x = (images.flatten(1) > 0).float()
        mean = self.encoder(x)
        z = mean + torch.randn(draws, *mean.shape)
        like, prior, posterior = self.weights(x, z, mean)
        return LogLikelihood(like + prior - posterior, "bound", "black-and-white images")


class ForgetsTheEncoder(Latent):
    """The density of the latent under the encoder is left out."""

    @torch.no_grad()
    def log_weights(self, images, draws):
        x = (images.flatten(1) > 0).float()
        like = self.weights(x, torch.zeros(draws, len(x), 2), self.encoder(x))[0]
        return LogLikelihood(like + 0.5, "bound", "black-and-white images")


class Silent(Honest):
    """Has no likelihood."""

    def log_likelihood(self, images):
        return None
