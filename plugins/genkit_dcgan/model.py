"""DCGAN: a convolutional generator and discriminator playing the minimax game."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genkit.errors import UsageError
from genkit.model import Batch, GenerativeModel, Phase
from genkit.specs import ImageShape
from genkit_dcgan import DCGANConfig

SLOPE = 0.3  # of the LeakyReLUs
SMALLEST, LARGEST = 8, 128
VERDICTS = ("real", "fake")  # mean probability of "real" that the discriminator gives to either
SURE = 0.97  # above which, ten lines running, it has won


def count_halvings(shape: ImageShape) -> int:
    """How often the image is halved on its way to the coarsest map, of 4 to 10 pixels a side."""
    return max(2, math.ceil(math.log2(max(shape.height, shape.width) / 10)))


class ClassScale(nn.Module):
    """Maps, (N, channels, H, W), scaled and shifted by class: behind a BatchNorm it makes that
    class-conditional (Dumoulin et al. 2017, arXiv 1610.07629, equation 5). It starts as the
    identity."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.gain = nn.Embedding(classes, channels)
        self.shift = nn.Embedding(classes, channels)

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        gain, shift = self.gain(labels)[..., None, None], self.shift(labels)[..., None, None]
        return torch.addcmul(maps + shift, maps, gain)


class Generator(nn.Module):
    """Noise z, (N, latent), and, with classes, labels, (N,), to images in [-1, 1], (N, C, H, W).

    A linear layer makes the coarsest map; a transposed convolution of stride 1 and then one of
    stride 2 per halving follow, each 5 x 5 with half the channels of the one before it. Sizes
    that cannot be halved evenly are made too large and cropped. Classes add a bias each to the
    linear layer, as joining a one-hot label to z does, and make the BatchNorms behind it
    class-conditional.
    """

    def __init__(self, shape: ImageShape, latent: int, width: int, classes: int = 0) -> None:
        super().__init__()
        halvings = count_halvings(shape)
        self.shape = shape
        self.top = width * 2**halvings
        self.height = math.ceil(shape.height / 2**halvings)
        self.width = math.ceil(shape.width / 2**halvings)
        features = self.top * self.height * self.width
        self.project = nn.Sequential(
            nn.Linear(latent, features, bias=False), nn.BatchNorm1d(features), nn.LeakyReLU(SLOPE)
        )
        layers: list[nn.Module] = []
        channels = self.top
        for stage in range(halvings):
            stride = 1 if stage == 0 else 2
            layers += [
                nn.ConvTranspose2d(
                    channels, channels // 2, 5, stride, 2, output_padding=stride - 1, bias=False
                ),
                nn.BatchNorm2d(channels // 2),
                nn.LeakyReLU(SLOPE),
            ]
            channels //= 2
        layers.append(
            nn.ConvTranspose2d(channels, shape.channels, 5, 2, 2, output_padding=1, bias=False)
        )
        self.layers = nn.Sequential(*layers)
        self.classes = nn.Embedding(classes, features) if classes else None
        norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
        self.scales = nn.ModuleList(
            ClassScale(classes, norm.num_features) for norm in norms if classes
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        linear, *rest = self.project
        x: Tensor = linear(z)
        if self.classes is not None:
            x = x + self.classes(labels)
        for layer in rest:
            x = layer(x)
        x = x.view(-1, self.top, self.height, self.width)
        x = x.contiguous(memory_format=torch.channels_last)
        scales = iter(self.scales)
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.BatchNorm2d) and len(self.scales):
                x = next(scales)(x, labels)
        # x: (N, C, >= H, >= W)
        return torch.tanh(x[:, :, : self.shape.height, : self.shape.width])


class Discriminator(nn.Module):
    """Images, (N, C, H, W), and, with classes, labels, (N,), to the logit of "this is real", (N,).

    Classes add the inner product of the features with a vector of the class (Miyato and Koyama
    2018, arXiv 1802.05637, equation 3).
    """

    def __init__(self, shape: ImageShape, width: int, dropout: float, classes: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, height, columns = shape.channels, shape.height, shape.width
        for stage in range(count_halvings(shape)):
            layers += [
                nn.Conv2d(channels, width * 2**stage, 5, 2, 2),
                nn.LeakyReLU(SLOPE),
                nn.Dropout(dropout),
            ]
            channels = width * 2**stage
            height, columns = math.ceil(height / 2), math.ceil(columns / 2)
        self.layers = nn.Sequential(*layers)
        self.judge = nn.Linear(channels * height * columns, 1)
        self.classes = nn.Embedding(classes, channels * height * columns) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.layers(images).flatten(1)
        logits: Tensor = self.judge(features).squeeze(1)  # (N,)
        if self.classes is not None:
            logits = logits + (self.classes(labels) * features).sum(1)
        return logits


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
    """

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
        self.apply(_initialise)
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
        return [
            Phase(name="generator", loss=self.generator_loss, optimizer=generator),
            Phase(name="discriminator", loss=self.discriminator_loss, optimizer=discriminator),
        ]

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """-log D(G(z)), or the minimax form log(1 - D(G(z))), a scalar (Goodfellow et al. 2014,
        section 3). The fakes, (N, C, H, W), are left for the discriminator in `batch.shared`."""
        if len(batch.images) < 2:
            raise UsageError(
                "dcgan needs 2 images or more in every part of a batch, for BatchNorm; choose a "
                "smaller --accumulate or a larger --batch-size"
            )
        z = torch.randn(len(batch.images), self.config.latent, device=batch.images.device)
        fake = self.generator(z, batch.labels)
        batch.shared["fake"] = fake.detach()
        logits = self.discriminator(fake, batch.labels).float()
        if self.config.loss == "minimax":
            return -F.softplus(logits).mean(), {}  # log(1 - D) = -softplus(logit)
        return F.softplus(-logits).mean(), {}  # -log D = softplus(-logit)

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """-log D(x) - log(1 - D(G(z))), a scalar (Goodfellow et al. 2014, equation 1), both halves
        in one pass: no layer couples the images. Fakes have the labels of the real images."""
        images = torch.cat([batch.images, batch.shared["fake"].to(batch.images.dtype)])
        labels = None if batch.labels is None else batch.labels.repeat(2)
        logits = self.discriminator(images, labels).float()
        real, fake = logits.chunk(2)  # (N,) each
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        extras = {"real": real.detach().sigmoid().mean(), "fake": fake.detach().sigmoid().mean()}
        return loss, extras

    def trouble(self, history: Mapping[str, Sequence[float]]) -> str | None:
        """A discriminator that wins outright: the generator then learns next to nothing of it
        (Arjovsky and Bottou 2017, arXiv 1701.04862, section 2)."""
        real, fake = (list(history.get(f"discriminator/{name}", ()))[-10:] for name in VERDICTS)
        if len(real) < 10 or min(real) < SURE or max(fake) > 1 - SURE:
            return None
        return (
            f"the discriminator wins outright: it takes {real[-1]:.1%} of real images and "
            f"{fake[-1]:.1%} of samples for real; try a smaller --discriminator-rate than "
            f"{self.config.discriminator_rate:g}, a larger --generator-rate or more --dropout"
        )

    def draw_latents(self, n: int, *, generator: torch.Generator) -> Tensor:
        """The noise z of n images, standard normal: float32, (n, latent)."""
        return torch.randn(n, self.config.latent, generator=generator, device=self.device)

    def decode_latents(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of noise, (n, latent): (n, C, H, W) in [-1, 1]; of the classes `labels`, (n,), or
        of all in turn, if the model is conditional."""
        labels = self.choose_labels(labels, latents.shape[0])
        images: Tensor = self.generator(latents, labels)
        return images


def _initialise(module: nn.Module) -> None:
    """Uniform weights after Glorot and Bengio 2010: a standard deviation of 0.02, as in Radford et
    al., starts a small discriminator with outputs so close to 0 that it learns late."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        nn.init.zeros_(module.weight)
