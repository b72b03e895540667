"""Augmentation of flow and diffusion: its maps against closed forms, and what it tells."""

import math

import pytest
import torch
from toys import TINY

from genkit.model import Batch
from genkit.specs import ImageShape
from genkit_diffusion import (
    DiffusionConfig,
    DiffusionSampler,
    FlowConfig,
    MeanFlowConfig,
    MeanFlowSampler,
    PathSampler,
)
from genkit_diffusion.augmentation import LABELS, augment, rotate, scale, transform, translate
from genkit_diffusion.diffusion import Diffusion
from genkit_diffusion.flow import Flow
from genkit_diffusion.meanflow import MeanFlow

torch.set_num_threads(1)


def one(value):
    return torch.tensor([float(value)])


def images(count=1, channels=1, height=8, width=8):
    random = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, height, width, generator=random) * 2 - 1


@pytest.mark.parametrize(
    "change, expected",
    [
        (scale(one(-1), one(1)), lambda x: x.flip(3)),
        (scale(one(1), one(-1)), lambda x: x.flip(2)),
        (rotate(one(math.pi / 2)), lambda x: x.rot90(-1, (2, 3))),  # clockwise
        (rotate(one(math.pi)), lambda x: x.flip((2, 3))),
    ],
    ids=["mirrored", "upturned", "quarter turn", "half turn"],
)
def test_maps_of_the_grid_onto_itself_move_pixels(change, expected):
    x = images(channels=3)
    torch.testing.assert_close(transform(x, change), expected(x), atol=1e-5, rtol=0)


def test_a_shift_by_whole_pixels_moves_them_and_reflects_what_is_outside():
    x = images(height=6, width=9)
    moved = transform(x, translate(one(2), one(-1)))
    torch.testing.assert_close(moved[:, :, :-1, 2:], x[:, :, 1:, :-2], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[:, :, :-1, :2], x[:, :, 1:, :2].flip(3), atol=1e-5, rtol=0)


def test_any_map_of_a_slope_is_the_slope_at_the_place_it_came_from():
    height, width = 24, 40
    down, right = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2,
        torch.arange(width) - (width - 1) / 2,
        indexing="ij",
    )
    slope = (0.02 * right - 0.03 * down)[None, None]
    change = translate(one(1.5), one(-2.25)) @ rotate(one(0.4)) @ scale(one(1.2), one(0.9))
    places = torch.stack([right, down, torch.ones_like(down)]).flatten(1)  # (3, H * W)
    came_from = torch.linalg.inv(change[0]) @ places
    expected = (0.02 * came_from[0] - 0.03 * came_from[1]).view(height, width)
    inside = (came_from[0].abs() < width / 2 - 1) & (came_from[1].abs() < height / 2 - 1)
    inside = inside.view(height, width)
    assert inside.sum() > 400
    found = transform(slope, change)[0, 0]
    torch.testing.assert_close(found[inside], expected[inside], atol=1e-5, rtol=0)


def test_images_that_nothing_was_done_to_are_the_same_bits_and_say_so():
    x = images(64)
    torch.manual_seed(0)
    unchanged, told = augment(x, 0.0)
    assert torch.equal(unchanged, x) and told.shape == (64, LABELS) and not told.any()
    changed, told = augment(x, 0.1)
    alike = (changed == x).flatten(1).all(1)
    assert torch.equal(alike, (told == 0).all(1)) and 10 < alike.sum() < 60


def test_what_is_told_is_what_was_done():
    x = images(4000, height=4, width=4)
    torch.manual_seed(0)
    changed, told = augment(x, 0.2)
    mirrored = (told[:, 0] == 1) & ~told[:, 1:].any(1)
    assert mirrored.sum() > 50
    torch.testing.assert_close(changed[mirrored], x[mirrored].flip(3), atol=1e-5, rtol=0)
    turned = told[:, 3:5].any(1) & ~told[:, :3].any(1) & ~told[:, 5:].any(1)
    angle = torch.atan2(told[turned, 4], told[turned, 3] + 1)
    assert turned.sum() > 100
    torch.testing.assert_close(changed[turned], transform(x[turned], rotate(angle)))


def test_each_change_is_made_to_its_share_of_the_images():
    torch.manual_seed(0)
    _, told = augment(images(20_000, height=2, width=2), 0.3)
    shares = (told != 0).float().mean(0)
    expected = torch.tensor([0.15, 0.15] + [0.3] * (LABELS - 2))  # of mirrored ones half are
    torch.testing.assert_close(shares, expected, atol=4 * (0.25 / 20_000) ** 0.5, rtol=0)
    longer = told[:, 5:7].norm(dim=1)
    assert math.isclose(longer[longer > 0].square().mean(), 1, abs_tol=0.06)


MODELS = {
    "flow": (Flow, FlowConfig, PathSampler),
    "diffusion": (Diffusion, DiffusionConfig, DiffusionSampler),
    "meanflow": (MeanFlow, MeanFlowConfig, MeanFlowSampler),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_network_is_told_in_training_and_asked_for_plain_images_in_samples(name):
    make, config, sampler = MODELS[name]
    torch.manual_seed(0)
    model = make(config(**{**TINY[name], "augment": 0.5}), ImageShape(1, 8, 8))
    told = model.network.embedding.facts.weight
    (phase,) = model.phases()
    for _ in range(4):  # zeros of two layers in turn wake up first
        loss, _ = phase.loss(Batch(images(8)))
        phase.optimizer.zero_grad()
        loss.backward()
        phase.optimizer.step()
    assert told.grad.abs().sum(0).min() > 0
    model.sampler = sampler(steps=2)
    drawn = model.sample(2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        told.add_(1)
    assert torch.equal(drawn, model.sample(2, generator=torch.Generator().manual_seed(0)))


@pytest.mark.thorough
def test_samples_of_a_flow_that_saw_changed_images_are_not_changed():
    x = images(1, height=8, width=8).sign() * 0.9
    torch.manual_seed(0)
    model = Flow(FlowConfig(**{**TINY["flow"], "augment": 0.3}), ImageShape(1, 8, 8))
    model.sampler = PathSampler()
    (phase,) = model.phases()
    for step in range(1500):
        for group in phase.optimizer.param_groups:
            group["lr"] = 2e-3
        loss, _ = phase.loss(Batch(x.expand(32, -1, -1, -1), step=step))
        phase.optimizer.zero_grad()
        loss.backward()
        phase.optimizer.step()
    with torch.no_grad():
        drawn = model.eval().sample(64, generator=torch.Generator().manual_seed(0))
    changes = [x, x.flip(3), x.flip(2), x.flip((2, 3)), x.rot90(1, (2, 3)), x.rot90(-1, (2, 3))]
    distances = torch.stack([(drawn - one).square().flatten(1).mean(1) for one in changes])
    assert (distances.argmin(0) == 0).float().mean() > 0.95
    assert distances[0].mean() < 0.2
