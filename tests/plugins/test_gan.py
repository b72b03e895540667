"""The residual GAN: its networks, the shapes it takes, its projection, and its resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from toys import (
    SHAPE,
    TINY,
    bright_squares,
    make_loop,
    registry,
    same_bits,
    train_tiny,
    write_npz,
)

from genkit.compute.device import place
from genkit.errors import UsageError
from genkit.model import Batch
from genkit.runs.checkpoint import load_state
from genkit.sampling.draw import draw
from genkit.specs import ImageShape
from genkit.training.resume import resume
from genkit_gan import GANConfig
from genkit_gan.model import GAN
from genkit_gan.network import Block

SIZES = [(1, 8, 8), (2, 28, 28), (4, 32, 32), (3, 33, 47), (3, 64, 64), (1, 8, 128)]


def make(shape: tuple[int, ...] = SHAPE, classes: int = 0, **values: Any) -> Any:
    torch.manual_seed(0)
    config = GANConfig(**{**TINY["gan"], "conditional": classes > 0, **values})
    return GAN(config, ImageShape(*shape, classes))


def test_networks_for_digits_have_1012161_and_385857_parameters() -> None:
    """Against the sums over their layers: maps of 14 and 7 pixels with 64 and 128 channels."""

    def block(channels: int) -> int:
        return 2 * (9 * channels**2 + channels)

    torch.manual_seed(0)
    model = GAN(GANConfig(), ImageShape(1, 28, 28))
    linear, mix, norms, paint = 101 * 128 * 7 * 7, 128 * 64, 4 * 128 + 6 * 64, 9 * 64 + 1
    generator = linear + mix + norms + paint + block(128) + block(64)
    look, judge = (9 * 4 + 1) * 64, 128 * 7 * 7 + 1
    discriminator = look + mix + judge + block(64) + block(128)
    assert (generator, discriminator) == (1_012_161, 385_857)
    for network, expected in ((model.generator, generator), (model.discriminator, discriminator)):
        assert sum(weights.numel() for weights in network.parameters()) == expected


@pytest.mark.parametrize("shape", SIZES, ids=lambda s: "x".join(map(str, s)))
def test_images_of_many_shapes_are_made_and_judged(shape: tuple[int, ...]) -> None:
    model = make(shape)
    images = model.sample(3, generator=torch.Generator().manual_seed(0))
    assert images.shape == (3, *shape) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1
    assert model.discriminator(images).shape == (3,)
    batch = Batch(images.detach())
    for phase in model.phases():
        assert phase.loss(batch)[0].isfinite()


@pytest.mark.parametrize("size", [(7, 28), (28, 7), (129, 28), (256, 256)])
def test_images_too_small_or_too_large_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=rf"8 to 128 pixels a side, not 1 x {size[0]} x {size[1]}"):
        make((1, *size))


def test_blocks_begin_as_the_identity_and_then_add_two_convolutions() -> None:
    model = make()
    block, _ = (module for module in model.discriminator.modules() if isinstance(module, Block))
    maps = torch.randn(2, block.first.in_channels, 3, 4)
    assert torch.equal(block(maps), maps)
    torch.nn.init.normal_(block.second.weight)
    first, second = block.first, block.second

    def activate(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    expected = maps + F.conv2d(
        activate(F.conv2d(activate(maps), first.weight, first.bias, padding=1)),
        second.weight,
        second.bias,
        padding=1,
    )
    torch.testing.assert_close(block(maps), expected)


def test_signals_keep_their_size_through_both_networks_at_the_start() -> None:
    model = make((3, 64, 64), generator_width=16, discriminator_width=16, latent=64)
    sizes: list[float] = []
    for part in (model.generator.layers, model.discriminator.layers):
        part.register_forward_hook(lambda module, given, found: sizes.append(found.std().item()))
    images = model.generator(torch.randn(16, 64))
    model.discriminator(torch.randn(16, 3, 64, 64))
    assert 0.3 < images.std() < 0.9
    assert all(0.1 < size < 2 for size in sizes)


def test_the_discriminator_adds_the_inner_product_of_features_and_class() -> None:
    model = make(classes=3)
    table = model.discriminator.classes
    assert table is not None
    torch.nn.init.normal_(table.weight)
    images, labels = torch.randn(5, *SHAPE), torch.tensor([2, 0, 1, 1, 2])
    found = model.discriminator(images, labels)
    features: list[torch.Tensor] = []
    model.discriminator.judge.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    model.discriminator(images, labels)
    judge = model.discriminator.judge
    for row, label, logit in zip(features[0], labels.tolist(), found.tolist(), strict=True):
        expected = judge.bias.item()
        for place_, feature in enumerate(row.tolist()):
            expected += feature * (judge.weight[0, place_] + table.weight[label, place_]).item()
        assert logit == pytest.approx(expected, abs=1e-4)


def test_no_image_influences_the_verdict_on_another() -> None:
    model = make()
    images = torch.randn(4, *SHAPE)
    alone = torch.cat([model.discriminator(image[None]) for image in images])
    torch.testing.assert_close(model.discriminator(images), alone)


def test_training_draws_samples_closer_to_easily_learned_images() -> None:
    """Bright squares: black or white in four quadrants, and one quadrant white."""
    rates: dict[str, Any] = {"generator_rate": 2e-3, "discriminator_rate": 2e-3}
    model = place(make(generator_width=8, discriminator_width=8, **rates), torch.device("cpu"))
    images = bright_squares(64)
    wanted = torch.from_numpy(images).unique(dim=0).flatten(1).float()  # (4, 64)

    def distance() -> float:
        samples = draw(model, 64, seed=0).flatten(1).float()
        return torch.cdist(samples, wanted).min(1).values.mean().item() / 8  # grey levels

    before = distance()
    loop = make_loop(model, images, batch_size=16)
    for _ in range(200):
        loop.iterate()
    assert before > 100
    assert distance() < before / 2


def test_a_run_with_all_that_has_a_state_resumes_with_the_same_bits(tmp_path: Path) -> None:
    """Penalties in some iterations, augmentation whose share adapts, and spectral norms."""
    options: dict[str, Any] = {
        "r1": 1.0,
        "r2": 0.5,
        "penalty_every": 3,
        "spectral_norm": True,
        "augment": "flip,colour,translation,cutout",
        "augment_target": 0.1,
    }
    data = write_npz(tmp_path / "data.npz")
    straight = train_tiny("gan", data, tmp_path / "a", budget="7steps", **options)
    train_tiny("gan", data, tmp_path / "b", budget="4steps", **options)
    resumed = resume(tmp_path / "b", registry(), budget="7steps")
    states = [load_state(run.path / "checkpoints")[0]["loop"] for run in (straight, resumed)]
    assert same_bits(*states)
    assert 0 <= states[0]["model"]["augmented_share"] <= 7 * 8 / 100_000


def test_a_discriminator_that_wins_all_pairs_is_met_by_cures_that_are_not_taken_yet() -> None:
    history = {"discriminator/pairs": [0.99] * 10, "discriminator/real": [5.0] * 10}
    said = make().trouble(history)
    assert "99.0% of real images for more real" in said and "try --spectral-norm, a smaller" in said
    assert "try --r1 1, --spectral-norm, a" in make(r1=0.0).trouble(history)
    assert make().trouble({"discriminator/pairs": [0.7] * 10}) is None
    assert make(loss="hinge").trouble(history) is None


def test_a_batch_of_one_image_is_refused_since_batchnorm_needs_two() -> None:
    with pytest.raises(UsageError, match="BatchNorm needs 2 images or more"):
        make().generator_loss(Batch(torch.zeros(1, *SHAPE)))


def test_the_augmented_share_follows_differences_where_the_offset_of_scores_is_arbitrary() -> None:
    """Real scores of -5 and fake ones of -9: real images are known for real all the same."""
    shares = {}
    for loss in ("relativistic", "hinge"):
        model = make(loss=loss, augment="flip", augment_target=0.5)
        model.augmented_share.fill_(0.5)
        batch = Batch(torch.zeros(10, *SHAPE), shared={"fake": torch.zeros(10, *SHAPE)})
        model.discriminator.forward = lambda images: torch.tensor([-5.0] * 10 + [-9.0] * 10)
        model.discriminator_loss(batch)
        shares[loss] = model.augmented_share.item()
    assert shares["relativistic"] == pytest.approx(0.5 + 10 / 100_000)
    assert shares["hinge"] == pytest.approx(0.5 - 10 / 100_000)
