"""For models that draw one value after another: the draw itself, and its guidance by a label."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genkit.model import GenerativeModel


class FromUniforms(GenerativeModel):
    """A model whose samples are a function of uniform numbers that are all drawn first, so that
    those of several generators can be decoded together."""

    def draw_uniforms(self, n: int, *, generator: torch.Generator) -> Tensor:
        """What n samples are made of, (n, C, H, W), in [0, 1)."""
        shape = (self.image_shape.channels, self.image_shape.height, self.image_shape.width)
        return torch.rand((n, *shape), generator=generator, device=self.device)

    def decode_uniforms(self, uniforms: Tensor, labels: Tensor | None = None) -> Tensor:
        """The images, float in [-1, 1], (n, C, H, W), that follow from `draw_uniforms`."""
        raise NotImplementedError

    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator) -> Tensor:
        """As of every model."""
        return self.decode_uniforms(self.draw_uniforms(n, generator=generator), labels)


def choose(logits: Tensor, uniforms: Tensor) -> Tensor:
    """The level that each of `uniforms` (...) picks, an integer or bool; `logits` (..., outputs).

    With several outputs that is the inverse of the distribution function. A single output is the
    logit of the upper of two levels, which is picked by what lies below its probability.
    """
    if logits.shape[-1] == 1:
        return logits.squeeze(-1).sigmoid() > uniforms
    cumulative = logits.softmax(-1).cumsum(-1)
    reached = cumulative <= uniforms.unsqueeze(-1) * cumulative[..., -1:]
    return reached.sum(-1).clamp(max=logits.shape[-1] - 1)


class Guidance:
    """Logits that follow a label y more strongly than they were learned, for n images at once:

        ln p(v | past, y) + (w - 1) (ln p(v | past, y) - ln p(v | past)), up to a constant,

    with w the strength, which is 1 without guidance (Ho and Salimans 2022, arXiv 2207.12598,
    equation 6, with w - 1 as their w). No label is hidden in training for this: p(v | past) is the
    sum over k of p(k | past) p(v | past, k), where p(k | past) follows by Bayes' rule from the
    values drawn so far. So the difference is that of ln p(y | past and v), and the classifier of
    Dhariwal and Nichol 2021 (arXiv 2105.05233, section 4) is the model itself.

    Args:
        labels: int64, (n,).
        log_shares: ln p(k), (classes,), before anything is drawn.
        strength: w.
    """

    def __init__(self, labels: Tensor, log_shares: Tensor, strength: float) -> None:
        self.labels = labels[:, None, None]
        self.evidence = log_shares.repeat(len(labels), 1)  # ln p(k, past), (n, classes)
        self.strength = strength
        self.given = torch.empty(0)

    def logits(self, each: Tensor) -> Tensor:
        """Guided logits, (n, outputs), of the next value, from those by class,
        (n * classes, outputs), the classes of an image side by side."""
        n, classes = self.evidence.shape
        single = each.shape[1] == 1  # the logit of the upper of two levels
        each = F.pad(each, (1, 0)) if single else each
        self.given = each.log_softmax(1).view(n, classes, -1)  # ln p(v | past, k)
        posterior = self.evidence.log_softmax(1).unsqueeze(2)  # ln p(k | past)
        own = self.given.take_along_dim(self.labels, 1).squeeze(1)
        guided = torch.lerp((posterior + self.given).logsumexp(1), own, self.strength)
        return guided.diff(dim=1) if single else guided

    def see(self, levels: Tensor) -> None:
        """Take the value, a level of each image, (n,), into the past."""
        self.evidence += self.given.take_along_dim(levels[:, None, None], 2).squeeze(2)
