"""Sprites, their features and their palette: genkit's promises, and what each can tell apart."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from genkit_sprites import SpritesConfig
from genkit_sprites.drawing import DRAWERS, draw_split, load
from genkit_sprites.features import BINS, SpriteFeatures, colour_histograms, edge_directions
from genkit_sprites.palette import histogram, score

from genkit.errors import UsageError
from genkit.features import ImageSet
from genkit.metrics import Reference
from genkit.specs import Config, ImageShape
from genkit.testing import check_dataset, check_features, check_metric

torch.set_num_threads(1)
FEW = {"size": 16, "train_images": 80, "test_images": 16}


def images_of(count, seed=0):
    return torch.from_numpy(draw_split(count, 24, seed, 0).images)


def distance(samples, real):
    extractor = SpriteFeatures(Config())
    real = ImageSet(real, extractor)
    reference = Reference("real", len(real), real, real)
    return score(Config(), ImageSet(samples, extractor), reference)["palette_distance"]


def test_promises_are_kept():
    check_dataset("sprites", options=FEW)
    check_features("sprite-features", (3, 24, 24))
    check_metric("palette")


def test_entry_module_imports_neither_torch_nor_numpy():
    code = "import sys, genkit_sprites; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_sprites_are_balanced_different_and_the_same_at_each_drawing():
    splits = load(SpritesConfig(**FEW), None, Path())
    assert splits.train.images.shape == (80, 3, 16, 16)
    assert np.bincount(splits.train.labels).tolist() == [10] * 8 and splits.classes == (*DRAWERS,)
    every = np.concatenate([splits.train.images, splits.test.images])
    assert len(np.unique(every, axis=0)) == 96
    again = load(SpritesConfig(**FEW), None, Path())
    np.testing.assert_array_equal(again.test.images, splits.test.images)
    other = load(SpritesConfig(**FEW, drawing_seed=1), None, Path())
    assert not np.array_equal(other.test.images, splits.test.images)


def test_fewer_sprites_are_the_first_of_more():
    np.testing.assert_array_equal(
        draw_split(8, 16, 0, 0).images, draw_split(24, 16, 0, 0).images[:8]
    )


def test_features_tell_the_kinds_of_sprites_apart():
    """The nearest of 400 others is of the same kind nearly always; by chance it is for 1 in 8."""
    features, _ = SpriteFeatures(Config())(images_of(480))
    labels = torch.arange(480) % 8
    nearest = torch.cdist(features[:80], features[80:]).argmin(1)
    assert (labels[80:][nearest] == labels[:80]).float().mean() > 0.9


def test_identity_holds_a_hash_and_features_are_of_any_size():
    extractor = SpriteFeatures(Config())
    assert re.fullmatch(r"sprite-features-[0-9a-f]{8}", extractor.identity)
    for shape in ((2, 3, 8, 8), (3, 3, 37, 20)):
        features, logits = extractor(torch.randint(256, shape, dtype=torch.uint8))
        assert features.shape == (shape[0], 200) and features.dtype == torch.float32
        assert logits is None


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 7, 24)])
def test_features_refuse_grey_and_tiny_images(shape):
    with pytest.raises(UsageError, match=f"not {shape[0]} x {shape[1]} x {shape[2]}"):
        SpriteFeatures(Config()).check_shape(ImageShape(*shape))


def test_colour_histograms_are_unit_vectors_with_a_colour_in_its_bin():
    found = colour_histograms(torch.rand(4, 3, 9, 9)).view(4, 3, BINS)
    torch.testing.assert_close(found.square().sum(2), torch.ones(4, 3))
    for place in range(BINS):
        flat = colour_histograms(torch.full((1, 1, 8, 8), (place + 0.5) / BINS))
        torch.testing.assert_close(flat, torch.eye(BINS)[place : place + 1])


@pytest.mark.parametrize("turns, direction", [(0, 0), (1, 6), (2, 4), (3, 2)])
def test_edge_of_a_rotated_ramp_has_its_direction(turns, direction):
    """Direction 0 brightens to the right, and 2 downwards; a turn is anticlockwise."""
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    found = edge_directions(torch.rot90(ramp, turns, (2, 3))).view(8, -1).sum(1)
    assert found[direction] > 0 and found[direction] == found.sum()


def test_palette_distance_is_zero_for_the_same_and_one_for_other_colours():
    real = images_of(64)
    assert distance(real, real).value == 0
    assert distance(torch.full((9, 3, 4, 4), 255, dtype=torch.uint8), real // 2).value == 1


def test_histogram_equals_that_of_numpy():
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    pixels = images.movedim(1, 3).reshape(-1, 3).flip(1).double().numpy()  # the first is fastest
    counts, _ = np.histogramdd(pixels, bins=8, range=[(0, 256)] * 3)
    np.testing.assert_allclose(histogram(images), counts.ravel() / len(pixels))


def test_palette_distance_grows_with_a_shift_of_hue_and_not_with_a_shuffle_of_pixels():
    real, samples = images_of(256), images_of(256, seed=1)
    shuffled = samples.flatten(2)[..., torch.randperm(24 * 24)].view_as(samples)
    swapped = samples.flip(1)  # red for blue
    near, far = distance(samples, real), distance(swapped, real)
    assert distance(shuffled, real).value == pytest.approx(near.value)
    assert far.value > near.value + 5 * (near.deviation + far.deviation)


def test_deviation_is_that_of_other_samples():
    real = images_of(512)
    found = [distance(images_of(128, seed=seed), real) for seed in range(1, 11)]
    spread = np.std([estimate.value for estimate in found], ddof=1)
    stated = np.mean([estimate.deviation for estimate in found])
    assert 0.4 < stated / spread < 2.5
