"""Diffusion and MeanFlow: their formulas against the papers' and against closed forms."""

import pytest
import torch
from toys import TINY

from genkit.model import Batch
from genkit.specs import ImageShape
from genkit_diffusion import DiffusionConfig, DiffusionSampler, MeanFlowConfig, MeanFlowSampler
from genkit_diffusion.diffusion import Diffusion
from genkit_diffusion.meanflow import MeanFlow
from genkit_diffusion.solvers import solve_data

torch.set_num_threads(1)


def make_diffusion(mean=0.0, deviation=0.5, sampler=None, **values):
    torch.manual_seed(0)
    shape = ImageShape(1, 8, 8, mean=mean, deviation=deviation)
    model = Diffusion(DiffusionConfig(**{**TINY["diffusion"], **values}), shape).eval()
    model.sampler = DiffusionSampler(**(sampler or {}))
    return model


def make_meanflow(mean=0.0, deviation=0.5, classes=0, sampler=None, **values):
    torch.manual_seed(0)
    shape = ImageShape(1, 8, 8, classes, mean=mean, deviation=deviation)
    model = MeanFlow(MeanFlowConfig(**{**TINY["meanflow"], **values}), shape).eval()
    model.sampler = MeanFlowSampler(**(sampler or {}))
    return model


def test_the_denoiser_is_preconditioned_as_in_table_1():
    """D(y; sigma) = c_skip y + c_out F(c_in y), for data of mean 0."""
    model, data = make_diffusion(), 0.5
    torch.nn.init.normal_(model.network.tail.weight)
    y = 3 * torch.randn(4, 1, 8, 8)
    for sigma in (0.01, 1.0, 30.0):
        time = torch.tensor(1 / (1 + sigma)).expand(4)
        t = time[0]
        denoised = t * y + (1 - t) * model.velocity(t * y, time)
        total = (sigma**2 + data**2) ** 0.5
        answer = model.network(y / total, time[:, None])
        expected = data**2 / total**2 * y + sigma * data / total * answer
        torch.testing.assert_close(denoised, expected, rtol=1e-4, atol=1e-4)


def test_sigmas_are_those_of_equation_5():
    found = make_diffusion(sampler={"steps": 18}).noises()
    assert len(found) == 19 and found[-1] == 0
    expected = [
        (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in (0, 5, 17)
    ]
    assert found[[0, 5, 17]].tolist() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("solver", ["heun", "dpm++"])
def test_samples_of_an_untrained_model_are_a_gaussian(solver):
    model = make_diffusion(0.1, 0.2, sampler={"steps": 100, "solver": solver})
    noise = model.draw_latents(8, generator=torch.Generator().manual_seed(0))
    found = model.decode_latents(noise)
    torch.testing.assert_close(found, 0.1 + 0.2 * noise, rtol=0, atol=5e-3)


def test_churn_draws_more_noise_and_keeps_the_distribution():
    model = make_diffusion(0.1, 0.2, sampler={"steps": 60, "churn": 20})
    assert model.draw_latents(2, generator=torch.Generator()) is None
    found = model.sample(64, generator=torch.Generator().manual_seed(0))
    model.sampler = DiffusionSampler(steps=60)
    other = model.sample(64, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(found, other, atol=0.1)
    assert found.mean().item() == pytest.approx(0.1, abs=0.02)
    assert found.std().item() == pytest.approx(0.2, abs=0.02)


def test_error_of_dpm_falls_with_the_square_of_the_steps():
    noise = torch.randn(100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def variance(t):
        return t**2 * 0.36 + (1 - t) ** 2

    def denoise(x, t):  # of data of mean 0.4 and deviation 0.6
        return 0.4 + t * 0.36 / variance(t) * (x - 0.4 * t)

    errors = []
    for steps in (64, 128):
        times = torch.linspace(0.1, 0.9, steps + 1, dtype=torch.float64)
        start = times[0] * 0.4 + variance(times[0]).sqrt() * noise
        found = solve_data(denoise, start, times, times, 1 - times)
        end = times[-1] * 0.4 + variance(times[-1]).sqrt() * noise
        errors.append((found - end).square().mean().sqrt())
    assert (errors[0] / errors[1]).log2().item() == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_an_untrained_meanflow_is_exact_for_a_gaussian_in_any_number_of_steps(steps):
    model = make_meanflow(0.1, 0.2, sampler={"steps": steps})
    noise = model.draw_latents(8, generator=torch.Generator().manual_seed(0))
    found = model.decode_latents(noise)
    torch.testing.assert_close(found, (0.1 + 0.2 * noise).clamp(-1, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_meanflows_loss_is_zero_for_the_average_velocity_of_a_single_image(share):
    model, target = make_meanflow(span_share=share, weight_power=0), torch.rand(1, 1, 8, 8) - 0.5
    batch = Batch(target.expand(16, -1, -1, -1))

    def straight(x, start, end, labels=None, facts=None):
        return (target - x) / (1 - start[:, None, None, None])

    model.average_velocity = straight
    assert model.loss(batch)[0].item() == pytest.approx(0, abs=1e-5)
    model.average_velocity = lambda x, start, end, labels=None, facts=None: (
        straight(x, start, end) + 1
    )
    assert model.loss(batch)[0].item() == pytest.approx(1, abs=1e-3)


def test_meanflows_target_follows_from_the_derivative_along_the_path():
    """For u(x, t, s) = x t the derivative along dx/dt = v is v t + x, so that the loss is
    known."""
    model = make_meanflow(span_share=1, weight_power=0)
    model.average_velocity = lambda x, start, end, labels=None, facts=None: (
        x * start[:, None, None, None]
    )
    images = torch.rand(4, 1, 8, 8)
    torch.manual_seed(3)
    found = model.loss(Batch(images))[0]
    torch.manual_seed(3)
    noise, normal = torch.randn_like(images), torch.randn(2, 4)
    times = (0.4 + normal).sigmoid()
    t, s = (each[:, None, None, None] for each in (times.amin(0), times.amax(0)))
    x, velocity = torch.lerp(noise, images, t), images - noise
    error = x * t - (velocity + (s - t) * (velocity * t + x))
    torch.testing.assert_close(found, error.square().mean())


def test_guidance_of_meanflow_pushes_labelled_velocities_alone():
    model = make_meanflow(classes=2, conditional=True, guidance=3)
    torch.nn.init.normal_(model.network.tail.weight)
    x, velocity = torch.randn(2, 3, 1, 8, 8)
    time, labels = torch.rand(3), torch.tensor([0, 2, 1])
    found = model.guide(velocity, x, time, labels)
    free = model.average_velocity(x, time, time, torch.full((3,), 2))
    assert torch.equal(found[1], velocity[1])
    torch.testing.assert_close(found[0], free[0] + 3 * (velocity[0] - free[0]))
