"""Gated PixelCNN: network, loss and exact likelihood. Fast sampling is in `cached`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit.errors import UsageError
from genkit.model import Batch, GenerativeModel, LogLikelihood, Phase, diverged, is_black_and_white
from genkit.specs import ImageShape
from genkit_pixelcnn import PixelCNNConfig
from genkit_pixelcnn.cached import draw_images
from genkit_pixelcnn.layers import GatedLayer

PLANES = 3  # ones, row and column


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
        if colours > 4:
            raise UsageError(f"PixelCNN takes images of 1 to 4 channels, not {image_shape}")
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
        self.hidden = nn.Linear(channels, colours * channels)
        self.known = nn.ModuleList(
            nn.Linear(colour, channels, bias=False) for colour in range(1, colours)
        )
        self.logits = nn.ModuleList(nn.Linear(channels, self.outputs) for _ in range(colours))
        for layer in self.logits:
            nn.init.zeros_(layer.bias)
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

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every colour given all that comes before it.

        Args:
            images: already rounded to the levels, in [-1, 1], (N, C, H, W).

        Returns:
            (N, C, levels, H, W), or (N, C, 1, H, W) with 2 levels: the logit of the upper one.
        """
        logits = self.colour_logits(images.permute(0, 2, 3, 1))
        return torch.stack(logits, dim=3).permute(0, 3, 4, 1, 2)

    def colour_logits(self, images: Tensor) -> list[Tensor]:
        """Of (N, H, W, C), for each colour the logits of its levels, (N, H, W, outputs)."""
        first, *others = self.layers
        vertical, gated = first(*self.stack_inputs(images))  # (N, H, W, channels)
        features = first.residual(gated)
        for layer in others:
            vertical, gated = layer(vertical, features)
            features = features + layer.residual(gated)
        logits = []
        hidden = self.hidden(F.relu(features)).chunk(len(self.logits), dim=3)
        for colour, (own, layer) in enumerate(zip(hidden, self.logits, strict=True)):
            if colour:
                own = own + self.known[colour - 1](images[..., :colour])
            logits.append(layer(F.relu(own)))
        return logits

    def quantise(self, images: Tensor) -> Tensor:
        """Level of each value of images in [-1, 1], int64, same shape."""
        return ((images + 1) * (0.5 * (self.config.levels - 1))).round().long()

    def scale(self, levels: Tensor) -> Tensor:
        """Values in [-1, 1] of levels, float32, same shape."""
        return levels.float() * (2 / (self.config.levels - 1)) - 1

    def nats(self, images: Tensor) -> Tensor:
        """-ln p of images rounded to the levels, (N,), differentiable."""
        levels = self.quantise(images.permute(0, 2, 3, 1))  # (N, H, W, C)
        nats = images.new_zeros(len(images))
        # A colour at a time: the logits of 256 levels are by far the largest tensors.
        for logits, target in zip(
            self.colour_logits(self.scale(levels)), levels.unbind(3), strict=True
        ):
            logits = logits.float()  # (N, H, W, outputs)
            if self.config.levels == 2:
                losses = F.binary_cross_entropy_with_logits(
                    logits.squeeze(3), target.to(logits.dtype), reduction="none"
                )  # (N, H, W)
            else:
                losses = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none")
            nats = nats + losses.view(len(images), -1).sum(1)
        return nats

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

    def network_to_export(self) -> tuple[nn.Module, Mapping[str, Tensor]]:
        """From images at the levels to the logits of every value; the sampling loop is none."""
        shape = (5, self.image_shape.channels, self.image_shape.height, self.image_shape.width)
        levels = torch.arange(math.prod(shape), device=self.device) % self.config.levels
        return self, {"images": self.scale(levels).view(shape)}

    def trouble(self, history: Mapping[str, Sequence[float]]) -> str | None:
        """A loss that rises again."""
        if not diverged(history.get("nll/loss", ())):
            return None
        return (
            "the loss rises again: training diverges; try a smaller --learning-rate than "
            f"{self.config.learning_rate:g} or a smaller --clip"
        )

    @torch.no_grad()
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

    def complete(self, images: Tensor, known: Tensor, *, generator: torch.Generator) -> Tensor:
        """Images with their hidden pixels drawn in the order of samples, (N, C, H, W).

        A hidden pixel is drawn given the pixels before it, known or drawn: the rows above and
        what is left of it. So the draw is an exact one from p(hidden | known) where all known
        pixels come first, as the upper half does; known pixels further on have no say in what is
        drawn before them. Known pixels are rounded to the levels: with 2 of them, to black up to
        127 and to white from 128 on. Without known pixels these are the generator's samples.
        """
        uniforms = torch.rand(images.shape, generator=generator, device=self.device)
        with torch.autocast(uniforms.device.type, enabled=False):
            given = self.scale(self.quantise(images.float()))
            return draw_images(self, uniforms, given=given, known=known)


def learning_rate_schedule(warmup: int, decay: int) -> Callable[[int], float]:
    """Factor on the learning rate: linear warm-up, then constant, then 1 / sqrt(step).

    As in Karras et al. 2024 (arXiv 2312.02696): no end needs to be known, and the
    average of the weights takes the place of a learning rate that ends at 0.
    """

    def factor(step: int) -> float:
        rise = min((step + 1) / warmup, 1.0) if warmup else 1.0
        return rise / math.sqrt(max(step / decay, 1.0)) if decay else rise

    return factor
