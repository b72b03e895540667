"""Numbers of levels: rounding and counting."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from toys import random_images

from genkit.evaluation.levels import count_levels, round_to_levels
from genkit.model import to_bytes, to_unit_range
from genkit.specs import ImageShape
from genkit_pixelcnn import PixelCNNConfig
from genkit_pixelcnn.model import PixelCNN

GREY = torch.from_numpy(random_images(60))


@pytest.mark.parametrize("levels", [2, 3, 4, 8, 16, 100, 255])
def test_rounding_takes_the_nearest_of_evenly_spaced_levels(levels):
    values = np.arange(256)
    grid = np.linspace(0, 255, levels)
    nearest = grid[np.abs(values[:, None] - grid).argmin(1)]
    found = round_to_levels(torch.from_numpy(values.astype(np.uint8)), levels)
    assert np.abs(found.numpy() - nearest).max() <= 0.5001
    assert torch.equal(round_to_levels(found, levels), found)


def test_all_levels_are_the_images_themselves():
    assert torch.equal(round_to_levels(GREY, 256), GREY)


@pytest.mark.parametrize("levels", [2, 3, 4, 7, 16, 52])
def test_images_are_rounded_as_a_pixelcnn_of_so_many_levels_rounds_them(levels):
    model = PixelCNN(PixelCNNConfig(levels=levels, channels=4, layers=2), ImageShape(1, 8, 8))
    expected = to_bytes(model.scale(model.quantise(to_unit_range(GREY))))
    assert torch.equal(round_to_levels(GREY, levels), expected)


@pytest.mark.parametrize("levels", [2, 3, 5, 7, 16, 64])
def test_rounded_images_are_counted_as_what_they_were_rounded_to(levels):
    assert count_levels(round_to_levels(GREY, levels)) == levels


def test_grey_images_have_all_levels_and_a_few_stray_pixels_change_nothing():
    assert count_levels(GREY) == 256
    stray = round_to_levels(GREY, 2)
    stray.view(-1)[:3] = 77  # of 3,840
    assert count_levels(stray) == 2
    stray.view(-1)[:400] = 77
    assert count_levels(stray) > 2


def test_digits_that_are_mostly_black_have_all_levels():
    """Most single values of grey are rarer than one in a thousand there."""
    with np.load(files("genkit_datasets") / "mnist_mini.npz") as arrays:
        digits = torch.from_numpy(arrays["test_images"])
    assert count_levels(digits) == 256
    assert count_levels(round_to_levels(digits, 2)) == 2


def test_images_of_one_value_say_nothing_of_levels():
    assert count_levels(torch.zeros_like(GREY)) == 256
