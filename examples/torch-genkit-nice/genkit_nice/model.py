"""NICE: an invertible network between images and noise, with the density of both."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genkit.errors import UsageError
from genkit.model import Batch, GenerativeModel, LogLikelihood, Phase
from genkit.specs import ImageShape
from genkit_nice import NiceConfig, NiceSampler

LEVELS = 256
LEAST_DEVIATION = 0.01  # of a training set's values in [0, 1]


class Nice(GenerativeModel):
    """NICE (Dinh et al. 2014, arXiv 1410.8516). Pixels are split into even and odd ones; each
    layer adds to one half what a network makes of the other (equation 8), which can be undone and
    changes no volume. At the end every value is scaled (section 3.3). What comes out is to be
    standard normal, so the density of an image follows from the change of variables (equation 3).

    Departures: a Gaussian prior instead of a logistic one; networks with one hidden layer; the
    likelihood is a lower bound for images at 256 levels, by uniform noise between the levels.
    """

    config: NiceConfig
    sampler: NiceSampler

    def __init__(self, config: NiceConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        size = image_shape.dimensions
        if size < 2:
            raise UsageError(f"nice takes images of at least 2 values, not {image_shape}")
        halves = ((size + 1) // 2, size // 2)  # even and odd places
        self.layers = nn.ModuleList()
        for layer in range(config.couplings):
            seen, moved = halves if layer % 2 == 0 else halves[::-1]
            last = nn.Linear(config.width, moved)
            nn.init.zeros_(last.weight)  # the first map is the identity
            nn.init.zeros_(last.bias)
            self.layers.append(nn.Sequential(nn.Linear(seen, config.width), nn.ReLU(), last))
        self.log_scale = nn.Parameter(torch.zeros(size))
        self.mean = (image_shape.mean + 1) / 2
        self.deviation = max(image_shape.deviation / 2, LEAST_DEVIATION)

    def phases(self) -> list[Phase]:
        optimizer = torch.optim.Adam(self.parameters(), self.config.learning_rate, fused=True)
        return [Phase(name="nll", loss=self.loss, optimizer=optimizer, clip=10.0)]

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Negative log-density per dimension."""
        return -self.log_density(batch.images).mean() / self.image_shape.dimensions, {}

    def encode(self, x: Tensor) -> Tensor:
        """Points, (N, D), to noise, (N, D)."""
        halves = [x[:, 0::2], x[:, 1::2]]
        for number, layer in enumerate(self.layers):
            seen, moved = number % 2, 1 - number % 2
            halves[moved] = halves[moved] + layer(halves[seen])
        return torch.cat(halves, 1).float() * self.log_scale.exp()

    def decode(self, noise: Tensor) -> Tensor:
        """The inverse of `encode`: (N, D) to (N, D)."""
        halves = list((noise / self.log_scale.exp()).tensor_split([(noise.shape[1] + 1) // 2], 1))
        for number, layer in reversed(list(enumerate(self.layers))):
            seen, moved = number % 2, 1 - number % 2
            halves[moved] = halves[moved] - layer(halves[seen])
        x = torch.empty_like(noise)
        x[:, 0::2], x[:, 1::2] = halves
        return x

    def log_density(self, images: Tensor) -> Tensor:
        """A lower bound of ln p, (N,), in nats, of images in [-1, 1], (N, C, H, W), at 256 levels:
        the log-density where each level is spread evenly over 1/256 (Theis et al. 2016, arXiv
        1511.01844, section 3.1), by one draw."""
        levels = ((images + 1) * 127.5).round().flatten(1)
        spread = (levels + torch.rand_like(levels)) / LEVELS  # (N, D), in [0, 1]
        noise = self.encode((spread - self.mean) / self.deviation)
        normal = -0.5 * (noise**2 + math.log(2 * math.pi)).sum(1)
        volume = self.log_scale.sum() - noise.shape[1] * math.log(self.deviation * LEVELS)
        return normal + volume

    @torch.no_grad()
    def log_likelihood(self, images: Tensor) -> LogLikelihood:
        with torch.autocast(images.device.type, enabled=False):
            return LogLikelihood(self.log_density(images.float()), "bound", "images at 256 levels")

    def draw_latents(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Standard normal, (n, D)."""
        size = (n, self.image_shape.dimensions)
        return torch.randn(size, generator=generator, device=self.device)

    def decode_latents(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The images, (n, C, H, W) in [-1, 1], of noise, (n, D)."""
        shape = self.image_shape
        values = self.decode(self.sampler.temperature * latents) * self.deviation + self.mean
        images = values.clamp(0, 1) * 2 - 1
        return images.view(-1, shape.channels, shape.height, shape.width)
