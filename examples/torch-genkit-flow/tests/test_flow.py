"""Rectified flow: its loss and its sampler against closed forms, and genkit's own promises."""

import pytest
import torch
from genkit_flow import FlowConfig
from genkit_flow.model import Flow
from genkit_flow.network import UNet

from genkit.errors import UsageError
from genkit.model import Batch
from genkit.specs import ImageShape
from genkit.testing import check_trainer

torch.set_num_threads(1)
TINY = {"width": 8, "blocks": 1, "steps": 2, "batch_size": 8}


def make(shape=(1, 8, 8), **values):
    torch.manual_seed(0)
    return Flow(FlowConfig(**{**TINY, **values}), ImageShape(*shape))


def towards(target):
    """The velocity of the flow whose data is the one image `target`, an exact solution."""
    return lambda x, time: (target - x) / (1 - time[:, None, None, None]).clamp(min=1e-3)


def test_promises_are_kept():
    check_trainer("flow", options=TINY, shapes=((1, 28, 28), (3, 16, 20)))


def test_loss_is_zero_for_the_velocity_of_a_single_image_and_one_more_for_one_off():
    model, target = make(), torch.rand(1, 1, 8, 8) - 0.5
    batch = Batch(target.expand(32, -1, -1, -1))
    model.velocity = towards(target)
    assert model.loss(batch)[0].item() == pytest.approx(0, abs=1e-4)
    model.velocity = lambda x, time: towards(target)(x, time) + 1
    assert model.loss(batch)[0].item() == pytest.approx(1, abs=0.02)


def test_sampling_along_the_velocity_of_a_single_image_ends_there():
    target = torch.rand(1, 1, 8, 8) - 0.5
    for steps in (1, 7):
        model = make(steps=steps, solver="euler")
        model.velocity = towards(target)
        found = model.sample(4, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(found, target.expand(4, -1, -1, -1), rtol=0, atol=1e-4)


def test_error_of_heun_falls_with_the_square_of_the_steps_and_that_of_euler_with_the_steps():
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    exact = 0.2 * noise * torch.tensor(-1.0).exp()  # of dx/dt = -x, from a fifth of the noise

    def error(solver, steps):
        model = make(solver=solver, steps=steps)
        model.velocity = lambda x, time: -x
        found = model.sample(4, generator=torch.Generator().manual_seed(0)) * 0.2
        inside = (noise.abs() < 2) & (found.abs() < 0.2)  # where the end was not clamped
        return (found - exact)[inside].abs().max().item()

    assert error("euler", 10) / error("euler", 20) == pytest.approx(2, rel=0.1)
    assert error("heun", 10) / error("heun", 20) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 30), (1, 28, 28), (3, 63, 17), (3, 64, 64)])
@pytest.mark.parametrize("patch", [1, 2, 3])
def test_samples_have_the_shape_and_range_of_images(shape, patch):
    images = make(shape, patch=patch).sample(2, generator=torch.Generator().manual_seed(0))
    assert images.shape == (2, *shape) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1


@pytest.mark.parametrize("side", [7, 65])
def test_images_too_small_or_too_large_are_refused(side):
    with pytest.raises(UsageError, match=f"8 to 64 pixels a side, not 1 x {side} x 32"):
        make((1, side, 32))


def test_every_weight_of_the_network_is_used():
    network = UNet(channels=1, levels=3, width=8, blocks=2, patch=1)
    for parameter in network.parameters():  # the last convolutions start at zero
        torch.nn.init.normal_(parameter, std=0.1)
    network(torch.randn(2, 1, 12, 12), torch.rand(2)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_untrained_model_has_the_best_linear_velocity():
    """That is cov(v, x_t) / var(x_t) times x_t, for data of variance 1."""
    model = make()
    noise, data = torch.randn(2, 50_000)
    for time in (0.1, 0.5, 0.8):
        mixed, velocity = time * data + (1 - time) * noise, data - noise
        slope = (mixed * velocity).mean() / mixed.square().mean()
        image = torch.rand(1, 1, 8, 8)
        found = model.velocity(image, torch.tensor([time]))
        torch.testing.assert_close(found, slope * image, rtol=0, atol=0.03)
