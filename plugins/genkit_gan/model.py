"""A small residual GAN: its networks, and the game of `genkit.adversarial`."""

from __future__ import annotations

from torch import nn

from genkit.adversarial import AdversarialModel
from genkit.errors import UsageError
from genkit.specs import ImageShape
from genkit_gan import GANConfig
from genkit_gan.network import Discriminator, Generator, initialise

SMALLEST, LARGEST = 8, 128


class GAN(AdversarialModel):
    """Residual GAN in the manner of Huang et al. 2024 (arXiv 2501.05441): the relativistic game of
    their equation 2, slopes penalised at real images and at samples (R1 and R2), and residual
    networks whose blocks begin as the identity. Other games are options, see
    `genkit.adversarial`. At 1 x 28 x 28 the default networks have 1,012,161 and 385,857 trainable
    parameters.

    Departures: BatchNorm and a tanh in the generator; plain 3 x 3 convolutions, two in a block, in
    place of inverted bottlenecks with groups; finest maps of half the image's side in the
    discriminator; constant rates, Adam's beta1 of 0.5, penalties in each fourth iteration. Labels
    enter as a map for each class in the generator, and by projection in the discriminator (Miyato
    and Koyama 2018, arXiv 1802.05637, equation 3).
    """

    def __init__(self, config: GANConfig, image_shape: ImageShape) -> None:
        sides = (image_shape.height, image_shape.width)
        if min(sides) < SMALLEST or max(sides) > LARGEST:
            raise UsageError(
                f"gan takes images of {SMALLEST} to {LARGEST} pixels a side, not {image_shape}"
            )
        super().__init__(config, image_shape)
        self.generator = Generator(
            image_shape, config.latent, config.generator_width, config.depth, self.classes
        )
        self.discriminator = Discriminator(
            image_shape, config.discriminator_width, config.depth, self.classes
        )
        initialise(self.generator)
        initialise(self.discriminator, identity=not config.spectral_norm)  # 0 has no direction
        if self.generator.classes is not None:  # of the spread that z gives the same units
            nn.init.normal_(self.generator.classes.weight)
        self.steady()
