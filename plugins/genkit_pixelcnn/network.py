"""The network of PixelCNN: from images to the logits of every value. Loss and sampling use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit.errors import UsageError
from genkit.model import GenerativeModel
from genkit.specs import ImageShape
from genkit_pixelcnn import PixelCNNConfig, PixelCNNSampler
from genkit_pixelcnn.layers import GatedLayer

PLANES = 3  # ones, row and column


class Network(GenerativeModel):
    """The two stacks of gated layers and the head of each colour (van den Oord et al. 2016, section
    2.2 and figure 2). `genkit_pixelcnn.model.PixelCNN` says where it departs from them.

    It is the base of the model, and not a part of it, so that the names of weights stay short.
    """

    config: PixelCNNConfig
    sampler: PixelCNNSampler
    coordinates: Tensor  # (1, H, W, 2), in [-1, 1]

    def __init__(self, config: PixelCNNConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        self.sampler = PixelCNNSampler()
        colours, height, width = image_shape.channels, image_shape.height, image_shape.width
        if colours > 4:
            raise UsageError(f"PixelCNN takes images of 1 to 4 channels, not {image_shape}")
        channels = config.channels
        self.outputs = 1 if config.levels == 2 else config.levels
        layers = (
            GatedLayer(
                channels if index else colours + PLANES,
                channels,
                dilation=2 ** ((index - 1) % config.dilation_cycle) if index else 1,
                first=index == 0,
            )
            for index in range(config.layers)
        )
        # A ModuleList says nothing of what its modules are; type checkers get the sequence.
        self.layers = cast(Sequence[GatedLayer], nn.ModuleList(layers))
        self.hidden = nn.Linear(channels, colours * channels)
        known = (nn.Linear(colour, channels, bias=False) for colour in range(1, colours))
        self.known = cast(Sequence[nn.Linear], nn.ModuleList(known))
        logits = (nn.Linear(channels, self.outputs) for _ in range(colours))
        self.logits = cast(Sequence[nn.Linear], nn.ModuleList(logits))
        for head in self.logits:
            nn.init.zeros_(head.bias)
        if config.conditional and not image_shape.classes:
            raise UsageError("--conditional needs data with labels; leave it out, or choose others")
        self.conditional = config.conditional
        if config.conditional:  # for each layer, biases of the vertical and the horizontal gate
            sizes = (image_shape.classes, config.layers * 4 * channels)
            self.classes = nn.Embedding(*sizes)
            nn.init.zeros_(self.classes.weight)
        planes = torch.meshgrid(
            torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
        )
        self.register_buffer("coordinates", torch.stack(planes, dim=2)[None], persistent=False)

    def stack_inputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the vertical and the horizontal stack see of (N, H, W, C): (N, H, W, C + 3)."""
        known = F.pad(images, (0, 1), value=1.0)  # (N, H, W, C + 1)
        coordinates = self.coordinates.expand(images.shape[0], -1, -1, -1)
        above = F.pad(known, (0, 0, 0, 0, 1, -1))
        left = F.pad(known, (0, 0, 1, -1))
        return torch.cat([above, coordinates], dim=3), torch.cat([left, coordinates], dim=3)

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

    def class_biases(self, labels: Tensor | None) -> list[tuple[Tensor, Tensor] | None]:
        """For each layer what labels, (N,), add to its two gates, (N, 2 * channels) each."""
        if not self.conditional:
            return [None] * len(self.layers)
        biases = self.classes(labels).chunk(2 * len(self.layers), dim=1)
        return list(zip(biases[::2], biases[1::2], strict=True))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of every colour given all that comes before it.

        Args:
            images: already rounded to the levels, in [-1, 1], (N, C, H, W).
            labels: int64, (N,), for a conditional model.

        Returns:
            (N, C, levels, H, W), or (N, C, 1, H, W) with 2 levels: the logit of the upper one.
        """
        logits = self.colour_logits(images.permute(0, 2, 3, 1), labels)
        return torch.stack(logits, dim=3).permute(0, 3, 4, 1, 2)

    def colour_logits(self, images: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        """Of (N, H, W, C), for each colour the logits of its levels, (N, H, W, outputs)."""
        first, *others = self.layers
        biases = self.class_biases(labels)
        vertical, gated = first(*self.stack_inputs(images), biases[0])  # (N, H, W, channels)
        features = first.residual(gated)
        for layer, own in zip(others, biases[1:], strict=True):
            vertical, gated = layer(vertical, features, own)
            features = features + layer.residual(gated)
        logits = []
        hidden = self.hidden(F.relu(features)).chunk(len(self.logits), dim=3)
        for colour, (own, head) in enumerate(zip(hidden, self.logits, strict=True)):
            if colour:
                own = own + self.known[colour - 1](images[..., :colour])
            logits.append(head(F.relu(own)))
        return logits
