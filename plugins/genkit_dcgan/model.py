"""DCGAN: a convolutional generator and discriminator playing the minimax game."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from genkit.adversarial import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    slope_penalty,
)
from genkit.augment import augment
from genkit.errors import UsageError
from genkit.model import Batch, GenerativeModel, Phase
from genkit.specs import ImageShape
from genkit_dcgan import DCGANConfig
from genkit_dcgan.network import Discriminator, Generator, initialise

SMALLEST, LARGEST = 8, 128
VERDICTS = ("real", "fake")  # mean probability of "real" that the discriminator gives to either
SURE = 0.97  # above which, ten lines running, it has won
LOGARITHMIC = ("non-saturating", "minimax")  # losses by which D(x) is the logit of a probability
ADAPTED_IMAGES = 100_000  # seen while the augmented share rises from 0 to 1, at most that fast


class DCGAN(GenerativeModel):
    """Deep convolutional GAN (Radford et al. 2015, arXiv 1511.06434).

    The game is that of Goodfellow et al. 2014 (arXiv 1406.2661): equation 1 for the
    discriminator; for the generator its minimax form or the non-saturating one of section 3.
    At 1 x 28 x 28 the default networks have 2,305,472 and 212,865 trainable parameters.

    Departures from Radford et al.: 5 x 5 kernels throughout with a first transposed convolution
    of stride 1, LeakyReLU of slope 0.3 in both networks, dropout and no BatchNorm in the
    discriminator, Glorot's initial weights. From algorithm 1 of Goodfellow et al.: both players
    move from the same state of the game, on the same fakes, so that the generator runs once per
    iteration.

    Other games and their cures are options, see `genkit.adversarial` and `genkit.augment`: spectral
    normalisation (Miyato et al. 2018, arXiv 1802.05957), slopes penalised in some iterations only
    (lazily, Karras et al. 2020, arXiv 1912.04958, appendix B), and a share of augmented images
    that follows the overfitting (Karras et al. 2020, arXiv 2006.06676, equation 1 and section 3;
    here over fewer images, since trainings are short).
    """

    augmented_share: Tensor  # of images, 0 to 1, with an augment_target

    def __init__(self, config: DCGANConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        self.config: DCGANConfig
        sides = (image_shape.height, image_shape.width)
        if min(sides) < SMALLEST or max(sides) > LARGEST:
            raise UsageError(
                f"dcgan takes images of {SMALLEST} to {LARGEST} pixels a side, not {image_shape}"
            )
        if config.conditional and not image_shape.classes:
            raise UsageError("--conditional needs data with labels; leave it out, or choose others")
        self.conditional = config.conditional
        classes = image_shape.classes if config.conditional else 0
        self.generator = Generator(image_shape, config.latent, config.generator_width, classes)
        self.discriminator = Discriminator(
            image_shape, config.discriminator_width, config.dropout, classes
        )
        self.apply(initialise)
        if config.spectral_norm:
            for layer in (*self.discriminator.layers, self.discriminator.judge):
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    parametrizations.spectral_norm(layer)
        if config.augmentations and config.augment_target:
            self.register_buffer("augmented_share", torch.zeros(()))
        if self.generator.classes is not None:  # of the spread that z gives the same units
            inputs, outputs = config.latent, self.generator.classes.embedding_dim
            spread = math.sqrt(2 * inputs / (inputs + outputs))
            nn.init.normal_(self.generator.classes.weight, std=spread)

    def phases(self) -> list[Phase]:
        betas = (self.config.beta1, 0.999)
        adam = torch.optim.Adam
        generator = adam(self.generator.parameters(), self.config.generator_rate, betas, fused=True)
        discriminator = adam(
            self.discriminator.parameters(), self.config.discriminator_rate, betas, fused=True
        )
        exact: dict[str, Any] = {"compile": False, "precision": "fp32"}  # for second derivatives
        penalised = self.config.loss == "wasserstein" and self.config.gradient_penalty
        phases = [
            Phase(name="generator", loss=self.generator_loss, optimizer=generator),
            Phase(
                name="discriminator",
                loss=self.discriminator_loss,
                optimizer=discriminator,
                repeats=self.config.discriminator_steps,
                **(exact if penalised else {}),
            ),
        ]
        if self.config.r1 or self.config.r2:
            phases.append(
                Phase(
                    name="penalty",
                    loss=self.penalty,
                    optimizer=discriminator,
                    every=self.config.penalty_every,
                    **exact,
                )
            )
        return phases

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What the generator minimises, a scalar. The fakes, (N, C, H, W), are left for the
        discriminator in `batch.shared`."""
        if len(batch.images) < 2:
            raise UsageError(
                "dcgan needs 2 images or more in every part of a batch, for BatchNorm; choose a "
                "smaller --accumulate or a larger --batch-size"
            )
        fake = self._draw(batch)
        batch.shared["fake"] = fake.detach()
        real = None
        if self.config.loss == "relativistic":
            with torch.no_grad():
                real = self._judge(batch.images, batch.labels)
        return generator_loss(self.config.loss, self._judge(fake, batch.labels), real), {}

    def _draw(self, batch: Batch) -> Tensor:
        """As many fakes as the batch has images, of their labels, by torch's global generator."""
        z = torch.randn(len(batch.images), self.config.latent, device=batch.images.device)
        fake: Tensor = self.generator(z, batch.labels)
        return fake

    def _judge(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The discriminator's logits, float32, (N,), of images as it may see them: augmented."""
        if self.config.augmentations:
            share = self.augmented_share if self.config.augment_target else 1.0
            images = augment(images, self.config.augmentations, share)
        logits: Tensor = self.discriminator(images, labels)
        return logits.float()

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What the discriminator minimises, a scalar, both halves in one pass: no layer couples
        the images. Fakes have the labels of the real images. Its second update and later ones in
        an iteration have fakes of their own. Logs the mean probability of "real" that it gives to
        both, or, where there is none, the mean score."""
        if "fake" not in batch.shared:
            with torch.no_grad():
                batch.shared["fake"] = self._draw(batch)
        fakes = batch.shared["fake"].to(batch.images.dtype)
        labels = None if batch.labels is None else batch.labels.repeat(2)
        real, fake = self._judge(torch.cat([batch.images, fakes]), labels).chunk(2)  # (N,) each
        loss = discriminator_loss(self.config.loss, real, fake, self.config.label_smoothing)
        if self.config.loss == "wasserstein" and self.config.gradient_penalty:
            penalty = gradient_penalty(lambda x: self._judge(x, batch.labels), batch.images, fakes)
            loss = loss + self.config.gradient_penalty * penalty
        seen = {"real": real.detach(), "fake": fake.detach()}
        if self.config.augmentations and self.config.augment_target:
            self._adapt(seen["real"])
            seen["augmented"] = self.augmented_share.clone()
        if self.config.loss in LOGARITHMIC:
            seen |= {name: seen[name].sigmoid() for name in VERDICTS}
        return loss, {name: values.mean() for name, values in seen.items()}

    def _adapt(self, real: Tensor) -> None:
        """More augmentation where the discriminator is surer of real images, (N,), than the target
        says, and less where it is not."""
        step = len(real) / ADAPTED_IMAGES
        self.augmented_share += step * (real.sign().mean() - self.config.augment_target).sign()
        self.augmented_share.clamp_(0, 1)

    def penalty(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The discriminator's slopes at real images and at fakes, a scalar, weighted for the
        iterations that go by without it."""
        places = {"r1": batch.images, "r2": batch.shared["fake"].float()}
        weights = {"r1": self.config.r1, "r2": self.config.r2}
        total, logged = torch.zeros((), device=batch.images.device), {}
        for name, images in places.items():
            if weights[name]:
                slope = slope_penalty(lambda x: self._judge(x, batch.labels), images)
                total = total + weights[name] / 2 * slope
                logged[name] = slope.detach()
        return self.config.penalty_every * total, logged

    def trouble(self, history: Mapping[str, Sequence[float]]) -> str | None:
        """A discriminator that wins outright: the generator then learns next to nothing of it
        (Arjovsky and Bottou 2017, arXiv 1701.04862, section 2)."""
        real, fake = (list(history.get(f"discriminator/{name}", ()))[-10:] for name in VERDICTS)
        if self.config.loss not in LOGARITHMIC or len(real) < 10:
            return None
        if min(real) < SURE or max(fake) > 1 - SURE:
            return None
        cures = ["--r1 1"] * (not self.config.r1)
        cures += ["--spectral-norm"] * (not self.config.spectral_norm)
        return (
            f"the discriminator wins outright: it takes {real[-1]:.1%} of real images and "
            f"{fake[-1]:.1%} of samples for real; try "
            f"{', '.join([*cures, 'a smaller --discriminator-rate than'])} "
            f"{self.config.discriminator_rate:g}, or a larger --generator-rate"
        )

    @property
    def cures(self) -> list[str]:  # type: ignore[override]
        """What kept samples apart where the generator was too fast (docs/instability.md), and is
        not in use yet."""
        given, games = self.config, ["--loss relativistic with --r1 1 --r2 1"]
        found = [] if given.r1 else ["--r1 1"]
        return found if given.loss == "relativistic" else found + games

    def draw_latents(self, n: int, *, generator: torch.Generator) -> Tensor:
        """The noise z of n images, standard normal: float32, (n, latent)."""
        return torch.randn(n, self.config.latent, generator=generator, device=self.device)

    def decode_latents(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of noise, (n, latent): (n, C, H, W) in [-1, 1]; of the classes `labels`, (n,), or
        of all in turn, if the model is conditional."""
        labels = self.choose_labels(labels, latents.shape[0])
        images: Tensor = self.generator(latents, labels)
        return images
