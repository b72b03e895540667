"""Premultiplied and straight images, and images on backgrounds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genkit.data.alpha import over_black, over_checkers, over_white, premultiply, straighten
from genkit.data.decode import read_image


def pairs() -> np.ndarray:
    """Every grey level with every alpha: (65536, 2, 1, 1)."""
    levels = np.stack(np.meshgrid(range(256), range(256), indexing="ij"), -1).reshape(-1, 2)
    return levels.astype(np.uint8)[..., None, None]


def test_premultiplied_levels_are_rounded_products() -> None:
    found = premultiply(pairs())
    for (grey, alpha), (product, same) in zip(
        pairs()[::97, :, 0, 0].tolist(), found[::97, :, 0, 0].tolist(), strict=True
    ):
        assert abs(product - Fraction(grey * alpha, 255)) <= Fraction(1, 2) and same == alpha


def test_every_premultiplied_image_survives_being_straightened() -> None:
    valid = pairs()[(pairs()[:, 0] <= pairs()[:, 1]).ravel()]
    straight = straighten(valid)
    assert (premultiply(straight) == valid).all()
    assert (straight[valid[:, 1, 0, 0] == 0] == 0).all()
    opaque = pairs()[pairs()[:, 1, 0, 0] == 255]
    assert (straighten(opaque) == opaque).all()


@pytest.mark.parametrize("colours", [1, 3])
def test_backgrounds_show_where_an_image_is_transparent(colours: int) -> None:
    random = np.random.default_rng(0)
    straight = random.integers(0, 256, (5, colours + 1, 9, 13), dtype=np.uint8)
    images = premultiply(straight)
    share = images[:, -1:] / 255
    exact = straight[:, :-1] * share
    for over, background in ((over_white, 255), (over_black, 0)):
        assert abs(over(images) - (exact + background * (1 - share))).max() <= 0.5 + 1e-9
    board = over_checkers(np.zeros_like(images))
    assert sorted(np.unique(board)) == [170, 204]
    corner = board[0, 0, 0, 0]
    assert (board[..., :4, :4] == corner).all() and (board[..., :4, 4:8] != corner).all()
    images[:, -1] = 255
    assert (over_checkers(images) == images[:, :-1]).all()


@pytest.mark.parametrize("channels", [2, 4])
def test_hidden_colours_of_a_file_do_not_bleed_when_it_is_scaled(
    tmp_path: Path, channels: int
) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., :3] = 255  # white, hidden
    pixels[16:48, 16:48] = (90, 90, 90, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 24, channels)
    assert image.shape == (channels, 24, 24)
    assert (image[:-1] <= image[-1]).all() and image[:-1].max() <= 96
    assert (image[-1, :4, :4] == 0).all()
    middle = np.array([90] * (channels - 1) + [255])
    assert (image[:, 10:14, 10:14] == middle[:, None, None]).all()


def test_opaque_and_palette_files_gain_an_alpha_channel(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    image = read_image(tmp_path / "rgb.png", 8, 4)
    assert (image[:3].transpose(1, 2, 0) == colours).all() and (image[3] == 255).all()
    palette = Image.fromarray((colours[..., 0] > 127).astype(np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png", transparency=0)
    image = read_image(tmp_path / "p.png", 8, 4)
    assert (image[3] == np.where(colours[..., 0] > 127, 255, 0)).all()
    assert (image[0] == 0).all() and (image[2] == image[3]).all()
