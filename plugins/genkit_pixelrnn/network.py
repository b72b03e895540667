"""The network of PixelRNN: from images to the logits of every value. Loss and sampling use it."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit.errors import UsageError
from genkit.model import GenerativeModel
from genkit.specs import ImageShape
from genkit_pixelrnn import PixelRNNConfig, PixelRNNSampler
from genkit_pixelrnn.layers import LSTM, FirstConvolution, MaskedLinear, colours_of
from genkit_pixelrnn.order import Order


class Network(GenerativeModel):
    """The first convolution, the LSTM layers and the head (van den Oord et al. 2016, table 1).
    `genkit_pixelrnn.model.PixelRNN` says where it departs from them.

    It is the base of the model, and not a part of it, so that the names of weights stay short.
    """

    config: PixelRNNConfig
    sampler: PixelRNNSampler

    def __init__(self, config: PixelRNNConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        self.sampler = PixelRNNSampler()
        colours, width = image_shape.channels, config.width
        if colours not in (1, 3, 4):
            raise UsageError(f"PixelRNN takes grey, RGB or RGBA images, not {image_shape}")
        self.outputs = 1 if config.levels == 2 else config.levels
        self.order = Order(config.cell, image_shape.height, image_shape.width)
        self.first = FirstConvolution(colours, 2 * width)
        sides = image_shape.height + image_shape.width
        self.positions = nn.Parameter(torch.zeros(sides, 2 * width)) if config.positions else None
        self.lstms = nn.ModuleList(LSTM(colours, width, self.order) for _ in range(config.layers))
        stream, state = colours_of(2 * width, colours), colours_of(width, colours)
        self.widen = nn.ModuleList(
            MaskedLinear(state, stream, gain=1, bias=False) for _ in self.lstms
        )
        head = colours_of(config.head_width, colours)
        seen = torch.cat([stream, *([state] * config.layers if config.skip else [])])
        self.gather = MaskedLinear(seen, head, gain=2)
        self.hidden = MaskedLinear(head, head, gain=1.4)
        logits = torch.arange(colours).repeat_interleave(self.outputs)
        self.logits = MaskedLinear(head, logits, gain=1)
        if config.conditional and not image_shape.classes:
            raise UsageError("--conditional needs data with labels; leave it out, or choose others")
        self.conditional = config.conditional
        if config.conditional:  # for each layer, biases of the gates in all directions
            size = config.layers * self.order.directions * 4 * width
            self.classes = nn.Embedding(image_shape.classes, size)
            nn.init.zeros_(self.classes.weight)

    @property
    def layers(self) -> list[tuple[LSTM, MaskedLinear]]:
        """Each LSTM with the layer that widens its output."""
        return cast(
            "list[tuple[LSTM, MaskedLinear]]", list(zip(self.lstms, self.widen, strict=True))
        )

    @property
    def guided(self) -> bool:
        """Whether samples follow their labels more, or less, strongly than was learned."""
        if self.sampler.guidance != 1 and not self.conditional:
            raise UsageError(
                f"guidance {self.sampler.guidance:g} needs a model trained with --conditional; "
                "leave it out"
            )
        return self.sampler.guidance != 1

    @property
    def log_shares(self) -> Tensor:
        """ln p(y), (classes,): of the classes' shares of the training images, else uniform."""
        classes = self.image_shape.classes
        shares = self.image_shape.class_shares or [1 / classes] * classes
        return torch.tensor(shares, device=self.device).log()

    def class_biases(self, labels: Tensor | None) -> list[Tensor | None]:
        """For each layer what labels, (N,), add to its gates' inputs, (directions, N, 4h)."""
        if not self.conditional:
            return [None] * self.config.layers
        biases = self.classes(labels).unflatten(1, (self.config.layers, self.order.directions, -1))
        return list(biases.permute(1, 2, 0, 3).unbind(0))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of every colour given all that comes before it.

        Args:
            images: already rounded to the levels, in [-1, 1], (N, C, H, W).
            labels: int64, (N,), for a conditional model.

        Returns:
            (N, C, levels, H, W), or (N, C, 1, H, W) with 2 levels: the logit of the upper one.
        """
        shape = self.image_shape
        logits = self.ordered_logits(images, labels).index_select(0, self.order.place)
        logits = logits.permute(1, 2, 3, 0)  # (N, C, outputs, H * W)
        return logits.reshape(*logits.shape[:3], shape.height, shape.width)

    def position_features(self) -> Tensor | None:
        """What each position adds to the first features, (H, W, 2h), if anything."""
        if self.positions is None:
            return None
        height, width = self.image_shape.height, self.image_shape.width
        rows, columns = self.positions.split_with_sizes([height, width])
        return rows[:, None] + columns

    def ordered_logits(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Of (N, C, H, W), (P, N, C, outputs), pixels in the order of `order`."""
        features = self.first(images).flatten(2).permute(2, 0, 1)  # (H * W, N, 2h)
        if (positions := self.position_features()) is not None:
            features = features + positions.flatten(0, 1)[:, None]
        features = features.index_select(0, self.order.pixels).to(images.dtype)
        kept = []
        for (lstm, widen), own in zip(self.layers, self.class_biases(labels), strict=True):
            state = lstm(features, self.order, own)
            features = (
                features + widen(state) if self.config.residual else widen(state).to(features.dtype)
            )
            kept.append(state)
        seen = self.gather(torch.cat([features, *(kept if self.config.skip else [])], dim=2))
        logits: Tensor = self.logits(F.relu(self.hidden(F.relu(seen))))
        return logits.view(*logits.shape[:2], -1, self.outputs)

    def quantise(self, images: Tensor) -> Tensor:
        """Level of each value of images in [-1, 1], int64, same shape."""
        return ((images + 1) * (0.5 * (self.config.levels - 1))).round().long()

    def scale(self, levels: Tensor) -> Tensor:
        """Values in [-1, 1] of levels, float32, same shape."""
        return levels.float() * (2 / (self.config.levels - 1)) - 1
