"""The two networks of a DCGAN."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genkit.specs import ImageShape

SLOPE = 0.3  # of the LeakyReLUs


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


def initialise(module: nn.Module) -> None:
    """Uniform weights after Glorot and Bengio 2010: a standard deviation of 0.02, as in Radford et
    al., starts a small discriminator with outputs so close to 0 that it learns late."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        nn.init.zeros_(module.weight)
