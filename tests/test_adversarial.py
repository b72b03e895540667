"""Losses and penalties of GANs, against their equations on a few numbers and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genkit.adversarial import (
    GAN_LOSSES,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    slope_penalty,
)

REAL = [2.0, -0.5, 0.25]
FAKE = [-1.5, 0.75, 3.0]


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


# For a pair: what the discriminator minimises and what the generator does.
PAIRS = {
    "non-saturating": (
        lambda r, f: -log_sigmoid(r) - math.log(1 - 1 / (1 + math.exp(-f))),
        lambda r, f: -log_sigmoid(f),
    ),
    "minimax": (
        lambda r, f: -log_sigmoid(r) - math.log(1 - 1 / (1 + math.exp(-f))),
        lambda r, f: math.log(1 - 1 / (1 + math.exp(-f))),
    ),
    "least-squares": (
        lambda r, f: 0.5 * (r - 1) ** 2 + 0.5 * f**2,
        lambda r, f: 0.5 * (f - 1) ** 2,
    ),
    "hinge": (lambda r, f: max(0, 1 - r) + max(0, 1 + f), lambda r, f: -f),
    "wasserstein": (lambda r, f: f - r, lambda r, f: -f),
    "relativistic": (lambda r, f: -log_sigmoid(r - f), lambda r, f: -log_sigmoid(f - r)),
}


@pytest.mark.parametrize("kind", GAN_LOSSES)
def test_losses_are_means_of_their_equations(kind: str) -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    pairs = list(zip(REAL, FAKE, strict=True))
    for loss, equation in zip(
        (discriminator_loss(kind, real, fake), generator_loss(kind, fake, real)),
        PAIRS[kind],
        strict=True,
    ):
        assert loss.item() == pytest.approx(sum(equation(r, f) for r, f in pairs) / 3, rel=1e-6)


@pytest.mark.parametrize("kind", GAN_LOSSES)
def test_players_pull_scores_apart_and_huge_ones_stay_finite(kind: str) -> None:
    real, fake = (torch.full((2,), value, requires_grad=True) for value in (0.3, 0.2))
    discriminator_loss(kind, real, fake).backward()
    assert (real.grad < 0).all() and (fake.grad > 0).all()
    fake.grad = None
    generator_loss(kind, fake, real.detach()).backward()
    assert (fake.grad < 0).all()
    for value in (-1e4, 1e4):
        huge = torch.full((2,), value)
        assert discriminator_loss(kind, huge, -huge).isfinite()
        assert generator_loss(kind, huge, -huge).isfinite()


def test_smoothing_moves_the_target_of_real_images() -> None:
    """Cross entropy with the target 0.9."""
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(real, torch.full((3,), 0.9))
    expected = expected + torch.nn.functional.softplus(fake).mean()
    torch.testing.assert_close(discriminator_loss("non-saturating", real, fake, 0.1), expected)


def test_the_relativistic_loss_needs_real_images() -> None:
    with pytest.raises(ValueError, match="give both"):
        generator_loss("relativistic", torch.zeros(3))


def quadratic(images: Tensor) -> Tensor:
    """D(x) = a |x|^2 / 2, whose slope is a x."""
    return 1.5 * images.flatten(1).square().sum(1) / 2


def test_the_slope_of_a_quadratic_is_penalised_as_in_closed_form() -> None:
    torch.manual_seed(0)
    images = torch.randn(5, 2, 3, 4)
    penalty = slope_penalty(quadratic, images)
    expected = (1.5 * images).flatten(1).square().sum(1).mean()
    torch.testing.assert_close(penalty, expected)


def test_penalties_reach_the_weights_and_not_the_images() -> None:
    """Of a linear D both are functions of its weights alone."""
    weights = torch.randn(24, requires_grad=True)
    real, fake = torch.randn(5, 2, 3, 4, requires_grad=True), torch.randn(5, 2, 3, 4)

    def judge(images: Tensor) -> Tensor:
        return images.flatten(1) @ weights

    slope_penalty(judge, real).backward()
    torch.testing.assert_close(weights.grad, 2 * weights.detach())
    weights.grad = None
    penalty = gradient_penalty(judge, real, fake)
    length = weights.detach().norm()
    torch.testing.assert_close(penalty.detach(), (length - 1).square())
    penalty.backward()
    torch.testing.assert_close(weights.grad, 2 * (length - 1) * weights.detach() / length)
    assert real.grad is None


def test_the_gradient_penalty_looks_between_real_images_and_samples() -> None:
    """Of the quadratic D between 0 and x the slope is t |x| with t uniform: E (t a |x| - 1)^2."""
    torch.manual_seed(0)
    real = torch.zeros(20_000, 1, 1, 1)
    fake = torch.full_like(real, 2.0)
    found = gradient_penalty(quadratic, real, fake).item()
    slope = 1.5 * 2.0  # at t = 1
    assert found == pytest.approx(slope**2 / 3 - slope + 1, rel=0.03)
