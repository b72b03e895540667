"""An honest autoregressive model, and five whose likelihood is none.

The broken ones repeat what public implementations of PixelRNN and PixelCNN get wrong. They are
the honest one but for a method.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit.model import Batch, GenerativeModel, LogLikelihood, Phase
from genkit.specs import ImageShape, TrainerConfig

WIDTH = 5


class Honest(GenerativeModel):
    """A small PixelRNN, written plainly: a 5 x 5 convolution with mask A, a recurrence over
    diagonals, a map from right to left that is shifted down, colours in their order."""

    def __init__(self, config: TrainerConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        colours = image_shape.channels
        self.first = nn.Conv2d(colours, WIDTH, 5, padding=2)
        self.state = nn.Conv1d(WIDTH, WIDTH, 2)
        self.other = nn.Conv1d(WIDTH, WIDTH, 1)
        self.logits = nn.Conv2d(WIDTH, colours, 1)
        self.colours = nn.Parameter(0.3 * torch.randn(colours, colours))
        self.register_buffer("seen", self.mask())

    def mask(self) -> Tensor:
        seen = torch.ones(5, 5)
        seen[2, 2:] = 0
        seen[3:] = 0
        return seen

    def earlier(self) -> Tensor:
        """Which colours, by column, the logits of each colour see."""
        return self.colours.tril(-1)

    def pad(self, column: Tensor) -> Tensor:
        return F.pad(column, (1, 0))

    def shift(self, other: Tensor) -> Tensor:
        return F.pad(other, (0, 0, 1, 0))[:, :, :-1]

    def diagonals(self, features: Tensor) -> Tensor:
        """h(i, j) = tanh(features + taps on h(i, j-1) and h(i-1, j)), column by column of the
        skewed map."""
        height, width = features.shape[2:]
        rows = [F.pad(row, (i, height - 1 - i)) for i, row in enumerate(features.unbind(2))]
        inside = [F.pad(torch.ones(width), (i, height - 1 - i)) for i in range(height)]
        skewed, inside = torch.stack(rows, 2), torch.stack(inside)
        hidden, columns = torch.zeros_like(skewed[..., 0]), []
        for column, here in zip(skewed.unbind(3), inside.unbind(1), strict=True):
            hidden = torch.tanh(column + self.state(self.pad(hidden))) * here
            columns.append(hidden)
        skewed = torch.stack(columns, 3)
        return torch.stack([skewed[:, :, i, i : i + width] for i in range(height)], 2)

    def from_the_right(self, features: Tensor) -> Tensor:
        """r(i, j) = tanh(features + tap on r(i, j+1))."""
        hidden, columns = torch.zeros_like(features[..., 0]), []
        for column in reversed(features.unbind(3)):
            hidden = torch.tanh(column + self.other(hidden))
            columns.append(hidden)
        return torch.stack(columns[::-1], 3)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to logits of white, the same shape."""
        weight = self.first.weight * self.seen
        features = F.conv2d(images, weight, self.first.bias, padding=2)
        both = self.diagonals(features) + self.shift(self.from_the_right(features))
        return self.logits(both) + torch.einsum("ab,nbhw->nahw", self.earlier(), images)

    def nats(self, images: Tensor) -> Tensor:
        """ln p of images rounded to black and white, (N,)."""
        white = (images > 0).float()
        logits = self(white * 2 - 1)
        return -F.binary_cross_entropy_with_logits(logits, white, reduction="none").sum((1, 2, 3))

    @torch.no_grad()
    def log_likelihood(self, images: Tensor) -> LogLikelihood:
        return LogLikelihood(self.nats(images), "exact", "images rounded to 2 levels")

    def likelihood_levels(self) -> tuple[int]:
        return (2,)

    def phases(self) -> list[Phase]:
        optimizer = torch.optim.Adam(self.parameters(), 1e-2)
        return [Phase(name="nll", loss=self.loss, optimizer=optimizer)]

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        return -self.nats(batch.images).mean(), {}

    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator) -> Tensor:
        shape = self.image_shape
        images = torch.zeros(n, shape.channels, shape.height, shape.width)
        return self.complete(images, torch.zeros_like(images[:, :1]) > 0, generator=generator)

    def complete(
        self,
        images: Tensor,
        known: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        images = torch.where(known, images, 0.0)
        sides = (self.image_shape.height, self.image_shape.width, self.image_shape.channels)
        for i, j, c in itertools.product(*map(range, sides)):
            uniform = torch.rand(len(images), generator=generator)
            drawn = (self(images)[:, c, i, j].sigmoid() > uniform).float() * 2 - 1
            images[:, c, i, j] = torch.where(known[:, 0, i, j], images[:, c, i, j], drawn)
        return images


class NotShifted(Honest):
    """The map from right to left is added where it is."""

    def shift(self, other: Tensor) -> Tensor:
        return other


class MaskBForA(Honest):
    """The first convolution sees the pixel itself."""

    def mask(self) -> Tensor:
        seen = super().mask()
        seen[2, 2] = 1
        return seen


class PaddedBelow(Honest):
    """The two taps are padded at the bottom: a pixel sees a state of the row below."""

    def pad(self, column: Tensor) -> Tensor:
        return F.pad(column, (0, 1))


class ColoursSeeEachOther(Honest):
    """Each colour sees the two others."""

    def earlier(self) -> Tensor:
        return self.colours * (1 - torch.eye(len(self.colours)))


class InBits(Honest):
    """The likelihood is in bits."""

    @torch.no_grad()
    def log_likelihood(self, images: Tensor) -> LogLikelihood:
        return LogLikelihood(self.nats(images) / math.log(2), "exact", "images at 2 levels")
