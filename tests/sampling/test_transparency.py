"""Samples with transparency: drawn, shown, written for others and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import TINY, registry

from genkit.data.alpha import premultiply
from genkit.errors import UsageError
from genkit.model import to_bytes, to_unit_range
from genkit.sampling.draw import draw
from genkit.sampling.files import load_samples, save_samples
from genkit.sampling.grids import make_grid
from genkit.specs import ImageShape
from genkit_dcgan import DCGANConfig
from genkit_dcgan.model import DCGAN

torch.set_num_threads(1)


def transparent(count: int, channels: int, height: int = 8, width: int = 8) -> torch.Tensor:
    shape = (count, channels, height, width)
    straight = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    straight[:, -1, :2] = 0
    straight[:, -1, 2:4] = 255
    return torch.from_numpy(premultiply(straight))


@pytest.mark.parametrize("channels", [2, 4])
def test_bytes_are_never_above_their_alpha_and_valid_ones_stay(channels: int) -> None:
    images = transparent(5, channels)
    assert torch.equal(to_bytes(to_unit_range(images)), images)
    wild = to_bytes(torch.rand(3, 5, channels, 8, 8) * 2 - 1)
    colours, alpha = wild[..., :-1, :, :], wild[..., -1:, :, :]
    assert (colours <= alpha).all() and (colours == alpha).any() and (colours < alpha).any()


def test_a_model_of_transparent_images_draws_premultiplied_ones() -> None:
    torch.manual_seed(0)
    model = DCGAN(DCGANConfig(**TINY["dcgan"]), ImageShape(4, 8, 8))
    images = draw(model, 10, seed=0)
    assert images.shape == (10, 4, 8, 8) and (images[:, :3] <= images[:, 3:]).all()


@pytest.mark.parametrize("name", ["folder", "samples.npz"])
@pytest.mark.parametrize("channels", [2, 4])
def test_files_of_samples_give_the_same_samples_again(
    tmp_path: Path, name: str, channels: int
) -> None:
    images = transparent(7, channels, 9, 6)
    save_samples(images, tmp_path / name)
    loaded = load_samples(registry(), tmp_path / name, ImageShape(channels, 9, 6))
    assert torch.equal(loaded, images)


def test_single_files_are_straight_as_other_programs_expect_them(tmp_path: Path) -> None:
    half_white = torch.tensor([128, 128, 128, 128], dtype=torch.uint8).view(1, 4, 1, 1)
    save_samples(half_white.expand(1, 4, 8, 8), tmp_path / "s")
    image = Image.open(tmp_path / "s" / "000000.png")
    assert image.mode == "RGBA" and image.getpixel((3, 3)) == (255, 255, 255, 128)


def test_hidden_colours_in_files_are_dropped(tmp_path: Path) -> None:
    for colour, name in ((0, "a"), (200, "b")):
        (tmp_path / name).mkdir()
        image = Image.new("RGBA", (8, 8), (colour, colour, colour, 0))
        image.putpixel((2, 2), (9, 8, 7, 255))
        image.save(tmp_path / name / "x.png")
    a, b = (load_samples(registry(), tmp_path / name, ImageShape(4, 8, 8)) for name in "ab")
    assert torch.equal(a, b) and a[0, :, 2, 2].tolist() == [9, 8, 7, 255]


def test_colour_files_are_refused_for_data_of_grey_and_alpha(tmp_path: Path) -> None:
    save_samples(transparent(2, 4), tmp_path / "s")
    with pytest.raises(UsageError, match="colour"):
        load_samples(registry(), tmp_path / "s", ImageShape(2, 8, 8))


def test_a_grid_shows_a_checkerboard_behind_transparent_images() -> None:
    images = torch.zeros(1, 4, 8, 8, dtype=torch.uint8)
    images[:, :, 6:, 6:] = torch.tensor([255, 0, 0, 255], dtype=torch.uint8).view(4, 1, 1)
    grid = make_grid(images)
    assert grid.mode == "RGB" and grid.size == (12, 12)
    assert grid.getpixel((2, 2)) != grid.getpixel((6, 2)) == grid.getpixel((2, 6))
    assert grid.getpixel((9, 9)) == (255, 0, 0)
    grey = make_grid(images[:, 2:])
    assert grey.mode == "L"
