"""Gated PixelCNN: network, loss and exact likelihood. Fast sampling is in `cached`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit.errors import UsageError
from genkit.model import Batch, GenerativeModel, LogLikelihood, Phase, diverged
from genkit.specs import ImageShape
from genkit.stream import is_black_and_white
from genkit_pixelcnn import PixelCNNConfig
from genkit_pixelcnn.cached import draw_images

FIRST_KERNEL = 7
OTHER_KERNEL = 3
PLANES = 3  # ones, row and column


class GatedLayer(nn.Module):
    """One layer of the vertical and of the horizontal stack (figure 2 of the paper).

    Both stacks' inputs were shifted once, before the first layer, so a layer may look at its own
    position: no masks, and nothing to shift again.

    Args:
        inputs: channels that come in; `channels` leave on both stacks.
        dilation: distance between the pixels of a window.
        first: whether the layer sees images, in a wider window, and not features.
    """

    def __init__(self, inputs: int, channels: int, dilation: int, first: bool) -> None:
        super().__init__()
        kernel = FIRST_KERNEL if first else OTHER_KERNEL
        half = kernel // 2
        self.reach = half * dilation
        self.vertical = nn.Conv2d(
            inputs,
            2 * channels,
            (half + 1, kernel),
            padding=(0, self.reach),
            dilation=dilation,
        )
        self.horizontal = nn.Conv2d(inputs, 2 * channels, (1, half + 1), dilation=dilation)
        self.link = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.residual = nn.Conv2d(channels, channels, 1, bias=False)
        # A gate's outputs are about an eighth of what it takes; without larger weights behind
        # it hardly anything of the vertical stack would arrive at the deeper layers.
        initialise(self.vertical, 1 if first else 4)
        initialise(self.horizontal, 1)
        initialise(self.link, 4)
        initialise(self.residual, 2)

    def before_gates(self, vertical: Tensor, horizontal: Tensor) -> tuple[Tensor, Tensor]:
        """Both stacks' convolutions, (N, 2 * channels, H, W) each, without the link."""
        # Padding what comes in touches half the channels that cropping what goes out would.
        return (
            self.vertical(F.pad(vertical, (0, 0, self.reach, 0))),
            self.horizontal(F.pad(horizontal, (self.reach, 0))),
        )

    def forward(self, vertical: Tensor, horizontal: Tensor) -> tuple[Tensor, Tensor]:
        """(N, inputs, H, W) twice to the vertical features and what the horizontal ones gain,
        (N, channels, H, W) each."""
        v, h = self.before_gates(vertical, horizontal)  # (N, 2 * channels, H, W)
        v = gate(v)  # (N, channels, H, W)
        return v, self.residual(gate(h + self.link(v)))


def gate(features: Tensor) -> Tensor:
    """tanh(a / 2) * sigmoid(b) / 2 for a, b = halves of (N, 2c, H, W), to (N, c, H, W).

    It is computed as (sigmoid(a) - 1 / 2) * sigmoid(b): one sigmoid over both halves.
    """
    a, b = torch.sigmoid(features).chunk(2, dim=1)
    return (a - 0.5) * b


def initialise(convolution: nn.Conv2d, gain: float) -> None:
    """Normal weights that multiply the spread of independent inputs by `gain`; no bias."""
    inputs = convolution.weight[0].numel()
    nn.init.normal_(convolution.weight, std=gain / math.sqrt(inputs))
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


class PixelCNN(GenerativeModel):
    """Gated PixelCNN (van den Oord et al. 2016, arXiv 1606.05328), without classes.

    p(x) is the product over pixels, row by row, of p(pixel | all pixels before it). The vertical
    stack sees every row above, the horizontal one the pixels to the left, so no pixel of the
    past is hidden (section 2.2).

    Departures from the paper:
     - The inputs are shifted once, by a row or a column, instead of masking each layer.
     - The gate is tanh(a / 2) * sigmoid(b) / 2: the paper's, up to the scale of weights.
     - The link to the horizontal stack starts behind the vertical stack's gate.
     - Layers after the first are dilated by 1, 2, 4, ... in turn, so that few layers see far.
     - A plane of ones (padding differs from grey) and two of coordinates join the input.
     - The colours of one pixel depend on each other in the head only: the stacks see earlier
       pixels alone, and the head of each colour is also told the pixel's previous colours.
     - With 2 levels a pixel is one Bernoulli variable, not a softmax over two.
    """

    config: PixelCNNConfig

    def __init__(self, config: PixelCNNConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        colours, height, width = image_shape.channels, image_shape.height, image_shape.width
        if colours not in (1, 3):
            raise UsageError(
                f"PixelCNN takes grey or RGB images (1 or 3 channels), not {image_shape}"
            )
        channels = config.channels
        self.outputs = 1 if config.levels == 2 else config.levels
        self.layers = nn.ModuleList(
            GatedLayer(
                channels if index else colours + PLANES,
                channels,
                dilation=2 ** ((index - 1) % config.dilation_cycle) if index else 1,
                first=index == 0,
            )
            for index in range(config.layers)
        )
        self.hidden = nn.Conv2d(channels, colours * channels, 1)
        self.known = nn.Conv2d(colours, colours * channels, 1, bias=False) if colours > 1 else None
        self.logits = nn.Conv2d(colours * channels, colours * self.outputs, 1, groups=colours)
        nn.init.zeros_(self.logits.bias)
        planes = torch.meshgrid(
            torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
        )
        self.register_buffer("coordinates", torch.stack(planes)[None], persistent=False)
        # Rows k * channels and on, which belong to head k, see the colours before k only.
        mask = torch.ones(colours, colours).tril(-1).repeat_interleave(channels, dim=0)
        self.register_buffer("mask", mask[:, :, None, None], persistent=False)

    def stack_inputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the vertical and the horizontal stack see of (N, C, H, W): (N, C + 3, H, W)."""
        known = F.pad(images, (0, 0, 0, 0, 0, 1), value=1.0)  # (N, C + 1, H, W)
        coordinates = self.coordinates.expand(len(images), -1, -1, -1)
        above = F.pad(known, (0, 0, 1, -1))
        left = F.pad(known, (1, -1))
        vertical, horizontal = (
            # All layers keep this memory format, in which a CPU trains faster.
            torch.cat([shifted, coordinates], dim=1).contiguous(memory_format=torch.channels_last)
            for shifted in (above, left)
        )
        return vertical, horizontal

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every colour given all that comes before it.

        Args:
            images: already rounded to the levels, in [-1, 1], (N, C, H, W).

        Returns:
            (N, C, levels, H, W), or (N, C, 1, H, W) with 2 levels: the logit of the upper one.
        """
        first, *others = self.layers
        vertical, features = first(*self.stack_inputs(images))  # (N, channels, H, W)
        for layer in others:
            vertical, gain = layer(vertical, features)
            features = features + gain
        hidden = self.hidden(F.relu(features))  # (N, C * channels, H, W)
        if self.known is not None:
            hidden = hidden + F.conv2d(images, self.known.weight * self.mask)
        logits = self.logits(F.relu(hidden))  # (N, C * outputs, H, W)
        return logits.unflatten(1, (self.image_shape.channels, self.outputs))

    def quantise(self, images: Tensor) -> Tensor:
        """Level of each value of images in [-1, 1], int64, same shape."""
        return ((images + 1) * (0.5 * (self.config.levels - 1))).round().long()

    def scale(self, levels: Tensor) -> Tensor:
        """Values in [-1, 1] of levels, float32, same shape."""
        return levels.float() * (2 / (self.config.levels - 1)) - 1

    def nats(self, images: Tensor) -> Tensor:
        """-ln p of images rounded to the levels, (N,), differentiable."""
        levels = self.quantise(images)
        logits = self(self.scale(levels)).float()  # (N, C, outputs, H, W)
        if self.config.levels == 2:
            target = levels.unsqueeze(2).to(logits.dtype)
            losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        else:
            losses = F.cross_entropy(logits.transpose(1, 2), levels, reduction="none")
        return losses.flatten(1).sum(1)

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Nats per dimension; logs nats per image and bits per dimension."""
        nats = self.nats(batch.images).mean()
        loss = nats / self.image_shape.dimensions
        return loss, {"nats": nats.detach(), "bits_per_dim": loss.detach() / math.log(2)}

    def phases(self) -> list[Phase]:
        optimizer = torch.optim.Adam(
            self.parameters(), lr=self.config.learning_rate, betas=(0.9, 0.99), fused=True
        )
        schedule = learning_rate_schedule(self.config.warmup_steps, self.config.decay_steps)
        return [
            Phase(
                name="nll",
                loss=self.loss,
                optimizer=optimizer,
                clip=self.config.clip,
                schedule=schedule,
            )
        ]

    @torch.no_grad()
    def trouble(self, history: Mapping[str, Sequence[float]]) -> str | None:
        """A loss that rises again."""
        if not diverged(history.get("nll/loss", ())):
            return None
        return (
            "the loss rises again: training diverges; try a smaller --learning-rate than "
            f"{self.config.learning_rate:g} or a smaller --clip"
        )

    def log_likelihood(self, images: Tensor) -> LogLikelihood:
        """Exact ln p, in nats, of images rounded to the levels; always in float32."""
        with torch.autocast(images.device.type, enabled=False):
            nats = -self.nats(images.float())
        if is_black_and_white(images):  # all numbers of levels have these two
            of = "black-and-white images"
        else:
            levels = self.config.levels
            of = "images at 256 levels" if levels == 256 else f"images rounded to {levels} levels"
        return LogLikelihood(nats, "exact", of)

    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator) -> Tensor:
        """Draw n images, (n, C, H, W), at the levels' values; labels are ignored.

        Each value is the inverse of its distribution function at one uniform number, all of
        which are drawn first. Same images as from one forward pass per pixel, see `cached`.
        """
        shape = (self.image_shape.channels, self.image_shape.height, self.image_shape.width)
        uniforms = torch.rand((n, *shape), generator=generator, device=self.device)
        with torch.autocast(uniforms.device.type, enabled=False):
            return draw_images(self, uniforms)


def learning_rate_schedule(warmup: int, decay: int) -> Callable[[int], float]:
    """Factor on the learning rate: linear warm-up, then constant, then 1 / sqrt(step).

    As in Karras et al. 2024 (arXiv 2312.02696): no end needs to be known, and the
    average of the weights takes the place of a learning rate that ends at 0.
    """

    def factor(step: int) -> float:
        rise = min((step + 1) / warmup, 1.0) if warmup else 1.0
        return rise / math.sqrt(max(step / decay, 1.0)) if decay else rise

    return factor
