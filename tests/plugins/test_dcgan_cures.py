"""Other games for DCGAN, and what steadies them: penalties, spectral norms, augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toys import (
    SHAPE,
    TINY,
    bright_squares,
    make_loop,
    random_images,
    registry,
    same_bits,
    train_tiny,
    write_npz,
)

from genkit.adversarial import GAN_LOSSES, discriminator_loss, gradient_penalty, slope_penalty
from genkit.adversarial_options import AUGMENTATIONS as NAMES
from genkit.augment import AUGMENTATIONS
from genkit.config.resolve import resolve
from genkit.errors import UsageError
from genkit.model import Batch
from genkit.runs.checkpoint import load_state
from genkit.specs import ImageShape
from genkit.training.resume import resume
from genkit_dcgan import DCGANConfig
from genkit_dcgan.model import DCGAN


def make(**values: Any) -> DCGAN:
    torch.manual_seed(0)
    config = DCGANConfig(**{**TINY["dcgan"], "dropout": 0.0, **values})
    return DCGAN(config, ImageShape(*SHAPE))


def batch(count: int = 6) -> Batch:
    return Batch(torch.from_numpy(random_images(count)).float() / 127.5 - 1)


def test_names_of_the_options_are_those_of_the_library() -> None:
    assert tuple(AUGMENTATIONS) == NAMES
    assert DCGANConfig.model_fields["loss"].annotation.__args__ == GAN_LOSSES


@pytest.mark.parametrize("loss", GAN_LOSSES)
def test_each_game_is_played_by_its_own_loss(loss: str) -> None:
    model, given = make(loss=loss, gradient_penalty=0.0), batch()
    assert model.generator_loss(given)[0].isfinite()
    real = model.discriminator(given.images)
    fake = model.discriminator(given.shared["fake"])
    expected = discriminator_loss(loss, real, fake)
    torch.testing.assert_close(model.discriminator_loss(given)[0], expected)


def test_penalties_are_weighted_and_scaled_to_the_iterations_without_them() -> None:
    model, given = make(r1=3.0, r2=0.5, penalty_every=5), batch()
    model.generator_loss(given)
    found, logged = model.penalty(given)
    r1 = slope_penalty(model.discriminator, given.images)
    r2 = slope_penalty(model.discriminator, given.shared["fake"])
    torch.testing.assert_close(found, 5 * (1.5 * r1 + 0.25 * r2))
    assert logged.keys() == {"r1", "r2"}
    phases = model.phases()
    assert [phase.name for phase in phases] == ["generator", "discriminator", "penalty"]
    assert phases[2].every == 5 and phases[2].optimizer is phases[1].optimizer
    assert len(make().phases()) == 2


def test_the_wasserstein_game_is_penalised_between_real_images_and_fakes() -> None:
    model, given = make(loss="wasserstein", gradient_penalty=7.0), batch()
    model.generator_loss(given)
    torch.manual_seed(1)
    found = model.discriminator_loss(given)[0]
    torch.manual_seed(1)
    penalty = gradient_penalty(model.discriminator, given.images, given.shared["fake"])
    fake, real = (model.discriminator(x).mean() for x in (given.shared["fake"], given.images))
    torch.testing.assert_close(found, fake - real + 7 * penalty)


def test_spectral_norms_are_one() -> None:
    model = make(spectral_norm=True)
    loop = make_loop(model, bright_squares(40))
    for _ in range(30):
        loop.iterate()
    for layer in (*model.discriminator.layers[::3], model.discriminator.judge):
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        assert norm.item() == pytest.approx(1, abs=0.1)
    free = make().discriminator.judge.weight.detach()
    assert abs(torch.linalg.matrix_norm(free, ord=2).item() - 1) > 0.1


def test_further_updates_of_the_discriminator_have_fakes_of_their_own() -> None:
    model, given = make(discriminator_steps=3), batch()
    assert model.phases()[1].repeats == 3
    model.discriminator_loss(given)
    assert given.shared["fake"].shape == given.images.shape
    assert not given.shared["fake"].requires_grad


def test_both_kinds_of_images_are_augmented_before_they_are_judged() -> None:
    model, given = make(augment="cutout,translation"), batch(64)
    seen = []
    model.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert model.generator_loss(given)[0].requires_grad
    model.discriminator_loss(given)
    generated, both = seen
    holes = (generated == 0).all(1).flatten(1).any(1)
    assert holes.float().mean() > 0.9 and len(both) == 128
    assert not torch.equal(both[:64], given.images)


def test_the_share_augmented_rises_while_the_discriminator_is_surer_than_the_target() -> None:
    model = make(augment="flip", augment_target=0.6)
    assert model.augmented_share == 0
    model._adapt(torch.full((50,), 3.0))
    assert model.augmented_share.item() == pytest.approx(50 / 100_000)
    model._adapt(torch.full((200,), -3.0))
    assert model.augmented_share == 0
    for _ in range(2100):
        model._adapt(torch.full((50,), 3.0))
    assert model.augmented_share == 1


CURES = {
    "relativistic": {"loss": "relativistic", "r1": 1.0, "r2": 1.0, "penalty_every": 3},
    "wasserstein": {"loss": "wasserstein", "discriminator_steps": 2},
    "adaptive": {
        "loss": "hinge",
        "spectral_norm": True,
        "augment": "flip,colour,cutout",
        "augment_target": 0.01,
    },
}


@pytest.mark.parametrize("name", CURES)
def test_a_run_resumes_with_the_same_bits(name: str, tmp_path: Path) -> None:
    data = write_npz(tmp_path / "data.npz")
    straight = train_tiny("dcgan", data, tmp_path / "a", budget="7steps", **CURES[name])
    train_tiny("dcgan", data, tmp_path / "b", budget="4steps", **CURES[name])
    resumed = resume(tmp_path / "b", registry(), budget="7steps")
    states = [load_state(run.path / "checkpoints")[0]["loop"] for run in (straight, resumed)]
    assert same_bits(*states)
    if name == "adaptive":
        assert 0 <= states[0]["model"]["augmented_share"] <= 7 * 8 / 100_000


def test_an_augmentation_that_does_not_exist_is_refused_by_name() -> None:
    spec = registry().trainers.find("dcgan")
    with pytest.raises(UsageError, match="--augment: 'blur' is not one of flip, colour"):
        resolve(spec, given={"augment": "flip, blur"})


def test_a_discriminator_that_wins_is_met_by_cures_that_are_not_taken_yet() -> None:
    history = {"discriminator/real": [0.99] * 10, "discriminator/fake": [0.01] * 10}
    assert "try --r1 1, --spectral-norm, a smaller --disc" in make().trouble(history)
    assert "try --spectral-norm, a smaller" in make(r1=1.0).trouble(history)
    assert make(loss="wasserstein").trouble(history) is None


def test_samples_that_are_alike_are_met_by_what_is_not_in_use_yet() -> None:
    assert make().cures == ["--r1 1", "--loss relativistic with --r1 1 --r2 1"]
    assert make(r1=1.0, loss="relativistic").cures == []
