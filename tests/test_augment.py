"""Differentiable augmentation: what each kind does to images, how often, and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genkit.augment import AUGMENTATIONS, augment


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def random(count: int = 200, channels: int = 3, height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(count, channels, height, width) * 2 - 1


def test_a_mirrored_image_is_one_of_the_two_half_of_the_time() -> None:
    images = random(400)
    found = augment(images, ["flip"])
    mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert ((found == images).flatten(1).all(1) | mirrored).all()
    assert 160 < mirrored.sum() < 240


def test_a_moved_image_is_the_image_moved_by_at_most_an_eighth_with_zeros_moved_in() -> None:
    images = random(60, height=16, width=24)
    places = set()
    for image, found in zip(images, augment(images, ["translation"]), strict=True):
        candidates = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-3, 4)
            if torch.equal(found, moved(image, down, right))
        ]
        assert len(candidates) == 1
        places.update(candidates)
    assert {down for down, _ in places} == set(range(-2, 3))
    assert {right for _, right in places} == set(range(-3, 4))


def moved(image: Tensor, down: int, right: int) -> Tensor:
    """By a loop over pixels."""
    result = torch.zeros_like(image)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[:, row, column] = image[:, row - down, column - right]
    return result


def test_a_hole_is_a_rectangle_of_half_of_each_side_that_may_be_cut_by_the_border() -> None:
    images = random(300).abs() + 0.1
    holes = (augment(images, ["cutout"]) == 0).all(1)
    rows, columns = holes.any(2), holes.any(1)  # (N, H), (N, W)
    assert (holes == rows[:, :, None] & columns[:, None, :]).all()
    for found, side in ((rows, 16), (columns, 24)):
        lengths = found.sum(1)
        assert lengths.max() == side // 2 and lengths.min() == side // 4
        border = torch.zeros(300, 1)
        steps = torch.diff(found.int(), dim=1, prepend=border, append=border)
        assert (steps.abs().sum(1) == 2).all()  # one piece
        assert found.any(0).all()  # anywhere


def test_colour_changes_brightness_saturation_and_contrast_of_each_image_by_itself() -> None:
    images = random(500)
    found = augment(images, ["colour"])
    shift = (found - images).mean((1, 2, 3))  # saturation and contrast keep the mean
    assert shift.abs().max() < 0.5 and -0.05 < shift.mean() < 0.05
    assert shift.std() == pytest.approx(12**-0.5, rel=0.15)
    grey, was_grey = found.mean(1), images.mean(1)
    contrast = grey.std((1, 2)) / was_grey.std((1, 2))
    assert 0.5 <= contrast.min() and contrast.max() < 1.5
    colours = (found - grey[:, None]).std((1, 2, 3)) / (images - was_grey[:, None]).std((1, 2, 3))
    saturation = colours / contrast
    assert saturation.max() < 2.001 and saturation.mean() == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_colour_takes_images_without_colours_and_leaves_transparency(channels: int) -> None:
    images = random(20, channels)
    found = augment(images, ["colour"])
    assert found.shape == images.shape and not torch.equal(found[:, :3], images[:, :3])
    if channels == 4:
        assert torch.equal(found[:, 3], images[:, 3])


def test_all_kinds_are_applied_to_their_share_of_the_images() -> None:
    images = random(1000)
    for share in (0.25, torch.tensor(0.25)):
        for kind in ("colour", "cutout"):
            changed = (augment(images, [kind], share) != images).flatten(1).any(1)
            assert 200 < changed.sum() < 300, kind
    assert torch.equal(augment(images, list(AUGMENTATIONS), torch.tensor(0.0)), images)
    assert torch.equal(augment(images, []), images)


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    images = random(2, 3, 5, 6).double().requires_grad_()

    def seeded(values: Tensor) -> Tensor:
        torch.manual_seed(3)
        return augment(values, [kind])

    assert torch.autograd.gradcheck(seeded, (images,))
    assert not torch.equal(seeded(images), images)


def test_the_order_of_the_names_does_not_matter_and_an_unknown_one_is_refused() -> None:
    images = random(4)
    found = []
    for kinds in (["cutout", "flip"], ["flip", "cutout"]):
        torch.manual_seed(1)
        found.append(augment(images, kinds))
    assert torch.equal(*found)
    with pytest.raises(ValueError, match="'blur' is not one of flip, colour, translation, cutout"):
        augment(images, ["blur"])
