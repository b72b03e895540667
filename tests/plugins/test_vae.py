"""The VAE: its terms against torch.distributions and numerical integrals, and its shapes."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence
from toys import SHAPE, TINY, bright_squares, make_loop

from genkit.compute.device import place
from genkit.errors import UsageError
from genkit.model import Batch, to_unit_range
from genkit.specs import ImageShape
from genkit_vae import VAEConfig
from genkit_vae.model import VAE, discretised_logistic

LEVELS = to_unit_range(torch.arange(256, dtype=torch.uint8))


def make(shape=SHAPE, seed=0, **values):
    torch.manual_seed(seed)
    return VAE(VAEConfig(**{**TINY["vae"], **values}), ImageShape(*shape))


def test_divergence_equals_that_of_torch_distributions():
    model = make()
    images = torch.rand(5, *SHAPE) * 2 - 1
    mean, log_variance = 3 * torch.randn(5, 4), 2 * torch.randn(5, 4)
    model.encoder.forward = lambda images, labels=None: (mean, log_variance)
    _, divergence = model.elbo_terms(images)
    prior = Normal(torch.zeros(4), torch.ones(4))
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), prior).sum(1)
    torch.testing.assert_close(divergence, expected)


def test_noise_follows_the_posterior_of_each_image():
    model = make()
    mean, log_variance = torch.tensor([[-2.0, 5.0]]), torch.tensor([[0.0, -3.0]])
    model.encoder.forward = lambda images, labels=None: (
        mean.expand(9999, 2),
        log_variance.expand(9999, 2),
    )
    drawn = []
    model.decoder.forward = lambda z, labels=None: drawn.append(z) or torch.zeros(9999, *SHAPE)
    model.elbo_terms(torch.zeros(9999, *SHAPE))
    torch.testing.assert_close(drawn[0].mean(0, keepdim=True), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(drawn[0].var(0).log()[None], log_variance, rtol=0, atol=0.1)


def test_bernoulli_term_equals_that_of_torch_distributions_and_is_finite():
    model = make(likelihood="bernoulli")
    images = torch.rand(3, *SHAPE) * 2 - 1
    logits = 5 * torch.randn(3, *SHAPE)
    pixels = Bernoulli(logits=logits, validate_args=False).log_prob((images + 1) / 2)
    found = model.pixel_log_likelihood(logits, images)
    torch.testing.assert_close(found, pixels.sum((1, 2, 3)))
    sure = torch.full((1, *SHAPE), 1e4)
    assert model.pixel_log_likelihood(sure, -torch.ones(1, *SHAPE)).item() == -1e4 * 64


def test_elbo_of_a_decoder_that_knows_nothing_is_minus_log_two_a_pixel():
    """With q(z|x) = p(z) and every pixel white with a probability of one half."""
    model = make()
    for layer in (model.encoder.moments, model.decoder.layers[-1]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    images = torch.rand(6, *SHAPE) * 2 - 1
    found = model.log_weights(images, 3)
    torch.testing.assert_close(found.nats, torch.full((3, 6), -64 * math.log(2)))
    assert (found.kind, found.of) == ("bound", "images binarised at random")
    loss, extras = model.loss(Batch(images))
    assert loss.item() == pytest.approx(math.log(2))
    assert extras["reconstruction_nats"].item() == pytest.approx(64 * math.log(2))
    assert extras["kl_nats"].item() == pytest.approx(0, abs=1e-6)


def test_loss_is_the_negative_elbo_a_dimension_with_beta_on_the_divergence():
    images = torch.rand(6, 3, 8, 8) * 2 - 1
    for beta in (0.0, 1.0, 4.0):
        model = make((3, 8, 8), beta=beta)
        torch.manual_seed(5)
        loss, extras = model.loss(Batch(images))
        expected = (extras["reconstruction_nats"] + beta * extras["kl_nats"]) / 192
        torch.testing.assert_close(loss, expected)


def test_log_weights_equal_those_of_torch_distributions():
    model = make((3, 8, 8))
    images = torch.rand(6, 3, 8, 8) * 2 - 1
    decoded = []
    decode = model.decoder.forward
    model.decoder.forward = lambda z, labels=None: decoded.append(z) or decode(z)
    found = model.log_weights(images, 5)
    z = decoded[0].view(5, 6, 4)
    mean, log_variance = model.encoder(images)
    ratio = Normal(0, 1).log_prob(z) - Normal(mean, (log_variance / 2).exp()).log_prob(z)
    for draw in range(5):
        pixels = model.pixel_log_likelihood(decode(z[draw]), images)
        torch.testing.assert_close(found.nats[draw], pixels + ratio[draw].sum(1))
    assert (found.kind, found.of) == ("bound", "images at 256 levels")
    assert not found.nats.requires_grad


def test_all_draws_of_a_grey_image_are_weighed_for_one_binarisation_of_it():
    model = make()
    images = torch.rand(400, *SHAPE) * 2 - 1
    seen, encoded = [], []
    encode = model.encoder.forward
    model.encoder.forward = lambda x, labels=None: encoded.append(x) or encode(x)
    model.pixel_log_likelihood = lambda output, x: seen.append(x) or torch.zeros(x.shape[:2])
    model.log_weights(images, 3), model.log_weights(images, 3)
    first, second = seen
    assert first.shape == (3, 400, *SHAPE) and torch.equal(
        first, first[:1].expand(3, -1, -1, -1, -1)
    )
    assert set(first.unique().tolist()) == {-1, 1} and not torch.equal(first, second)
    assert torch.equal(encoded[0], images)  # as it was trained
    for low in torch.arange(-1, 1, 0.25):  # 3,200 pixels each, of deviation 1 / sqrt(3,200)
        some = (images >= low) & (images < low + 0.25)
        assert abs((first[0] - images)[some].mean()) < 0.07
    black_and_white = images.sign()
    model.log_weights(black_and_white, 2)
    assert torch.equal(seen[2][1], black_and_white)


def test_log_weights_know_no_autocast():
    model = make()
    images = to_unit_range(torch.from_numpy(bright_squares(4)))
    torch.manual_seed(5)
    expected = model.log_weights(images, 2)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.log_weights(images, 2).nats, expected.nats)


# ---- the discretised logistic distribution

MEANS, LOG_SCALES = (-1.3, -1.0, -0.2, 0.0, 0.501, 1.0, 2.0), (-7.0, -5.0, -3.0, -1.0, 0.5, 3.0)


def density_integral(mean, scale, low, high):
    """Integral of the logistic density by the midpoint rule, after x = mean + scale * t."""
    low, high = max((low - mean) / scale, -60), min((high - mean) / scale, 60)
    if low >= high:
        return 0.0
    t = np.linspace(low, high, 4001)
    middle = (t[1:] + t[:-1]) / 2
    density = np.exp(-np.abs(middle)) / (1 + np.exp(-np.abs(middle))) ** 2
    return float((density * np.diff(t)).sum())


@pytest.mark.parametrize("mean, log_scale", list(itertools.product(MEANS, LOG_SCALES)))
def test_probabilities_of_the_256_levels_sum_to_one(mean, log_scale):
    found = discretised_logistic(LEVELS, torch.tensor(mean), torch.tensor(log_scale))
    assert found.isfinite().all() and (found <= 0).all()
    assert found.double().exp().sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "mean, log_scale", list(itertools.product((-1.0, -0.2, 0.501), (-4.0, -1.0, 2)))
)
def test_probabilities_equal_a_numerical_integral(mean, log_scale):
    found = discretised_logistic(LEVELS, torch.tensor(mean), torch.tensor(float(log_scale)))
    for level in (0, 1, 17, 100, 127, 128, 190, 254, 255):
        centre = level / 127.5 - 1
        low = -math.inf if level == 0 else centre - 1 / 255
        high = math.inf if level == 255 else centre + 1 / 255
        expected = density_integral(mean, math.exp(log_scale), low, high)
        if expected > 1e-25:
            assert math.exp(found[level]) == pytest.approx(expected, rel=2e-3)


def test_extreme_outputs_give_finite_values_and_gradients():
    means = torch.tensor([-1e4, -30.0, -1.0, 0.0, 1.0, 30.0, 1e4])
    scales = torch.tensor([-1e3, -20.0, -7.0, -2.0, 0.0, 5.0, 20.0, 60.0, 1e3])
    mean, scale, level = torch.meshgrid(means, scales, LEVELS[::15], indexing="ij")
    mean, scale = mean.clone().requires_grad_(), scale.clone().requires_grad_()
    found = discretised_logistic(level, mean, scale)
    assert found.isfinite().all()
    gradients = torch.autograd.grad(found.sum(), (mean, scale))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_gradient_of_the_logistic_term_points_at_the_image():
    mean = torch.full((256,), 0.2, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        discretised_logistic(LEVELS, mean, torch.tensor(-2.0)).sum(), mean
    )
    assert (gradient[LEVELS > 0.21] > 0).all() and (gradient[LEVELS < 0.19] < 0).all()


def test_a_scale_is_learned_for_each_colour():
    model = make((3, 8, 8))
    assert model.log_scale.shape == (3, 1, 1) and not model.bernoulli
    loss, _ = model.loss(Batch(torch.rand(4, 3, 8, 8) * 2 - 1))
    loss.backward()
    assert (model.log_scale.grad != 0).all()


@pytest.mark.parametrize(
    "channels, likelihood, bernoulli",
    [
        (1, "auto", True),
        (3, "auto", False),
        (1, "logistic", False),
        (3, "bernoulli", True),
    ],
)
def test_likelihood_fits_the_channels_unless_one_is_named(channels, likelihood, bernoulli):
    assert make((channels, 8, 8), likelihood=likelihood).bernoulli == bernoulli


# ---- shapes, schedule, training

SHAPES = [
    (channels, *size)
    for channels, size in itertools.product(
        (1, 3), [(28, 28), (29, 29), (32, 32), (33, 47), (48, 48), (64, 64), (8, 128), (128, 9)]
    )
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_images_of_many_shapes_are_made_and_reconstructed(shape):
    model = make(shape)
    images = model.sample(3, generator=torch.Generator().manual_seed(0))
    assert images.shape == (3, *shape) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1
    again = model.reconstruct(images)
    assert again.shape == images.shape and again.min() >= -1 and again.max() <= 1
    assert torch.equal(again, model.reconstruct(images))
    assert model.loss(Batch(images.detach()))[0].isfinite()
    assert model.log_weights(images.detach(), 2).nats.shape == (2, 3)


@pytest.mark.parametrize("size", [(7, 28), (28, 7), (129, 28), (256, 256), (1, 1)])
def test_images_too_small_or_too_large_are_refused(size):
    with pytest.raises(UsageError, match=rf"8 to 128 pixels a side, not 1 x {size[0]} x {size[1]}"):
        make((1, *size))


def test_rate_is_constant_and_then_falls_as_one_over_the_root():
    schedule = make(decay_after=100).schedule
    assert [schedule(step) for step in (0, 50, 100)] == [1, 1, 1]
    assert [schedule(step) for step in (400, 10_000)] == pytest.approx([0.5, 0.1])


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_lowers_the_loss_on_easily_learned_images(likelihood, precision):
    model = place(make(likelihood=likelihood, learning_rate=5e-3), torch.device("cpu"))
    loop = make_loop(model, bright_squares(64), batch_size=16, precision=precision)
    losses = torch.stack([loop.iterate()["elbo/loss"].float() for _ in range(300)])
    assert losses[-20:].mean() < losses[:5].mean() - math.log(2) / 2
    images = to_unit_range(torch.from_numpy(bright_squares(16, seed=1)))
    difference = (model.eval().reconstruct(images) - images).abs().mean()
    assert difference < 0.4  # of 0.75 for the mean of all images
