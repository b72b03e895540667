"""PixelRNN: loss, exact likelihood, samples. The network and the fast sampler are beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genkit.autoregressive import FromUniforms
from genkit.model import Batch, LogLikelihood, Phase, diverged, is_black_and_white
from genkit_pixelrnn.network import Network
from genkit_pixelrnn.sampler import draw_images


class PixelRNN(FromUniforms, Network):
    """PixelRNN (van den Oord, Kalchbrenner and Kavukcuoglu 2016, arXiv 1601.06759).

    p(x) is the product over pixels, row by row, and within a pixel over red, green and blue, of
    p(value | all values before it) (section 2). Table 1 gives the network: a 7 x 7 convolution with
    mask A, LSTM layers, each with a 1 x 1 convolution to twice its width that is added to its
    input (figure 5), two layers of ReLU and 1 x 1 convolution, the second of which gives logits.

    Departures from the paper:
     - The optimizer is Adam, not RMSProp, and the loss is the mean over all dimensions.
     - The state outside the image is learned on all sides of the Diagonal BiLSTM: the paper says
       so for the first step alone, and pads with zeros above.
     - Skip connections come from all LSTMs and from what their layers have added up.
     - Values are given to the network in [-1, 1].
     - With `positions`, each pixel has its row and column as learned features.
     - `conditional`, which the paper has not, adds a bias of the class to what the gates of every
       LSTM get, as its successor does (van den Oord et al. 2016, arXiv 1606.05328, section 2.3).
       The likelihood of an image is then p(x) = sum over y of p(y) p(x|y), with p(y) the classes'
       shares of the training images, so that it compares with that of other models. The
       sampler's `guidance` changes samples alone, see `genkit.autoregressive.Guidance`.
    """

    def nats(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """-ln p of images rounded to the levels, (N,), differentiable; given labels, (N,), for a
        conditional model."""
        levels = self.quantise(images)  # (N, C, H, W)
        logits = self.ordered_logits(self.scale(levels), labels).float()  # (P, N, C, outputs)
        target = levels.flatten(2).permute(2, 0, 1).index_select(0, self.order.pixels)
        if self.config.levels == 2:
            losses = F.binary_cross_entropy_with_logits(
                logits.squeeze(3), target.to(logits.dtype), reduction="none"
            )
        else:
            losses = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none")
        return losses.view(target.shape).sum((0, 2))

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Nats per dimension; logs nats per image and bits per dimension."""
        nats = self.nats(batch.images, batch.labels).mean()
        loss = nats / self.image_shape.dimensions
        return loss, {"nats": nats.detach(), "bits_per_dim": loss.detach() / math.log(2)}

    def phases(self) -> list[Phase]:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate, fused=True)
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
        Same images as from one forward pass per value, see `cached`.
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
        pixels come first, as the upper half does; known pixels further on have no influence on
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
    """Factor on the learning rate: linear warm-up, then constant, then 1 / sqrt(step), as in
    Karras et al. 2024 (arXiv 2312.02696): the end of the training need not be known."""

    def factor(step: int) -> float:
        rise = min((step + 1) / warmup, 1.0) if warmup else 1.0
        return rise / math.sqrt(max(step / decay, 1.0)) if decay else rise

    return factor
