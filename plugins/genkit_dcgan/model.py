"""DCGAN: a convolutional generator and discriminator playing the minimax game."""

from __future__ import annotations

import math

from torch import nn

from genkit.adversarial import AdversarialModel
from genkit.errors import UsageError
from genkit.specs import ImageShape
from genkit_dcgan import DCGANConfig
from genkit_dcgan.network import Discriminator, Generator, initialise

SMALLEST, LARGEST = 8, 128


class DCGAN(AdversarialModel):
    """Deep convolutional GAN (Radford et al. 2015, arXiv 1511.06434).

    The game is that of Goodfellow et al. 2014 (arXiv 1406.2661): equation 1 for the
    discriminator; for the generator its minimax form or the non-saturating one of section 3.
    Other games and their cures are options, see `genkit.adversarial` and `genkit.augment`.
    At 1 x 28 x 28 the default networks have 2,305,472 and 212,865 trainable parameters.

    Departures from Radford et al.: 5 x 5 kernels throughout with a first transposed convolution
    of stride 1, LeakyReLU of slope 0.3 in both networks, dropout and no BatchNorm in the
    discriminator, Glorot's initial weights. From algorithm 1 of Goodfellow et al.: both players
    move from the same state of the game, on the same fakes, so that the generator runs once per
    iteration.
    """

    def __init__(self, config: DCGANConfig, image_shape: ImageShape) -> None:
        sides = (image_shape.height, image_shape.width)
        if min(sides) < SMALLEST or max(sides) > LARGEST:
            raise UsageError(
                f"dcgan takes images of {SMALLEST} to {LARGEST} pixels a side, not {image_shape}"
            )
        super().__init__(config, image_shape)
        self.generator = Generator(image_shape, config.latent, config.generator_width, self.classes)
        self.discriminator = Discriminator(
            image_shape, config.discriminator_width, config.dropout, self.classes
        )
        self.apply(initialise)
        self.steady()
        if self.generator.classes is not None:  # of the spread that z gives the same units
            inputs, outputs = config.latent, self.generator.classes.embedding_dim
            spread = math.sqrt(2 * inputs / (inputs + outputs))
            nn.init.normal_(self.generator.classes.weight, std=spread)
