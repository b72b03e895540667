"""How images of any shape and transparency come into the frame of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import all_images, open_named
from PIL import Image

from genkit.data import ImageData, premultiply
from genkit.data.decode import decode_image
from genkit.data.frame import Frame, read_size
from genkit.data.image_file import BadImage
from genkit.data.prepare import prepare
from genkit.errors import UsageError

RANDOM = np.random.default_rng(0)


def save(place: Path, *images: np.ndarray) -> Path:
    """Images, uint8 (H, W) or (H, W, C), as PNG files 0.png, 1.png, ..."""
    place.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(place / f"{number}.png")
    return place


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def read(path: Path, **frame: object) -> np.ndarray:
    return decode_image(path.read_bytes(), Frame(**frame)).pixels


def both(place: Path, **options: object) -> ImageData:
    """The images of a folder, after comparing them with those that `prepare` makes of it."""
    data = open_named(f"folder:{place}", **options)
    out = place.with_name(f"out-{len(list(place.parent.iterdir()))}")
    wanted = {"resample": "auto", **options}
    prepare(place, out, **wanted)
    Image.fromarray(pixels(32, 32)).save(place / "more.png")
    prepare(place, out, **wanted)
    (place / "more.png").unlink()
    assert prepare(place, out, **wanted).decoded == 0  # taken from what was there
    ready = open_named(f"prepared:{out}")
    assert ready.fingerprint == data.fingerprint and ready.notes[:-1] == data.notes[:-1]
    return data


@pytest.mark.parametrize("side", [8, 64, 256])
def test_a_size_is_a_side_or_width_and_height(side: int) -> None:
    assert read_size(side) == read_size(str(side)) == (side, side)
    assert read_size(f"{side}x48") == (48, side)


@pytest.mark.parametrize("size", ["7", "257", "48x7", "48 x 32", "x", "", "-8", "8x8x8", "٣٢"])
def test_other_sizes_are_refused_with_what_is_meant(size: str) -> None:
    with pytest.raises(UsageError, match=r"WIDTHxHEIGHT, such as 48x32, of 8 to 256 pixels"):
        read_size(size)


@pytest.mark.parametrize(
    ("kinds", "channels"),
    [
        (("L",), 1),
        (("LA",), 2),
        (("L", "LA"), 2),
        (("RGB",), 3),
        (("RGB", "LA"), 4),
        (("RGBA",), 4),
    ],
)
def test_auto_takes_the_fewest_channels_that_show_all(
    tmp_path: Path, kinds: tuple[str, ...], channels: int
) -> None:
    shapes = {"L": (16, 16), "LA": (16, 16, 2), "RGB": (16, 16, 3), "RGBA": (16, 16, 4)}
    save(tmp_path / "in", *[pixels(*shapes[kinds[n % len(kinds)]]) for n in range(6)])
    data = both(tmp_path / "in", size=16)
    assert data.shape.channels == channels
    assert any("transparent images" in note for note in data.notes) == (channels in (2, 4))


def test_transparent_files_are_read_premultiplied_and_opaque_ones_gain_alpha(
    tmp_path: Path,
) -> None:
    straight, opaque = pixels(5, 16, 16, 4), pixels(16, 16, 3)
    save(tmp_path / "in", *straight, opaque)
    expected = list(premultiply(straight.transpose(0, 3, 1, 2)))
    expected.append(np.concatenate([opaque.transpose(2, 0, 1), np.full((1, 16, 16), 255)]))
    found = {image.tobytes() for image in all_images(both(tmp_path / "in", size=16))}
    assert found == {image.astype(np.uint8).tobytes() for image in expected}


def test_opaque_alpha_and_a_palette_without_transparency_need_no_channel(tmp_path: Path) -> None:
    image = pixels(16, 16, 4)
    image[..., 3] = 255
    save(tmp_path / "in", *[image] * 4)
    Image.fromarray(image[..., :3]).quantize(8).save(tmp_path / "in" / "p.png")
    assert both(tmp_path / "in", size=16).shape.channels == 3


def test_channels_3_lays_transparency_over_white_without_a_word(tmp_path: Path) -> None:
    save(
        tmp_path / "in", *pixels(4, 16, 16, 4) // np.array([1, 1, 1, 255], np.uint8)
    )  # nearly all hidden
    data = both(tmp_path / "in", size=16, channels="3")
    assert data.shape.channels == 3 and (all_images(data) == 255).mean() > 0.9
    assert not any("transparent" in note for note in data.notes)


def test_what_is_transparent_all_over_is_left_out(tmp_path: Path) -> None:
    save(tmp_path / "in", *pixels(5, 16, 16, 4), np.zeros((16, 16, 4), np.uint8))
    data = both(tmp_path / "in", size=16)
    assert len(all_images(data)) == 5
    assert "skipped 5.png: is transparent all over" in data.notes


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (1, 500), (500, 1), (1, 1)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 4])
def test_every_fit_fills_the_frame_from_any_shape(
    tmp_path: Path, shape: tuple[int, int], fit: str, channels: int
) -> None:
    save(tmp_path, np.full((*shape, 4), 90, np.uint8))
    image = read(tmp_path / "0.png", height=8, width=24, channels=channels, fit=fit)
    assert image.shape == (channels, 8, 24)
    if channels == 4 and fit != "pad":
        assert (image[3] == 90).all() and abs(image[0].astype(int) - 32).max() <= 1
    if channels == 4 and fit == "pad":  # edges are transparent, the whole image is between them
        inner = min(24, max(1, round(8 * shape[1] / shape[0])))
        high = min(8, max(1, round(24 * shape[0] / shape[1])))
        assert (image[3] == 90).sum() == inner * high and (
            image[3] == 0
        ).sum() == 192 - inner * high


def test_crop_pad_and_stretch_keep_the_centre_the_whole_and_the_corners(tmp_path: Path) -> None:
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :8], image[:, 8:24], image[:, 24:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    save(tmp_path, image)
    frame = {"height": 16, "width": 16, "channels": 3, "resample": "nearest"}
    cropped, padded, stretched = (
        read(tmp_path / "0.png", fit=fit, **frame) for fit in ("crop", "pad", "stretch")
    )
    assert (cropped.transpose(1, 2, 0) == (0, 255, 0)).all()
    assert (padded[:, :4] == 255).all() and (padded[:, 12:] == 255).all()
    assert (padded[:, 4:12] == stretched[:, :8]).all()
    assert (stretched.transpose(1, 2, 0) == image[:, ::2]).all()


def test_fit_none_takes_exact_sizes_and_says_what_others_have(tmp_path: Path) -> None:
    save(tmp_path / "in", *pixels(4, 24, 40, 3), pixels(40, 24, 3))
    data = both(tmp_path / "in", size="40x24", fit="none")
    assert data.shape.height == 24 and len(all_images(data)) == 4
    assert (
        "skipped 4.png: is 24 pixels wide and 40 high, not 40 pixels wide and 24 high" in data.notes
    )
    with pytest.raises(BadImage, match="is 40 pixels wide"):
        read(tmp_path / "in" / "0.png", height=8, width=8, channels=3, fit="none")


def test_pixel_art_is_scaled_without_new_colours_and_the_user_is_told(tmp_path: Path) -> None:
    palette = pixels(8, 4)
    art = [palette[RANDOM.integers(0, 8, (12, 12))] for _ in range(4)]
    save(tmp_path / "in", *art)
    data = both(tmp_path / "in", size=24)
    colours = {tuple(c) for c in premultiply(palette[..., None, None])[..., 0, 0]}
    found = all_images(data).transpose(0, 2, 3, 1).reshape(-1, 4)
    assert {tuple(colour) for colour in found} <= colours
    assert any(note.startswith("images of few colours: 4") for note in data.notes)
    blended = all_images(both(tmp_path / "in", size=24, resample="smooth"))
    assert len(np.unique(blended)) > 8 * 4


def test_photos_and_large_drawings_are_not_pixel_art(
    tmp_path: Path,
) -> None:
    drawing = (pixels(300, 300) > 127) * np.uint8(255)
    save(tmp_path / "in", pixels(40, 40, 3), drawing, pixels(40, 40, 3))
    notes = both(tmp_path / "in", size=16).notes
    assert not any("few colours" in note for note in notes)
