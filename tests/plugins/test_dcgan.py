"""DCGAN: its layers, its losses and the shapes it takes."""

import itertools
import math

import pytest
import torch
from torch import nn
from toys import SHAPE, TINY, bright_squares, make_loop, snapshot

from genkit.compute.device import place
from genkit.errors import UsageError
from genkit.model import Batch
from genkit.sampling import draw as sampling
from genkit.specs import ImageShape
from genkit_dcgan import DCGANConfig
from genkit_dcgan.model import DCGAN

MNIST = ImageShape(1, 28, 28)


@pytest.fixture(scope="module")
def full():
    """The model at its defaults."""
    torch.manual_seed(0)
    return DCGAN(DCGANConfig(), MNIST)


def make(shape=SHAPE, seed=0, **values):
    torch.manual_seed(seed)
    return DCGAN(DCGANConfig(**{**TINY["dcgan"], **values}), ImageShape(*shape))


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_networks_for_digits_have_2305472_and_212865_parameters(full):
    assert count(full.generator) == 2_305_472
    assert count(full.discriminator) == 212_865


def test_generator_for_digits_has_the_layers_of_its_specification(full):
    linear, *rest = full.generator.project
    assert (linear.in_features, linear.out_features) == (100, 7 * 7 * 256)
    assert linear.bias is None
    assert isinstance(rest[0], nn.BatchNorm1d) and rest[1].negative_slope == 0.3
    layers = list(full.generator.layers)
    kinds = [nn.ConvTranspose2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert [type(layer) for layer in layers] == [*kinds, *kinds, nn.ConvTranspose2d]
    convolutions = [layer for layer in layers if isinstance(layer, nn.ConvTranspose2d)]
    sizes = [(c.in_channels, c.out_channels, c.stride[0]) for c in convolutions]
    assert sizes == [(256, 128, 1), (128, 64, 2), (64, 1, 2)]
    assert all(c.kernel_size == (5, 5) and c.bias is None for c in convolutions)
    assert {a.negative_slope for a in layers if isinstance(a, nn.LeakyReLU)} == {0.3}


def test_feature_maps_of_the_generator_are_7_7_14_and_28_wide(full):
    sizes = []
    for layer in full.generator.layers:
        if isinstance(layer, nn.ConvTranspose2d):
            layer.register_forward_hook(lambda m, i, out: sizes.append(tuple(out.shape[1:])))
    full.eval().sample(2, generator=torch.Generator())
    assert sizes == [(128, 7, 7), (64, 14, 14), (1, 28, 28)]


def test_discriminator_for_digits_has_the_layers_of_its_specification(full):
    layers = list(full.discriminator.layers)
    kinds = [nn.Conv2d, nn.LeakyReLU, nn.Dropout]
    assert [type(layer) for layer in layers] == kinds * 2
    sizes = [(c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in layers[::3]]
    assert sizes == [(1, 64, (5, 5), (2, 2)), (64, 128, (5, 5), (2, 2))]
    assert [a.negative_slope for a in layers[1::3]] == [0.3, 0.3]
    assert [d.p for d in layers[2::3]] == [0.3, 0.3]
    assert isinstance(full.discriminator.judge, nn.Linear)
    assert (full.discriminator.judge.in_features, full.discriminator.judge.out_features) == (
        6272,
        1,
    )


def test_weights_start_uniform_after_glorot_and_biases_at_zero(full):
    """Between plus and minus the root of 6 / (inputs + outputs), of the kernel's 25 places each."""
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    layers = [module for module in full.modules() if isinstance(module, kinds)]
    assert len(layers) == 4 + 3
    for layer in layers:
        weight = layer.weight
        bound = math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()))
        assert 0.98 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert layer.bias is None or (layer.bias == 0).all()


@pytest.mark.parametrize("loss", ["non-saturating", "minimax"])
def test_losses_equal_their_closed_forms(loss):
    """Against log D and log(1 - D) themselves, with a discriminator of known answers."""
    model = make(loss=loss)
    real, fake = torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([-1.0, 0.0, 4.0])
    answers = {3: fake, 6: torch.cat([real, fake])}
    model.discriminator.forward = lambda images: answers[len(images)]
    batch = Batch(torch.zeros(3, *SHAPE))
    generator, _ = model.generator_loss(batch)
    discriminator, extras = model.discriminator_loss(batch)
    on_real, on_fake = real.double().sigmoid(), fake.double().sigmoid()
    minimax = (1 - on_fake).log().mean()
    expected = minimax if loss == "minimax" else -on_fake.log().mean()
    torch.testing.assert_close(generator.double(), expected, rtol=1e-5, atol=1e-6)
    expected = -on_real.log().mean() - minimax
    torch.testing.assert_close(discriminator.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(extras["real"].double(), on_real.mean(), rtol=1e-5, atol=0)
    torch.testing.assert_close(extras["fake"].double(), on_fake.mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("loss", ["non-saturating", "minimax"])
def test_losses_push_logits_the_right_way_and_stay_finite(loss):
    model = make(loss=loss)
    logits = torch.tensor([-200.0, -1.0, 0.0, 1.0, 200.0], requires_grad=True)
    batch = Batch(torch.zeros(5, *SHAPE), shared={"fake": torch.zeros(5, *SHAPE)})
    model.discriminator.forward = lambda images: logits
    (gradient,) = torch.autograd.grad(model.generator_loss(batch)[0], logits)
    assert (gradient <= 0).all() and (gradient[1:4] < 0).all()  # up, towards "real"
    saturated = gradient[0] == 0
    assert saturated == (loss == "minimax")  # a sure discriminator teaches it nothing

    model.discriminator.forward = lambda images: torch.cat([logits, logits])
    real = torch.zeros(5, requires_grad=True)
    model.discriminator.forward = lambda images: torch.cat([real, logits])
    on_real, on_fake = torch.autograd.grad(model.discriminator_loss(batch)[0], (real, logits))
    assert (on_real < 0).all() and (on_fake >= 0).all() and (on_fake[1:] > 0).all()


def test_both_players_are_shown_the_same_fakes_which_carry_no_gradient():
    model = make()
    shown = []
    forward = model.discriminator.forward
    model.discriminator.forward = lambda images: shown.append(images) or forward(images)
    batch = Batch(torch.rand(6, *SHAPE))
    model.generator_loss(batch)
    model.discriminator_loss(batch)
    assert shown[0].requires_grad and not shown[1].requires_grad
    assert torch.equal(shown[1], torch.cat([batch.images, shown[0]]))


SHAPES = [
    (channels, *size)
    for channels, size in itertools.product(
        (1, 3), [(28, 28), (29, 29), (32, 32), (33, 47), (48, 48), (64, 64), (8, 128)]
    )
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_images_of_many_shapes_are_made_and_judged(shape):
    model = make(shape)
    images = model.sample(3, generator=torch.Generator().manual_seed(0))
    assert images.shape == (3, *shape) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1
    assert model.discriminator(images).shape == (3,)
    loss = model.generator_loss(Batch(images.detach()))[0]
    assert loss.isfinite()
    assert model.reconstruct(images) is None and model.log_likelihood(images) is None


@pytest.mark.parametrize("size", [(7, 28), (28, 7), (129, 28), (256, 256), (1, 1)])
def test_images_too_small_or_too_large_are_refused(size):
    with pytest.raises(UsageError, match=rf"8 to 128 pixels a side, not 1 x {size[0]} x {size[1]}"):
        make((1, *size))


def test_samples_follow_from_the_generator_alone():
    model = make().eval()
    drawn = [model.sample(4, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_bfloat16_training_stays_finite():
    model = place(make(), torch.device("cpu"))
    loop = make_loop(model, precision="bf16")
    for _ in range(5):
        loop.iterate()
    loop.check_weights()


def test_training_draws_samples_closer_to_easily_learned_images():
    """Bright squares: black or white in four quadrants, and one quadrant white."""
    rate = {"generator_rate": 5e-3, "discriminator_rate": 2e-3}
    model = place(make(generator_width=8, discriminator_width=8, **rate), torch.device("cpu"))
    images = bright_squares(64)
    wanted = torch.from_numpy(images).unique(dim=0).flatten(1).float()  # (4, 64)

    def distance():
        samples = sampling.draw(model, 64, seed=0).flatten(1).float()
        return torch.cdist(samples, wanted).min(1).values.mean().item() / 8  # grey levels

    before = distance()
    loop = make_loop(model, images, batch_size=16)
    for _ in range(300):
        loop.iterate()
    assert before > 100
    assert distance() < before / 2


def test_statistics_of_batchnorm_are_in_the_weights_to_save(full):
    names = snapshot(full)
    assert "generator.project.1.running_mean" in names
    assert not any("running" in name for name in names if name.startswith("discriminator"))
