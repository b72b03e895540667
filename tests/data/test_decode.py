"""One image file to one array: orientation, modes, scaling, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import images, open_named, save_images
from PIL import Image, ImageOps

from genkit.data.decode import read_image
from genkit.data.image_file import BadImage


def write_huge_png(path: Path, side: int) -> None:
    """A PNG that says it has side x side pixels of one bit, though hardly any follow."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + end)


@pytest.mark.parametrize("side", [8_100, 10_000, 20_000])
def test_huge_images_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    write_huge_png(tmp_path / "huge.png", side)
    with pytest.raises(BadImage, match="64,000,000 pixels"):
        read_image(tmp_path / "huge.png", 32, 3)


def read(path: Path, size: int = 32, channels: int = 3) -> np.ndarray:
    """The image as (size, size) or (size, size, 3)."""
    return read_image(path, size, channels).transpose(1, 2, 0).squeeze()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(images(1, 3, 32)[0].transpose(1, 2, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        upright = np.asarray(ImageOps.exif_transpose(turned))
    assert (read(tmp_path / "turned.png") == upright).all()


def test_sixteen_bit_greys_are_scaled_not_clipped(tmp_path: Path) -> None:
    greys = images(1, 1, 32)[0, 0]
    Image.fromarray(greys.astype(np.uint16) * 257).save(tmp_path / "a.png")
    save_images(tmp_path)
    assert (read(tmp_path / "a.png", channels=1) == greys).all()
    assert open_named(f"folder:{tmp_path}").notes[0].startswith("16-bit images: 1")


def test_palettes_with_and_without_transparency_become_their_colours(tmp_path: Path) -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(1, (0, 0, 32, 16))
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=bytes([255, 0]))  # colour 1 is see-through
    plain, clear = read(tmp_path / "plain.png"), read(tmp_path / "clear.png")
    assert (plain[:16] == [40, 50, 60]).all() and (plain[16:] == [10, 20, 30]).all()
    assert (clear[:16] == 255).all() and (clear[16:] == [10, 20, 30]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., 3] = np.arange(32) * 8
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    expected = 255 - np.arange(32) * 8  # alpha of black over white
    assert (abs(read(tmp_path / "a.png", channels=1).astype(int) - expected) <= 1).all()


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (40, 40), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    assert (abs(read(tmp_path / "red.jpg").astype(int) - [255, 0, 0]) <= 4).all()


def test_short_side_is_fitted_and_the_centre_kept(tmp_path: Path) -> None:
    wide = Image.new("RGB", (96, 32), "red")
    wide.paste((0, 255, 0), (32, 0, 64, 32))
    wide.save(tmp_path / "wide.png")
    assert (read(tmp_path / "wide.png") == [0, 255, 0]).all()
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.bmp")
    assert (read(tmp_path / "dot.bmp") == [1, 2, 3]).all()


def test_scaling_down_averages(tmp_path: Path) -> None:
    board = (np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    assert (abs(read(tmp_path / "board.png", channels=1).astype(int) - 127.5) < 4).all()


def test_large_jpeg_decodes_to_about_what_its_png_does(tmp_path: Path) -> None:
    smooth = Image.linear_gradient("L").resize((1200, 900)).convert("RGB")
    smooth.save(tmp_path / "a.jpg", quality=95)
    smooth.save(tmp_path / "a.png")
    difference = read(tmp_path / "a.jpg").astype(int) - read(tmp_path / "a.png")
    assert abs(difference).max() <= 3
