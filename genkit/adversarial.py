"""The losses and the penalties of GANs: each a few lines, with its equation.

D(x) below is a logit or score of "x is real": float, (N,). Losses are means over the images, and
both players minimise. Penalties need second derivatives: give their phase `compile=False` and
`precision="fp32"`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

GANLoss = Literal[
    "non-saturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"
]
GAN_LOSSES: tuple[GANLoss, ...] = get_args(GANLoss)


def discriminator_loss(kind: GANLoss, real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """What the discriminator minimises, a scalar.

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
