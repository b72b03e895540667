"""Gated PixelCNN: loss, exact likelihood, sampling and completion, on the network of `network`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit.autoregressive import FromUniforms
from genkit.model import Batch, LogLikelihood, Phase, diverged, is_black_and_white
from genkit_pixelcnn.network import Network
from genkit_pixelcnn.sampler import draw_images


class PixelCNN(FromUniforms, Network):
    """Gated PixelCNN (van den Oord et al. 2016, arXiv 1606.05328).

    p(x) is the product over pixels, row by row, of p(pixel | all pixels before it). The vertical
    stack sees every row above, the horizontal one the pixels to the left, so no pixel of the
    past is hidden (section 2.2). `conditional` adds a bias of the class to every gate (section
    2.3); the likelihood of an image is then p(x) = sum over y of p(y) p(x|y), with p(y) the
    classes' shares of the training images, so that it compares with that of other models. The
    sampler's `guidance` changes samples alone, see `genkit.autoregressive.Guidance`.

    Departures from the paper:
     - The inputs are shifted once, by a row or a column, instead of masking each layer.
     - The gate is tanh(a / 2) * sigmoid(b) / 2: the paper's, up to the scale of weights.
     - The link to the horizontal stack starts behind the vertical stack's gate.
     - Layers after the first are dilated by 1, 2, 4, ... in turn, so that few layers see far.
     - A plane of ones (padding differs from grey) and two of coordinates join the input.
     - The colours of one pixel depend on each other in the head only: the stacks see earlier
       pixels alone, and the head of each colour also sees the pixel's previous colours.
     - With 2 levels a pixel is one Bernoulli variable, not a softmax over two.
    """

    def quantise(self, images: Tensor) -> Tensor:
        """Level of each value of images in [-1, 1], int64, same shape."""
        return ((images + 1) * (0.5 * (self.config.levels - 1))).round().long()

    def scale(self, levels: Tensor) -> Tensor:
        """Values in [-1, 1] of levels, float32, same shape."""
        return levels.float() * (2 / (self.config.levels - 1)) - 1

    def nats(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """-ln p of images rounded to the levels, (N,), differentiable; given labels, (N,), for a
        conditional model."""
        levels = self.quantise(images.permute(0, 2, 3, 1))  # (N, H, W, C)
        nats = images.new_zeros(len(images))
        # A colour at a time: the logits of 256 levels are by far the largest tensors.
        for logits, target in zip(
            self.colour_logits(self.scale(levels), labels), levels.unbind(3), strict=True
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
        nats = self.nats(batch.images, batch.labels).mean()
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
        """From images at the levels to the logits of every value; the sampling loop is left out."""
        shape = (5, self.image_shape.channels, self.image_shape.height, self.image_shape.width)
        levels = torch.arange(math.prod(shape), device=self.device) % self.config.levels
        inputs = {"images": self.scale(levels).view(shape)}
        labels = self.choose_labels(None, shape[0])
        return self, inputs if labels is None else {**inputs, "labels": labels}

    def trouble(self, history: Mapping[str, Sequence[float]]) -> str | None:
        """A loss that rises again."""
        if not diverged(history.get("nll/loss", ())):
            return None
        return (
            "the loss rises again: training diverges; try a smaller --learning-rate than "
            f"{self.config.learning_rate:g} or a smaller --clip"
        )

    def likelihood_levels(self) -> Sequence[int]:
        """Images at its own levels, and no coarser ones: these would be a sum over all the images
        that are rounded to them."""
        return (self.config.levels,)

    @torch.no_grad()
    def log_likelihood(self, images: Tensor) -> LogLikelihood:
        """Exact ln p, in nats, of images rounded to the levels; always in float32. Of a conditional
        model it is that of the image whatever its class, see above."""
        with torch.autocast(images.device.type, enabled=False):
            if self.conditional:
                labels = torch.arange(self.image_shape.classes, device=images.device)
                given = [-self.nats(images.float(), label.expand(len(images))) for label in labels]
                nats = (torch.stack(given, 1) + self.log_shares).logsumexp(1)
            else:
                nats = -self.nats(images.float())
        if is_black_and_white(images):  # all numbers of levels have these two
            of = "black-and-white images"
        else:
            levels = self.config.levels
            of = "images at 256 levels" if levels == 256 else f"images rounded to {levels} levels"
        return LogLikelihood(nats, "exact", of)

    def decode_uniforms(self, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images, (n, C, H, W), at the levels' values; of the classes `labels`, (n,), or of all in
        turn, if the model is conditional.

        Each value is the inverse of its distribution function at one uniform number, (n, C, H, W).
        Same images as from one forward pass per pixel, see `sampler`.
        """
        with torch.autocast(uniforms.device.type, enabled=False):
            labels = self.choose_labels(labels, len(uniforms))
            return draw_images(self, uniforms, labels=labels)

    def complete(
        self,
        images: Tensor,
        known: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Images with their hidden pixels drawn in the order of samples, (N, C, H, W).

        A hidden pixel is drawn given the pixels before it, known or drawn: the rows above and
        what is left of it. So the draw is an exact one from p(hidden | known) where all known
        pixels come first, as the upper half does; known pixels that come later do not influence
        what is drawn before them. Known pixels are rounded to the levels: with 2 of them, to black
        up to 127 and to white from 128 on. Without known pixels these are the generator's samples.
        Labels are those of `sample`.
        """
        uniforms = torch.rand(images.shape, generator=generator, device=self.device)
        with torch.autocast(uniforms.device.type, enabled=False):
            given = self.scale(self.quantise(images.float()))
            labels = self.choose_labels(labels, len(images))
            return draw_images(self, uniforms, given=given, known=known, labels=labels)


def learning_rate_schedule(warmup: int, decay: int) -> Callable[[int], float]:
    """Factor on the learning rate: linear warm-up, then constant, then 1 / sqrt(step).

    As in Karras et al. 2024 (arXiv 2312.02696): no end needs to be known, and the
    average of the weights takes the place of a learning rate that ends at 0.
    """

    def factor(step: int) -> float:
        rise = min((step + 1) / warmup, 1.0) if warmup else 1.0
        return rise / math.sqrt(max(step / decay, 1.0)) if decay else rise

    return factor
