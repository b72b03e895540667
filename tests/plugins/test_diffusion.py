"""Flow: its loss and its samples against closed forms, guidance, and the network."""

from itertools import permutations

import pytest
import torch
from toys import TINY

from genkit.errors import UsageError
from genkit.model import Batch
from genkit.specs import ImageShape
from genkit_diffusion import FlowConfig, PathSampler
from genkit_diffusion.flow import Flow, couple
from genkit_diffusion.network import UNet
from genkit_diffusion.solvers import solve

torch.set_num_threads(1)


def make(shape=(1, 8, 8), classes=0, mean=0.0, deviation=1.0, sampler=None, **values):
    torch.manual_seed(0)
    facts = ImageShape(*shape, classes, mean=mean, deviation=deviation)
    model = Flow(FlowConfig(**{**TINY["flow"], **values}), facts).eval()
    model.sampler = PathSampler(**(sampler or {}))
    return model


def generator():
    return torch.Generator().manual_seed(0)


def fill(network):
    """Random weights where a network starts at zero."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.1)


def towards(target):
    """The velocity of the flow whose data is the one image `target`, an exact solution."""
    return lambda x, time, labels=None, facts=None: (
        (target - x) / (1 - time[:, None, None, None]).clamp(min=1e-3)
    )


def gaussian_flow(mean, deviation):
    """The exact velocity where data are normal, and where it carries x at t = 0 to by a time: on
    the path sin(t) x_1 + cos(t) x_0. On straight lines the midpoint rule has order 3."""

    def variance(t):
        return (t.sin() * deviation) ** 2 + t.cos() ** 2

    def velocity(x, t):
        slope = (deviation**2 - 1) * t.sin() * t.cos() / variance(t)
        return mean * t.cos() + slope * (x - t.sin() * mean)

    return velocity, lambda x, t: t.sin() * mean + variance(t) ** 0.5 * x


def test_loss_is_zero_for_the_velocity_of_a_single_image_and_one_more_for_one_off():
    model, target = make(), torch.rand(1, 1, 8, 8) - 0.5
    batch = Batch(target.expand(32, -1, -1, -1))
    model.velocity = towards(target)
    assert model.loss(batch)[0].item() == pytest.approx(0, abs=1e-4)
    model.velocity = lambda x, time, labels, facts=None: towards(target)(x, time) + 1
    assert model.loss(batch)[0].item() == pytest.approx(1, abs=0.02)


def test_coupling_has_the_least_cost_of_all_orders():
    torch.manual_seed(1)
    images, noise = torch.randn(2, 5, 1, 2, 3)

    def cost(noise):
        return (images - noise).square().sum().item()

    found = couple(noise, images, None)
    assert {tuple(row.flatten().tolist()) for row in found} == {
        tuple(row.flatten().tolist()) for row in noise
    }
    assert cost(found) == min(cost(noise[list(order)]) for order in permutations(range(5)))


def test_coupling_keeps_the_noise_of_each_class():
    labels = torch.tensor([1, 0, 1, 0, 0])
    images, noise = torch.randn(2, 5, 1, 2, 3)
    found = couple(noise, images, labels)
    for label in (0, 1):
        ours, theirs = found[labels == label], noise[labels == label]
        assert torch.equal(ours.flatten(1).sum(1).sort()[0], theirs.flatten(1).sum(1).sort()[0])
        assert (images[labels == label] - ours).square().sum() <= (
            (images[labels == label] - theirs).square().sum()
        )


def test_a_coupled_flow_trains_with_and_without_labels():
    batch = Batch(torch.rand(6, 1, 8, 8) - 0.5, labels=torch.arange(6) % 3)
    for conditional in (False, True):
        model = make(classes=3, coupling="optimal-transport", conditional=conditional)
        model.loss(batch)[0].backward()
        assert all(p.grad is not None for p in model.network.tail.parameters())


def test_sampling_along_the_velocity_of_a_single_image_ends_there():
    target = torch.rand(1, 1, 8, 8) - 0.5
    for steps in (1, 7):
        model = make(sampler={"steps": steps, "solver": "euler"})
        model.velocity = towards(target)
        found = model.sample(4, generator=generator())
        torch.testing.assert_close(found, target.expand(4, -1, -1, -1), rtol=0, atol=1e-4)


def test_pictures_show_the_path_of_samples_and_the_clean_images_seen_on_it():
    target = torch.rand(1, 1, 8, 8) * 2 - 1
    for steps, columns in ((4, 5), (40, 12)):
        model = make(sampler={"steps": steps, "solver": "euler"})
        model.velocity = towards(target)
        path, seen = model.pictures(torch.zeros(2, 1, 8, 8)).values()
        assert path.shape == seen.shape == (8, columns, 1, 8, 8)
        noise = model.draw_noise(8, generator())
        assert torch.equal(path[:, 0], noise)
        torch.testing.assert_close(seen[:, :-1], target.expand(8, columns - 1, 1, 8, 8))
        torch.testing.assert_close(path[:, -1].clamp(-1, 1), model.decode_latents(noise))


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2), ("midpoint", 2)])
def test_error_of_a_solver_falls_with_its_order_on_the_flow_of_a_gaussian(solver, order):
    noise = torch.randn(100, dtype=torch.float64, generator=generator())
    velocity, at = gaussian_flow(0.4, 0.6)
    errors = []
    for steps in (64, 128):
        times = torch.linspace(0, 1.5, steps + 1, dtype=torch.float64)
        found = solve(velocity, noise, times, solver)
        errors.append((found - at(noise, times[-1])).square().mean().sqrt())
    assert (errors[0] / errors[1]).log2().item() == pytest.approx(order, rel=0.05)


def test_an_untrained_model_carries_noise_to_a_gaussian_of_the_datas_mean_and_deviation():
    model = make(mean=0.1, deviation=0.2, sampler={"steps": 100})
    noise = model.draw_latents(8, generator=generator())
    found = model.decode_latents(noise)
    torch.testing.assert_close(found, 0.1 + 0.2 * noise, rtol=0, atol=1e-3)


def test_a_solver_names_the_step_and_the_time_of_what_is_not_finite():
    field = lambda x, t: x / (t < 0.3)  # noqa: E731
    with pytest.raises(FloatingPointError, match=r"step 3 of 5, from time 0\.4 to 0\.6"):
        solve(field, torch.ones(2), torch.linspace(0, 1, 6), "euler")


def test_guidance_weighs_the_answers_with_and_without_a_label():
    model = make(classes=3, conditional=True)
    fill(model.network)
    x, time, labels = torch.randn(4, 1, 8, 8), torch.tensor(0.3), torch.tensor([0, 1, 2, 1])
    given = model.velocity(x, time.expand(4), labels)
    free = model.velocity(x, time.expand(4))
    assert not torch.allclose(given, free)
    for strength in (0.0, 0.5, 1.0, 3.0):
        model.sampler = PathSampler(guidance=strength)
        found = model.guided(labels)(x, time)
        torch.testing.assert_close(found, free + strength * (given - free), rtol=1e-4, atol=1e-4)


def test_the_share_of_hidden_labels_is_that_of_the_option():
    model = make(classes=3, conditional=True, label_dropout=0.25)
    labels = torch.arange(3).repeat(4000)
    found = model.hide_labels(labels)
    assert (found == 3).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(found[found != 3], labels[found != 3])
    assert make(classes=3).hide_labels(labels) is None


def test_guidance_without_labels_to_follow_is_refused():
    with pytest.raises(UsageError, match="guidance 2 needs a model trained with --conditional"):
        make(sampler={"guidance": 2}).sample(1, generator=generator())
    model = make(classes=3, conditional=True, label_dropout=0, sampler={"guidance": 2})
    with pytest.raises(UsageError, match="--label-dropout above 0"):
        model.sample(1, generator=generator())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 30), (4, 28, 28), (2, 128, 17)])
@pytest.mark.parametrize("patch", [1, 3])
def test_samples_have_the_shape_and_range_of_images(shape, patch):
    model = make(shape, patch=patch, sampler={"steps": 2})
    images = model.sample(2, generator=generator())
    assert images.shape == (2, *shape) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1


@pytest.mark.parametrize("side", [7, 129])
def test_images_too_small_or_too_large_are_refused(side):
    with pytest.raises(UsageError, match=f"8 to 128 pixels a side, not 1 x {side} x 32"):
        make((1, side, 32))


def test_every_weight_of_the_network_is_used():
    network = UNet(
        channels=1,
        size=(12, 12),
        widths=(8, 16, 16),
        blocks=2,
        patch=1,
        attention=2,
        times=2,
        classes=2,
    )
    fill(network)
    labels = torch.tensor([0, 1, 2])
    network(torch.randn(3, 1, 12, 12), torch.rand(3, 2), labels).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
