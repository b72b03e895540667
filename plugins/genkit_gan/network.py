"""The two networks of a small residual GAN."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genkit.specs import ImageShape

SLOPE = 0.2  # of the LeakyReLUs
WIDEST = 8  # times the width at the finest map, at most


def map_widths(shape: ImageShape, width: int) -> list[int]:
    """Channels of the maps, from the finest, of half the image's side, to the coarsest, of 4 to 10
    pixels a side; at least two."""
    halvings = max(2, math.ceil(math.log2(max(shape.height, shape.width) / 10)))
    return [width * min(2**stage, WIDEST) for stage in range(halvings)]


class Block(nn.Module):
    """x + f(x) on maps, (N, channels, H, W): two 3 x 3 convolutions behind activations (He et al.
    2016, arXiv 1603.05027), and behind BatchNorms if asked. f can start at 0, so that signals keep
    their size without normalisation (Zhang et al. 2019, arXiv 1901.09321, section 3)."""

    def __init__(self, channels: int, norm: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(channels) if norm else nn.Identity() for _ in range(2)
        )
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        x: Tensor = self.first(F.leaky_relu(self.norms[0](maps), SLOPE))
        x = self.second(F.leaky_relu(self.norms[1](x), SLOPE))
        return maps + x


class Generator(nn.Module):
    """Noise z, (N, latent), and, with classes, labels, (N,), to images in [-1, 1], (N, C, H, W).

    A linear layer makes the coarsest map, to which each class adds a map of its own. Blocks with
    BatchNorm follow at every size, and between sizes a 1 x 1 convolution to other channels and an
    enlargement. Enlarging bilinearly keeps the pattern of the discriminator's strides out of
    samples. Sides that cannot be halved evenly are made too large and cropped.
    """

    def __init__(
        self, shape: ImageShape, latent: int, width: int, depth: int, classes: int = 0
    ) -> None:
        super().__init__()
        self.shape = shape
        channels = map_widths(shape, width)[::-1]
        scale = 2 ** len(channels)
        self.start = (channels[0], -(-shape.height // scale), -(-shape.width // scale))
        self.project = nn.Linear(latent, math.prod(self.start))
        self.classes = nn.Embedding(classes, math.prod(self.start)) if classes else None
        layers: list[nn.Module] = [Block(channels[0], norm=True) for _ in range(depth)]
        for now, after in pairwise(channels):
            layers += [nn.Conv2d(now, after, 1, bias=False), twice()]
            layers += [Block(after, norm=True) for _ in range(depth)]
        last = channels[-1]
        layers += [nn.BatchNorm2d(last), nn.LeakyReLU(SLOPE), twice()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(last, shape.channels, 3, padding=1))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x: Tensor = self.project(z)
        if self.classes is not None:
            x = x + self.classes(labels)
        x = x.view(-1, *self.start).contiguous(memory_format=torch.channels_last)
        x = self.layers(x)  # (N, C, >= H, >= W)
        return torch.tanh(x[:, :, : self.shape.height, : self.shape.width])


def twice() -> nn.Module:
    """Maps of twice the side."""
    return nn.Upsample(scale_factor=2, mode="bilinear")


class Discriminator(nn.Module):
    """Images, (N, C, H, W), and, with classes, labels, (N,), to the logit of "this is real", (N,).

    The first convolution sees four pixels at each place. Blocks without normalisation follow at
    every size, and between sizes a mean over four places and a 1 x 1 convolution. Classes add the
    inner product of the features with a vector of the class (Miyato and Koyama 2018, arXiv
    1802.05637, equation 3). Sides that cannot be halved evenly are continued by grey.
    """

    def __init__(self, shape: ImageShape, width: int, depth: int, classes: int = 0) -> None:
        super().__init__()
        channels = map_widths(shape, width)
        scale = 2 ** len(channels)
        self.margins = (0, -shape.width % scale, 0, -shape.height % scale)
        layers: list[nn.Module] = [nn.Conv2d(4 * shape.channels, width, 3, padding=1)]
        layers += [Block(width) for _ in range(depth)]
        for now, after in pairwise(channels):
            layers += [nn.AvgPool2d(2), nn.Conv2d(now, after, 1, bias=False)]
            layers += [Block(after) for _ in range(depth)]
        self.layers = nn.Sequential(*layers, nn.LeakyReLU(SLOPE))
        features = channels[-1] * -(-shape.height // scale) * -(-shape.width // scale)
        self.judge = nn.Linear(features, 1)
        self.classes = nn.Embedding(classes, features) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = F.pixel_unshuffle(F.pad(images, self.margins), 2)  # (N, 4 C, H / 2, W / 2)
        features = self.layers(x).flatten(1)
        logits: Tensor = self.judge(features).squeeze(1)  # (N,)
        if self.classes is not None:
            logits = logits + (self.classes(labels) * features).sum(1)
        return logits


def initialise(network: nn.Module, identity: bool = True) -> None:
    """Normal weights that keep the size of signals (He et al. 2015, arXiv 1502.01852, equation 14),
    and blocks that begin as the identity, or else as strong as what they are added to."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding):
            nn.init.zeros_(module.weight)
    for module in network.modules():
        if isinstance(module, Block):
            nn.init.kaiming_normal_(module.first.weight, SLOPE)
            if identity:
                nn.init.zeros_(module.second.weight)
