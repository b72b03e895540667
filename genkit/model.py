"""What a generative model is to genkit: batches in, phases of training, samples out.

Plugins import this module and torch; nothing here knows of files, ranks or budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from genkit.data.alpha import has_alpha
from genkit.errors import UsageError
from genkit.specs import ImageShape, SamplerConfig, TrainerConfig

Loss = Callable[["Batch"], tuple[Tensor, Mapping[str, Tensor]]]
Schedule = Callable[..., "float | Mapping[str, Any]"]  # of (step) or (step, progress)


class Runs(Protocol):
    """The runs that a model's options name."""

    def open(self, name: str, device: torch.device) -> GenerativeModel:
        """The model of the run that the option `name` names."""


# Set while genkit builds a model.
RUNS: ContextVar[Runs | None] = ContextVar("runs", default=None)


@dataclass
class Batch:
    """Training images of one iteration.

    The three numbers are the same in all phases, repetitions and parts of an iteration and in all
    processes, so that what depends on them is repeated when a run resumes.

    Args:
        images: float32 in [-1, 1], (N, C, H, W).
        labels: int64, (N,), or None for unlabelled data.
        shared: scratch for the phases of this iteration, emptied before the next: a GAN's
            generator phase leaves its fakes here for the discriminator's.
        step: iterations done before this one.
        images_seen: training images seen before this iteration, over all processes.
        progress: share of the budget used before this iteration, 0 to 1. A function of the step for
            budgets in steps, images and epochs. For budgets in seconds an estimate that rises
            evenly between measurements; these are recorded in the run and followed again when it
            resumes, so that the same steps see the same values. 0 outside a run.
    """

    images: Tensor
    labels: Tensor | None = None
    shared: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    images_seen: int = 0
    progress: float = 0.0


@dataclass(eq=False, kw_only=True)
class Phase:
    """One kind of update within an iteration: a loss and the optimizer that follows it.

    The loop updates exactly the parameters of `optimizer`; all others are frozen meanwhile.

    Args:
        name: prefix of what is logged and key in the checkpoint, unique within the model.
        loss: bound method, batch -> (scalar to minimise, further scalars to log).
        optimizer: holds the parameters of this phase; two phases may share one.
        repeats: updates per iteration, each on its own batch (WGAN's n_critic).
        every: run on iterations divisible by this (lazy regularisation); scaling the loss
            accordingly is the model's job.
        clip: largest norm of the gradient over all the phase's parameters.
        schedule: pure function of the iteration, `schedule(step)`, or of the iteration and the
            share of the budget used, `schedule(step, progress)`. It returns a factor on the
            learning rate or a mapping of options of the optimizer's groups, such as lr, betas and
            weight_decay, which replace those of all groups.
        active: the phase runs while the share of the budget used is at least the first value and
            below the second: a stage of the training.
        after: called as `after(batch)` after each update, without gradients: for target networks,
            codebooks, or a bound on weights. With accumulation it is called once per update, with
            the whole batch, whose `shared` is empty.
        precision: "fp32" or "bf16" for this phase's loss; None for the run's.
        compile: whether the run's `--compile` compiles the loss; False for losses with second
            derivatives, which torch.compile cannot do.
        skip_above: an update whose gradient has a larger norm, or one that is not finite, is left
            out; the log counts these.
    """

    name: str
    loss: Loss
    optimizer: torch.optim.Optimizer
    repeats: int = 1
    every: int = 1
    clip: float | None = None
    schedule: Schedule | None = None
    active: tuple[float, float] = (0.0, 1.0)
    after: Callable[[Batch], object] | None = None
    precision: Literal["fp32", "bf16"] | None = None
    compile: bool = True
    skip_above: float | None = None


@dataclass(frozen=True)
class LogLikelihood:
    """Log-likelihood of images, one value each, or of images with a latent, one for each draw.

    Args:
        nats: (N,), natural logarithm of the probability of each image; (draws, N) as log-weights.
        kind: "exact", or "bound" for a lower bound such as the ELBO.
        of: what the probability is of, since only likelihoods of the same thing compare:
            "black-and-white images", "images binarised at random", "images at 256 levels".
    """

    nats: Tensor
    kind: Literal["exact", "bound"]
    of: str


class GenerativeModel(nn.Module):
    """Base of every model. Subclasses are built as `(config, image_shape)`.

    `__init__` raises `genkit.errors.UsageError` for an image shape that the model cannot take.
    A model whose samples follow labels sets `self.conditional = True`: genkit then gives it labels
    with every call that takes them. `cures` are options to try when samples become alike.
    """

    conditional: bool = False
    sample_batch: int = 64  # images that `sample` and `complete` are asked for at a time
    cures: Sequence[str] = ()

    def __init__(self, config: TrainerConfig, image_shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.image_shape = image_shape
        self.sampler = SamplerConfig()  # genkit sets the trainer's own
        self.frozen_runs = RUNS.get()

    def phases(self) -> list[Phase]:
        """The phases of one iteration, in their order. Called once, after the model has been
        moved to its device; optimizers are made here."""
        raise NotImplementedError

    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator) -> Tensor:
        """Draw n images, float in [-1, 1], (n, C, H, W). All randomness comes from `generator`,
        which lives on the model's device. Where there are latents, `sample` decodes them and need
        not be written."""
        latents = self.draw_latents(n, generator=generator)
        if latents is None:
            raise NotImplementedError(f"{type(self).__name__} has neither sample() nor latents")
        return self.decode_latents(latents, labels)

    def draw_latents(self, n: int, *, generator: torch.Generator) -> Tensor | None:
        """What n samples start from: standard normal, independent, (n, ...). None for models that
        draw more on the way from there, or start from nothing."""
        return None

    def decode_latents(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The images, float in [-1, 1], (n, C, H, W), that follow from latents, (n, ...), without
        further randomness. Of latents drawn from a generator they are its samples, bit for bit."""
        raise NotImplementedError

    def complete(
        self,
        images: Tensor,
        known: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator,
    ) -> Tensor | None:
        """Draw the pixels that are not known, given those that are; None for models that cannot.

        Images are in [-1, 1], (N, C, H, W); what they hold where they are not known must not
        matter. `known` is bool, (N, 1, H, W). The answer is of the images' shape and has the known
        pixels as they were, but for a rounding to the levels that the model can draw; black and
        white remain. All randomness comes from `generator`. Labels, int64 (N,), are given to models
        that are `conditional`, and to no others.
        """
        return None

    def log_likelihood(self, images: Tensor) -> LogLikelihood | None:
        """Log-likelihood of images in [-1, 1], (N, C, H, W); None for models without one."""
        return None

    def likelihood_levels(self) -> Sequence[int]:
        """Of which versions of the test images the model can give the likelihood: numbers of
        levels, 2 to 256, that they are rounded to before it is asked. 2 are black-and-white
        images, 256 the images as they are.

        Models are compared by the coarsest version that all of them can judge. Name a coarser one
        only if the answer is the probability of the rounded images themselves.
        """
        return (256,)

    def log_weights(self, images: Tensor, draws: int) -> LogLikelihood | None:
        """ln p(x, z) - ln q(z | x) for `draws` latents z ~ q(z | x) per image, (draws, N), from
        which genkit makes the importance-weighted bound; None for models without such a latent.

        Images are in [-1, 1], (N, C, H, W). Randomness comes from torch's global generators,
        which the caller seeds. x is the same for all draws of an image. `draws` times N is at
        most some 2,000, or N is 1. Where this answers, `log_likelihood` is not asked.
        """
        return None

    def reconstruct(self, images: Tensor) -> Tensor | None:
        """Images as the model sees them, same shape and range; None for models that encode
        nothing."""
        return None

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """Further pictures to draw with each grid, by names such as "attention": (rows, columns, C,
        H, W), float in [-1, 1], of test images, (N, C, H, W), and random numbers that are always
        the same."""
        return {}

    def network_to_export(self) -> tuple[nn.Module, Mapping[str, Tensor]] | None:
        """What `genkit export --onnx` writes, if not the decoder of latents: a module that gives
        one tensor, and examples of its inputs, by name and in order, at least two images each,
        with the batch first. None for models that offer nothing. The module must take batches of
        any size; `len(x)` would fix it, `x.shape[0]` does not."""
        return None

    def trouble(self, history: Mapping[str, Sequence[float]]) -> str | None:
        """What goes wrong in training, in one sentence with the option to try; None if nothing.
        Asked after each line of the log. `history` holds the last values that were logged, by
        name ("generator/loss"), oldest first, at most 100 each."""
        return None

    def frozen(self, name: str) -> GenerativeModel:
        """The model of the run that the option `name`, a `RunPath`, names: its averaged weights, in
        eval mode, without gradients, on this model's device. It is always the same one, and neither
        averaged nor saved with this model; do not make it an attribute.

        Raises:
            genkit.errors.UsageError: the option names no run.
        """
        if self.frozen_runs is None:
            raise RuntimeError(f"frozen({name!r}) needs a model that genkit has built")
        here = next((p.device for p in self.parameters()), torch.get_default_device())
        return self.frozen_runs.open(name, here)

    def choose_labels(self, labels: Tensor | None, n: int) -> Tensor | None:
        """What a conditional model draws n images of: the labels, int64 (n,), if there are any,
        else the classes in turn; None for a model that is not conditional. Labels that are no such
        thing, or on another device than the model, are refused with a UsageError."""
        if not self.conditional:
            return None
        if labels is None:
            return torch.arange(n, device=self.device) % self.image_shape.classes
        if not torch.compiler.is_compiling():  # an exported network cannot look at its inputs
            if labels.device != self.device:
                raise UsageError(f"labels are on {labels.device}; move them to {self.device}")
            check_labels(labels, n, self.image_shape.classes)
        return labels

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def diverged(values: Sequence[float], lines: int = 5) -> bool:
    """Whether a loss that should fall has risen again by half its size: the mean of its last
    lines against the lowest mean of as many."""
    means = [sum(values[i : i + lines]) / lines for i in range(0, len(values) - lines + 1)]
    return bool(means) and means[-1] > min(means) + abs(min(means)) / 2


def check_labels(labels: Tensor, n: int, classes: int) -> None:
    """Raise UsageError unless labels are n whole numbers, (n,), of 0 to `classes` - 1."""
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.ndim != 1:
        raise UsageError(f"labels must be whole numbers, one for each sample, not {labels!r:.80}")
    if len(labels) != n:
        raise UsageError(f"{len(labels)} labels were given for {n} samples; give one for each")
    for wrong in labels[(labels < 0) | (labels >= classes)][:1].tolist():
        raise UsageError(f"there is no class {wrong}; classes are 0 to {classes - 1}")


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]: 0 to -1, 255 to 1."""
    return images.float().mul_(1 / 127.5).sub_(1)


def to_bytes(images: Tensor) -> Tensor:
    """Float images in [-1, 1], (..., C, H, W), to uint8, rounded to the nearest level and clipped.

    Of premultiplied images (2 or 4 channels) the colours are clipped at their alpha.
    """
    levels = images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
    if levels.ndim >= 3 and has_alpha(levels.shape[-3]):
        colours, alpha = torch.split(levels, [levels.shape[-3] - 1, 1], dim=-3)
        levels = torch.cat([torch.minimum(colours, alpha), alpha], dim=-3)
    return levels


def is_black_and_white(images: Tensor) -> bool:
    """Whether images in [-1, 1], (N, C, H, W), are grey and hold nothing but -1 and 1."""
    return images.shape[1] == 1 and bool((images.abs() == 1).all())
