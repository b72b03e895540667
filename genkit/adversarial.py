"""The losses and the penalties of GANs: each a few lines, with its equation; and a model of a
generator and a discriminator that plays by them.

D(x) below is a logit or score of "x is real": float, (N,). Losses are means over the images, and
both players minimise. Penalties need second derivatives: give their phase `compile=False` and
`precision="fp32"`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from genkit.adversarial_options import AdversarialConfig
from genkit.adversarial_options import GANLoss as GANLoss
from genkit.augment import augment
from genkit.errors import UsageError
from genkit.model import Batch, GenerativeModel, Phase
from genkit.specs import ImageShape

GAN_LOSSES: tuple[GANLoss, ...] = get_args(GANLoss)
LOGARITHMIC = ("non-saturating", "minimax")  # losses by which D(x) is the logit of a probability
RELATIVE = ("relativistic", "wasserstein")  # by which only differences of scores count
VERDICTS = ("real", "fake")  # mean probability of "real" that the discriminator gives to either
SURE = 0.97  # above which, ten lines running, it has won
ADAPTED_IMAGES = 100_000  # seen while the augmented share rises from 0 to 1, at most that fast


def discriminator_loss(kind: GANLoss, real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """What the discriminator minimises, a scalar:

    - non-saturating, minimax: -log D(x) - log(1 - D(G(z))) of probabilities (Goodfellow et al.
      2014, arXiv 1406.2661, equation 1). `smoothing` makes the target of real images 1 - smoothing
      (Salimans et al. 2016, arXiv 1606.03498, section 3.4).
    - least-squares: ((D(x) - 1)^2 + D(G(z))^2) / 2 (Mao et al. 2017, arXiv 1611.04076, equation 9).
    - hinge: max(0, 1 - D(x)) + max(0, 1 + D(G(z))) (Lim and Ye 2017, arXiv 1705.02894; Miyato et
      al. 2018, arXiv 1802.05957, equation 16).
    - wasserstein: D(G(z)) - D(x) (Arjovsky et al. 2017, arXiv 1701.07875, equation 2); needs
      `gradient_penalty`, or another bound on the slope.
    - relativistic: -log of the probability that x is more real than the G(z) it is paired with
      (Jolicoeur-Martineau 2018, arXiv 1807.00734; as in Huang et al. 2024, arXiv 2501.05441,
      equation 2).

    Args:
        real, fake: D of as many real images and samples, (N,).
    """
    if kind == "least-squares":
        return ((real - 1).square().mean() + fake.square().mean()) / 2
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "wasserstein":
        return fake.mean() - real.mean()
    if kind == "relativistic":
        return F.softplus(fake - real).mean()
    loss = F.softplus(-real).mean() + F.softplus(fake).mean()  # -log D = softplus(-logit)
    return loss + smoothing * real.mean() if smoothing else loss


def generator_loss(kind: GANLoss, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """What the generator minimises, a scalar: -log D(G(z)) (Goodfellow et al. 2014, section 3), the
    minimax form log(1 - D(G(z))), (D(G(z)) - 1)^2 / 2, or -D(G(z)) for hinge and wasserstein;
    the relativistic one is the discriminator's with the roles exchanged, and needs `real`.

    Args:
        real, fake: D of real images and of samples, (N,).
    """
    if kind == "minimax":
        return -F.softplus(fake).mean()  # log(1 - D) = -softplus(logit)
    if kind == "least-squares":
        return (fake - 1).square().mean() / 2
    if kind in ("hinge", "wasserstein"):
        return -fake.mean()
    if kind == "relativistic":
        if real is None:
            raise ValueError("the relativistic loss compares samples with real images: give both")
        return F.softplus(real - fake).mean()
    return F.softplus(-fake).mean()


def slope_penalty(judge: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The mean over images of |grad D|^2, a scalar: R1 of real images, R2 of samples, to be given
    the weight gamma / 2 (Mescheder et al. 2018, arXiv 1801.04406, equations 9 and 10).

    Args:
        judge: D, from images to (N,), no image influencing the score of another.
        images: (N, C, H, W); need no gradient of their own.
    """
    return _slopes(judge, images).square().sum(1).mean()


def gradient_penalty(judge: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """The mean of (|grad D| - 1)^2 between real images and samples, a scalar, to be given the
    weight 10 (Gulrajani et al. 2017, arXiv 1704.00028, equation 3). Places are drawn from torch's
    global generator.

    Args:
        judge: D, from images to (N,), no image influencing the score of another.
        real, fake: (N, C, H, W) each; need no gradient of their own.
    """
    place = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    between = torch.lerp(real.detach(), fake.detach().to(real.dtype), place)
    lengths: Tensor = torch.linalg.vector_norm(_slopes(judge, between), dim=1)
    return (lengths - 1).square().mean()


def _slopes(judge: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The gradient of each image's score by the image, (N, C * H * W); it can be differentiated."""
    images = images.detach().requires_grad_()
    (slopes,) = torch.autograd.grad(judge(images).float().sum(), images, create_graph=True)
    return slopes.flatten(1)


class AdversarialModel(GenerativeModel):
    """A game of two networks, by the options of its config.

    A subclass makes both networks in its `__init__`, which ends with `steady()`:

    - `generator`: from noise z, (N, latent), to images, (N, C, H, W). Samples are cut at -1 and 1.
    - `discriminator`: from images to logits of "this is real", (N,); no layer couples images.

    A model by class, `self.classes` > 0, calls both with the labels, (N,), as a second argument.
    Penalties of slopes are computed in some iterations only (lazily, Karras et al. 2020, arXiv
    1912.04958, appendix B), by a step of the optimizer of their own. The share of augmented images
    follows the overfitting if there is a target (Karras et al. 2020, arXiv 2006.06676, equation 1
    and section 3; here over fewer images, since trainings are short). Departing from algorithm 1
    of Goodfellow et al. 2014, both players move from the same state of the game, on the same
    fakes, so that the generator runs once per iteration.
    """

    augmented_share: Tensor  # of images, 0 to 1, with an augment_target
    generator: nn.Module
    discriminator: nn.Module

    def __init__(self, config: AdversarialConfig, image_shape: ImageShape) -> None:
        super().__init__(config, image_shape)
        self.config: AdversarialConfig
        if config.conditional and not image_shape.classes:
            raise UsageError("--conditional needs data with labels; leave it out, or choose others")
        self.conditional = config.conditional
        self.classes = image_shape.classes if config.conditional else 0

    def steady(self) -> None:
        """Bound the discriminator's slope, and begin with nothing augmented, if the config asks."""
        if self.config.spectral_norm:
            for layer in [*self.discriminator.modules()]:
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    parametrizations.spectral_norm(layer)
        if self.config.augmentations and self.config.augment_target:
            self.register_buffer("augmented_share", torch.zeros(()))

    def phases(self) -> list[Phase]:
        betas = (self.config.beta1, 0.999)
        adam = torch.optim.Adam
        generator = adam(self.generator.parameters(), self.config.generator_rate, betas, fused=True)
        discriminator = adam(
            self.discriminator.parameters(), self.config.discriminator_rate, betas, fused=True
        )
        exact: dict[str, Any] = {"compile": False, "precision": "fp32"}  # for second derivatives
        penalised = self.config.loss == "wasserstein" and self.config.gradient_penalty
        phases = [
            Phase(name="generator", loss=self.generator_loss, optimizer=generator),
            Phase(
                name="discriminator",
                loss=self.discriminator_loss,
                optimizer=discriminator,
                repeats=self.config.discriminator_steps,
                **(exact if penalised else {}),
            ),
        ]
        if self.config.r1 or self.config.r2:
            phases.append(
                Phase(
                    name="penalty",
                    loss=self.penalty,
                    optimizer=discriminator,
                    every=self.config.penalty_every,
                    **exact,
                )
            )
        return phases

    def generator_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What the generator minimises, a scalar. The fakes, (N, C, H, W), are left for the
        discriminator in `batch.shared`."""
        if len(batch.images) < 2 and any(
            isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) for layer in self.modules()
        ):
            few = "BatchNorm needs 2 images or more in every part of a batch; choose a smaller"
            raise UsageError(f"{few} --accumulate or a larger --batch-size")
        fake = self._draw(batch)
        batch.shared["fake"] = fake.detach()
        real = None
        if self.config.loss == "relativistic":
            with torch.no_grad():
                real = self._judge(batch.images, batch.labels)
        return generator_loss(self.config.loss, self._judge(fake, batch.labels), real), {}

    def _draw(self, batch: Batch) -> Tensor:
        """As many fakes as the batch has images, of their labels, by torch's global generator."""
        z = torch.randn(len(batch.images), self.config.latent, device=batch.images.device)
        return self._call(self.generator, z, batch.labels)

    def _call(self, network: nn.Module, given: Tensor, labels: Tensor | None) -> Tensor:
        """What a network makes of its input, and of the labels if the model is conditional."""
        found: Tensor = network(given, labels) if self.conditional else network(given)
        return found

    def _judge(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The discriminator's logits, float32, (N,), of images as it may see them: augmented."""
        if self.config.augmentations:
            share = self.augmented_share if self.config.augment_target else 1.0
            images = augment(images, self.config.augmentations, share)
        return self._call(self.discriminator, images, labels).float()

    def discriminator_loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """What the discriminator minimises, a scalar, both halves in one pass: no layer couples
        the images. Fakes have the labels of the real images. Its second update and later ones in
        an iteration have fakes of their own. Logs the mean probability of "real" that it gives to
        both, or, where there is none, the mean score; of the relativistic game the mean probability
        that the real image of a pair is the more real one."""
        if "fake" not in batch.shared:
            with torch.no_grad():
                batch.shared["fake"] = self._draw(batch)
        fakes = batch.shared["fake"].to(batch.images.dtype)
        labels = None if batch.labels is None else batch.labels.repeat(2)
        real, fake = self._judge(torch.cat([batch.images, fakes]), labels).chunk(2)  # (N,) each
        loss = discriminator_loss(self.config.loss, real, fake, self.config.label_smoothing)
        if self.config.loss == "wasserstein" and self.config.gradient_penalty:
            penalty = gradient_penalty(lambda x: self._judge(x, batch.labels), batch.images, fakes)
            loss = loss + self.config.gradient_penalty * penalty
        seen = {"real": real.detach(), "fake": fake.detach()}
        if self.config.augmentations and self.config.augment_target:
            self._adapt(real - fake if self.config.loss in RELATIVE else real)
            seen["augmented"] = self.augmented_share.clone()
        if self.config.loss == "relativistic":
            seen["pairs"] = (seen["real"] - seen["fake"]).sigmoid()
        if self.config.loss in LOGARITHMIC:
            seen |= {name: seen[name].sigmoid() for name in VERDICTS}
        return loss, {name: values.mean() for name, values in seen.items()}

    def _adapt(self, real: Tensor) -> None:
        """More augmentation where the discriminator is surer of real images, (N,), than the target
        says, and less where it is not. If only differences count, these are of pairs."""
        step = (real.detach().sign().mean() - self.config.augment_target).sign()
        self.augmented_share.add_(step * len(real) / ADAPTED_IMAGES).clamp_(0, 1)

    def penalty(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The discriminator's slopes at real images and at fakes, a scalar, weighted for the
        iterations that go by without it."""
        weights = {"r1": self.config.r1, "r2": self.config.r2}
        asked = [name for name, weight in weights.items() if weight]
        places = {"r1": batch.images, "r2": batch.shared["fake"].float()}
        labels = None if batch.labels is None else batch.labels.repeat(len(asked))
        images = torch.cat([places[name] for name in asked])  # in one pass
        slopes = _slopes(lambda x: self._judge(x, labels), images).square().sum(1)
        logged = {k: v.mean() for k, v in zip(asked, slopes.chunk(len(asked)), strict=True)}
        total = torch.stack([weights[name] / 2 * logged[name] for name in asked]).sum()
        return self.config.penalty_every * total, {k: v.detach() for k, v in logged.items()}

    def trouble(self, history: Mapping[str, Sequence[float]]) -> str | None:
        """A discriminator that wins outright: the generator then learns next to nothing of it
        (Arjovsky and Bottou 2017, arXiv 1701.04862, section 2)."""
        last = {key: list(values)[-10:] for key, values in history.items()}
        real, fake, pairs = (last.get(f"discriminator/{name}", []) for name in (*VERDICTS, "pairs"))
        if self.config.loss == "relativistic" and len(pairs) == 10 and min(pairs) >= SURE:
            seen = f"{pairs[-1]:.1%} of real images for more real than a sample"
        elif self.config.loss not in LOGARITHMIC or len(real) < 10:
            return None
        elif min(real) >= SURE and max(fake) <= 1 - SURE:
            seen = f"{real[-1]:.1%} of real images and {fake[-1]:.1%} of samples for real"
        else:
            return None
        tried = "--r1 1, " * (not self.config.r1)
        tried += "--spectral-norm, " * (not self.config.spectral_norm)
        tried += f"a smaller --discriminator-rate than {self.config.discriminator_rate:g}"
        said = f"the discriminator wins outright: it takes {seen}"
        return f"{said}; try {tried}, or a larger --generator-rate"

    @property
    def cures(self) -> list[str]:  # type: ignore[override]
        """What kept samples apart where the generator was too fast (docs/instability.md), and is
        not in use yet."""
        cures = ["--r1 1"] * (not self.config.r1)
        games = ["--loss relativistic with --r1 1 --r2 1"]
        return cures + games * (self.config.loss != "relativistic")

    def draw_latents(self, n: int, *, generator: torch.Generator) -> Tensor:
        """The noise z of n images, standard normal: float32, (n, latent)."""
        return torch.randn(n, self.config.latent, generator=generator, device=self.device)

    def decode_latents(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of noise, (n, latent): (n, C, H, W) in [-1, 1]; of the classes `labels`, (n,), or
        of all in turn, if the model is conditional."""
        labels = self.choose_labels(labels, latents.shape[0])
        return self._call(self.generator, latents, labels).clamp(-1, 1)
