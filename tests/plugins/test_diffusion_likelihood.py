"""The likelihood of flow and diffusion, and their completions, against closed forms."""

import math

import pytest
import torch
from toys import TINY

from genkit.specs import ImageShape
from genkit_diffusion import DiffusionConfig, DiffusionSampler, FlowConfig, PathSampler, base
from genkit_diffusion.diffusion import Diffusion
from genkit_diffusion.flow import Flow
from genkit_diffusion.likelihood import log_density

torch.set_num_threads(1)
KINDS = {
    "flow": (Flow, FlowConfig, PathSampler),
    "diffusion": (Diffusion, DiffusionConfig, DiffusionSampler),
}


def make(kind, shape=(1, 8, 8), mean=0.1, deviation=0.3, **sampler):
    torch.manual_seed(0)
    model, config, sampler_config = KINDS[kind]
    made = model(config(**TINY[kind]), ImageShape(*shape, mean=mean, deviation=deviation)).eval()
    made.sampler = sampler_config(**sampler)
    return made


def mixture(means, deviation):
    """The exact velocity and the log-density where data are a mixture of normal distributions of
    equal shares: means, (K, D)."""

    def velocity(x, t):
        variance = t**2 * deviation**2 + (1 - t) ** 2
        away = x[:, None] - t * means  # (N, K, D)
        shares = (-0.5 * away.square().sum(2) / variance).softmax(1)[:, :, None]
        each = means + (t * deviation**2 - (1 - t)) / variance * away
        return (shares * each).sum(1)

    def log_prob(x):
        each = torch.distributions.Normal(means, deviation).log_prob(x[:, None]).sum(2)
        return each.logsumexp(1) - math.log(len(means))

    return velocity, log_prob


@pytest.mark.parametrize("size", [2, 40])  # 2 without Hutchinson's estimate
def test_density_of_a_mixture_is_within_half_a_percent(size):
    torch.manual_seed(0)
    means = torch.randn(3, size)
    velocity, log_prob = mixture(means, 0.4)
    points = means[torch.arange(300) % 3] + 0.4 * torch.randn(300, size)
    found, expected = log_density(velocity, points), log_prob(points)
    assert found.mean().item() == pytest.approx(expected.mean().item(), rel=0.005)
    if size == 2:  # of every point, and not of the mean alone
        torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_of_an_untrained_model_is_that_of_a_gaussian(kind):
    model = make(kind)
    images = (0.1 + 0.3 * torch.randn(200, 1, 8, 8)).clamp(-1, 1)
    found = model.log_likelihood(images)
    normal = torch.distributions.Normal(0.1, 0.3).log_prob(images).flatten(1).sum(1)
    expected = normal.mean().item() + 64 * math.log(2 / 255)
    assert found.nats.mean().item() == pytest.approx(expected, rel=0.005)
    assert (found.kind, found.of) == ("bound", "images at 256 levels")


def test_probabilities_of_all_images_of_one_pixel_sum_to_one(monkeypatch):
    monkeypatch.setattr(base, "SMALLEST", 1)
    model = make("flow", (1, 1, 1))
    for module in model.modules():  # a density that is no Gaussian
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.1)
    every = torch.linspace(-1, 1, 256).view(-1, 1, 1, 1)
    torch.manual_seed(1)
    totals = [model.log_likelihood(every).nats.exp().sum().item() for _ in range(4)]
    assert sum(totals) / 4 == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_completions_keep_what_is_known_and_ignore_the_rest(kind):
    model = make(kind, steps=4)
    images = torch.rand(32, 1, 8, 8) * 2 - 1
    known = torch.zeros(32, 1, 8, 8, dtype=torch.bool)
    known[:, :, :4] = True
    with torch.no_grad():
        found, again = (
            model.complete(each, known, generator=torch.Generator().manual_seed(0))
            for each in (images, torch.where(known, images, torch.rand_like(images)))
        )
    assert torch.equal(found, again)
    assert torch.equal(found[:, :, :4], images[:, :, :4])
    hidden = found[:, :, 4:]  # independent of the others in an untrained model
    assert hidden.mean().item() == pytest.approx(0.1, abs=0.03)
    assert hidden.std().item() == pytest.approx(0.3, abs=0.04)
