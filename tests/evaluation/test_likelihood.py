"""Likelihood on one scale: against closed forms, integrals over z and slow loops."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, kl_divergence
from toys import SHAPE, TINY, Constant, LinearVAE, bright_squares, make_loop, random_images

from genkit.errors import PluginError
from genkit.evaluation import likelihood
from genkit.evaluation.likelihood import measure_likelihood
from genkit.model import GenerativeModel, LogLikelihood, to_unit_range
from genkit.specs import ImageShape, TrainerConfig
from genkit_pixelcnn import PixelCNNConfig
from genkit_pixelcnn.model import PixelCNN
from genkit_vae import VAEConfig
from genkit_vae.model import VAE, discretised_logistic

torch.set_num_threads(1)

GREY = torch.from_numpy(random_images(12))
BLACK_AND_WHITE = torch.from_numpy(bright_squares(12))
SMALL = torch.from_numpy(random_images(30, (1, 2, 3)))  # for LinearVAE


def make_vae(images, iterations=0, **values):
    """A VAE trained for a while on uint8 images."""
    torch.manual_seed(0)
    options = {**TINY["vae"], "learning_rate": 5e-3, **values}
    model = VAE(VAEConfig(**options), ImageShape(*images.shape[1:]))
    loop = make_loop(model, images.numpy(), batch_size=16)
    for _ in range(iterations):
        loop.iterate()
    return model.eval()


def make_pixelcnn(levels, shape=SHAPE):
    torch.manual_seed(0)
    config = PixelCNNConfig(levels=levels, channels=4, layers=2)
    return PixelCNN(config, ImageShape(*shape)).eval()


class Ladder(GenerativeModel):
    """Log-weights without chance: the image's mean, plus 0, 1, ... for the draws."""

    def __init__(self):
        super().__init__(TrainerConfig(), ImageShape(*SHAPE))
        self.nothing = nn.Parameter(torch.zeros(()))
        self.modes = []

    def log_weights(self, images, draws):
        self.modes.append(self.training)
        nats = images.mean((1, 2, 3)) + torch.arange(float(draws))[:, None]
        return LogLikelihood(nats, "bound", "toys")


# ---- against the closed form of a linear model


@pytest.mark.parametrize("draws", [1, 3, 64])
def test_the_exact_posterior_gives_the_exact_likelihood_for_any_number_of_draws(draws):
    model = LinearVAE()
    found = measure_likelihood(model, SMALL, draws=draws)
    exact = model.marginal().log_prob(to_unit_range(SMALL).flatten(1)).detach()
    assert found.nats == pytest.approx(exact.mean().item(), abs=1e-4)
    assert found.elbo == pytest.approx(found.nats, abs=1e-4)
    assert found.deviation == pytest.approx(exact.std().item() / math.sqrt(30), rel=1e-4)


@pytest.mark.parametrize("shift, spread", [(0.0, 1.5), (0.15, 1.2), (-0.1, 0.9)])
def test_many_draws_reach_the_likelihood_and_the_elbo_stays_below_by_the_divergence(shift, spread):
    model = LinearVAE(shift=shift, spread=spread)
    x = to_unit_range(SMALL).flatten(1)
    exact = model.marginal().log_prob(x).mean().item()
    gap = kl_divergence(model.encoded(x), model.posterior(x)).mean().item()
    found = measure_likelihood(model, SMALL, draws=500)
    assert gap > 0.05
    assert found.nats == pytest.approx(exact, abs=0.05)
    assert found.elbo == pytest.approx(exact - gap, abs=0.05)


def test_the_bound_of_one_draw_is_the_elbo():
    found = measure_likelihood(LinearVAE(shift=0.3), SMALL, draws=1)
    assert found.nats == found.elbo


def test_the_bound_rises_with_the_draws():
    model = LinearVAE(shift=0.3, spread=1.5)
    bounds = [
        np.mean([measure_likelihood(model, SMALL, draws=k, seed=s).nats for s in range(20)])
        for k in (1, 2, 5, 20, 100)
    ]
    exact = model.marginal().log_prob(to_unit_range(SMALL).flatten(1)).mean().item()
    assert (np.diff(bounds) > 0).all() and bounds[0] < exact - 0.2
    assert bounds[-1] == pytest.approx(exact, abs=0.05)


# ---- the VAE against integrals over its latent


def integrate(model, images):
    """ln p(x) of images, (N,), by quadrature over a latent of one or two dimensions."""
    axis = torch.linspace(-6, 6, {1: 4001, 2: 301}[model.config.latent])
    z = torch.cartesian_prod(*[axis] * model.config.latent).view(-1, model.config.latent)
    cell = (axis[1] - axis[0]).double().log() * model.config.latent
    prior = -0.5 * (z.double() ** 2 + math.log(2 * math.pi)).sum(1)  # (M,)
    output = model.decoder(z)  # (M, C, H, W)
    found = []
    for image in to_unit_range(images):
        if model.bernoulli:
            pixels = Bernoulli(logits=output).log_prob((image + 1) / 2)
        else:
            pixels = discretised_logistic(image, output, model.log_scale)
        joint = pixels.double().flatten(1).sum(1) + prior
        found.append(joint.logsumexp(0) + cell)
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.parametrize(
    "latent, chosen, shape",
    [
        (1, "bernoulli", SHAPE),
        (2, "bernoulli", SHAPE),
        (1, "logistic", SHAPE),
        (1, "auto", (3, 8, 8)),
    ],
)
def test_bound_of_a_trained_vae_reaches_the_integral_over_its_latent(latent, chosen, shape):
    images = torch.from_numpy(bright_squares(64, shape))
    if chosen != "bernoulli":
        images = images // 2 + 60  # levels that the decoder need not saturate for
    with torch.enable_grad():
        model = make_vae(images, 60, latent=latent, likelihood=chosen)
    exact = integrate(model, images[:8])
    found = measure_likelihood(model, images[:8], draws=2000)
    assert found.nats == pytest.approx(exact.mean().item(), abs=0.05)
    assert found.elbo < found.nats - 0.05


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("images", [GREY, BLACK_AND_WHITE], ids=["grey", "black-and-white"])
def test_the_bound_is_never_below_the_elbo(images, seed):
    model = make_vae(images, 20)
    for draws in (1, 2, 50):
        found = measure_likelihood(model, images, draws=draws, seed=seed)
        assert found.nats >= found.elbo and found.draws == draws
    assert found.nats > found.elbo + 0.01


@pytest.mark.thorough
def test_with_one_draw_the_vae_expects_the_elbo_it_was_trained_on():
    """Grey images are binarised, training takes their brightness: equal in the mean."""
    model = make_vae(GREY, 20)
    with torch.no_grad():
        trained = np.mean(
            [
                (reconstruction - divergence).mean().item()
                for _ in range(300)
                for reconstruction, divergence in [model.elbo_terms(to_unit_range(GREY))]
            ]
        )
    found = measure_likelihood(model, GREY.repeat(300, 1, 1, 1), draws=1)
    assert found.nats == pytest.approx(trained, abs=4 * found.deviation + 0.05)
    assert found.deviation < 0.1


# ---- one scale


def test_models_say_alike_what_their_likelihood_is_of():
    grey, binary = GREY, BLACK_AND_WHITE
    colour = torch.from_numpy(random_images(4, (3, 8, 8)))
    bernoulli, logistic = make_vae(grey), make_vae(grey, likelihood="logistic")
    said = [
        (bernoulli, grey, "images binarised at random"),
        (bernoulli, binary, "black-and-white images"),
        (make_pixelcnn(2), binary, "black-and-white images"),
        (make_pixelcnn(256), binary, "black-and-white images"),
        (make_pixelcnn(2), grey, "images rounded to 2 levels"),
        (make_pixelcnn(256), grey, "images at 256 levels"),
        (logistic, grey, "images at 256 levels"),
        (make_vae(colour), colour, "images at 256 levels"),
        (make_pixelcnn(256, (3, 8, 8)), colour, "images at 256 levels"),
        (make_pixelcnn(2, (3, 8, 8)), colour // 255 * 255, "images rounded to 2 levels"),
    ]
    for model, images, expected in said:
        assert measure_likelihood(model, images, draws=2).of == expected


def test_a_model_of_exact_likelihood_needs_no_draws():
    model = Constant(nats=lambda images: images.sum((1, 2, 3)))
    images = torch.from_numpy(random_images(250))
    found = measure_likelihood(model, images)
    sums = images.double().numpy().sum((1, 2, 3)) / 127.5 - 64
    assert found.to_json() == {
        "nats": pytest.approx(sums.mean(), abs=1e-4),
        "deviation": pytest.approx(sums.std(ddof=1) / math.sqrt(250), rel=1e-5),
        "bits_per_dimension": pytest.approx(-sums.mean() / 64 / math.log(2), abs=1e-6),
        "kind": "exact",
        "of": "toys",
        "images": 250,
        "draws": None,
        "elbo": None,
        "levels": None,
        "own": None,
        "own_deviation": None,
    }


def test_a_likelihood_of_an_unknown_kind_is_refused():
    class Boasting(Constant):
        def log_likelihood(self, images):
            return replace(super().log_likelihood(images), kind="certain")

    model = Boasting(nats=lambda images: images.sum((1, 2, 3)))
    with pytest.raises(PluginError, match=r'Boasting\.log_likelihood\(\) must say kind="exact"'):
        measure_likelihood(model, GREY)


def test_a_model_without_a_likelihood_has_none():
    assert measure_likelihood(Constant(), GREY) is None


def test_a_single_image_has_no_deviation():
    assert measure_likelihood(make_pixelcnn(2), GREY[:1]).deviation is None


def test_texts_that_differ_between_batches_are_all_told():
    images = torch.cat([BLACK_AND_WHITE, GREY])
    found = measure_likelihood(make_vae(GREY), images, draws=2000)  # one image at a time
    assert found.of == "black-and-white images; images binarised at random"


# ---- batches, seeds, faults


@pytest.mark.parametrize("most", [(100, 2000), (1, 2000), (7, 2000), (100, 1)])
def test_batches_change_nothing_but_chance(most, monkeypatch):
    monkeypatch.setattr(likelihood, "MOST_IMAGES", most[0])
    monkeypatch.setattr(likelihood, "MOST_DECODED", most[1])
    images = torch.from_numpy(random_images(120))
    found = measure_likelihood(Ladder(), images, draws=5)
    means = images.double().numpy().mean((1, 2, 3)) / 127.5 - 1
    bounds = [np.log(np.mean([math.exp(mean + i) for i in range(5)])) for mean in means]
    assert found.nats == pytest.approx(np.mean(bounds), abs=1e-6)
    assert found.elbo == pytest.approx(np.mean(means) + 2, abs=1e-6)
    assert found.deviation == pytest.approx(np.std(bounds, ddof=1) / math.sqrt(120), rel=1e-5)


@pytest.mark.parametrize("draws, at_once", [(1, 100), (64, 31), (2000, 1), (2001, 1)])
def test_few_images_are_decoded_at_once_and_all_draws_of_an_image_are(draws, at_once):
    model, progress = LinearVAE(), []
    images = SMALL[:2].repeat(60, 1, 1, 1)
    measure_likelihood(
        model, images, draws=draws, on_progress=lambda *counts: progress.append(counts)
    )
    assert {asked for asked, _ in model.asked} == {draws}
    counts = [count for _, count in model.asked]
    assert sum(counts) == 120 and set(counts[:-1]) == {at_once}
    assert progress == [(int(done), 120) for done in np.cumsum(counts)]


@pytest.mark.parametrize("make", [lambda: make_vae(GREY), lambda: make_pixelcnn(2)])
def test_a_likelihood_follows_from_its_seed_and_leaves_no_trace(make):
    model = make().train()
    torch.manual_seed(3)
    first = measure_likelihood(model, GREY, draws=4)
    after = torch.rand(3)
    torch.manual_seed(4)
    assert measure_likelihood(model, GREY, draws=4) == first
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(3))
    assert model.training
    if isinstance(model, VAE):
        assert measure_likelihood(model, GREY, draws=4, seed=1).nats != first.nats


def test_models_are_measured_in_evaluation_mode():
    model = Ladder().train()
    measure_likelihood(model, GREY)
    assert model.modes and not any(model.modes)


def answer(nats):
    return lambda *arguments: LogLikelihood(nats, "bound", "toys")


@pytest.mark.parametrize("method, shape", [("log_likelihood", (12,)), ("log_weights", (3, 12))])
@pytest.mark.parametrize(
    "faulty, got",
    [
        (lambda shape: answer(torch.full(shape, math.nan)), "0 of them finite"),
        (lambda shape: answer(torch.full(shape, -math.inf)), "0 of them finite"),
        (lambda shape: answer(torch.zeros(*shape, 1)), r", 1\), \d+ of them finite"),
        (lambda shape: answer(torch.zeros(2, *shape)), r"\(2, .*of them finite"),
        (lambda shape: answer(3.0), "a LogLikelihood"),
        (lambda shape: lambda *arguments: torch.zeros(shape), "a Tensor"),
    ],
)
def test_a_wrong_answer_is_a_plugin_error_that_names_it(method, shape, faulty, got):
    model = Constant()
    setattr(model, method, faulty(shape))
    with pytest.raises(PluginError, match=rf"Constant\.{method}\(\) must return .*got .*{got}"):
        measure_likelihood(model, GREY, draws=3)
