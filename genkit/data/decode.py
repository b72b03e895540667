"""One image file to one small uint8 array: how modes become grey, RGB or RGBA, and are scaled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin

from genkit.data.alpha import has_alpha
from genkit.data.frame import Fit, Frame, Resample, read_window
from genkit.data.image_file import (
    TURNED_SIDEWAYS,
    BadImage,
    opened,
    read_content,
    what_turns_upright,
)
from genkit.data.walk import FULL_WINDOW
from genkit.specs import ImageShape

BAND_ROWS = 256
BITS_PER_SAMPLE = 258  # a TIFF's tag
PIXEL_ART_SIDE, PIXEL_ART_COLOURS = 256, 32  # at most, pixels and colours
LANCZOS, NEAREST = Image.Resampling.LANCZOS, Image.Resampling.NEAREST


class Decoded(NamedTuple):
    """An image: uint8, (C, H, W), 0 to 255; whether it had 16 bits a channel, is transparent
    anywhere, and was scaled to the nearest pixel because it looked like pixel art."""

    pixels: NDArray[np.uint8]
    deep: bool
    transparent: bool
    nearest: bool


def read_image(path: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """The centre square of an image file, upright and scaled.

    Args:
        path: of a PNG, JPEG, WebP, BMP, GIF or TIFF file.
        size: pixels a side of the square.
        channels: 1 for grey, 3 for colour, 2 and 4 for the same with alpha.

    Returns:
        uint8, (channels, size, size), 0 to 255.

    Raises:
        BadImage: the file cannot be used; the message begins with its path, and `reason` says why.
    """
    try:
        return decode_image(read_content(path), Frame(size, size, channels)).pixels
    except BadImage as error:
        raise BadImage(error.reason, str(path)) from None


def decode_image(content: bytes, frame: Frame) -> Decoded:
    """The image, upright, in its frame; of an animation, the first.

    Without a channel for alpha, transparency lies on white; with one, colours are premultiplied
    before they are scaled.

    Args:
        content: a PNG, JPEG, WebP, BMP, GIF or TIFF file.

    Raises:
        BadImage: as `opened` does, it has another size than it must have, or in a frame with
            alpha nothing of it can be seen.
    """
    with opened(content) as image:
        turn = what_turns_upright(image)
        size = (frame.width, frame.height)
        if turn in TURNED_SIDEWAYS:
            size = size[::-1]
        if frame.fit != "none":
            # A JPEG can be decoded at a fraction of its size, several times faster.
            image.draft(None, (2 * size[0], 2 * size[1]))
        elif image.size != size:
            raise BadImage(f"is {_sides(image.size, turn)}, not {_sides(size, turn)}")
        deep = _is_deep(image)
        lowest, highest = _alpha_range(image)
        if highest == 0 and has_alpha(frame.channels):
            raise BadImage("is transparent all over")
        with_alpha = lowest < 255 and has_alpha(frame.channels)
        flat = (_premultiplied if with_alpha else _flatten)(image, frame.window, deep)
        nearest = image.size != size and _is_pixel_art(flat, frame.resample, deep)
        fitted = _fit(flat, size, frame.fit, NEAREST if nearest else LANCZOS)
    return Decoded(_to_array(fitted, turn, frame.channels), deep, lowest < 255, nearest)


def decode_whole(content: bytes, shape: ImageShape) -> NDArray[np.uint8]:
    """The image as it is, upright, read as `decode_image` reads one of its size.

    Args:
        content: a PNG, JPEG, WebP, BMP, GIF or TIFF file.
        shape: whose height and width it must have; of 2 or 4 channels transparency is kept.

    Returns:
        uint8, 0 to 255: (3, height, width), or (4, height, width), premultiplied.

    Raises:
        BadImage: as `opened` does, or it has another size.
    """
    channels = 4 if has_alpha(shape.channels) else 3
    with opened(content) as image:
        deep = _is_deep(image)
        turn = what_turns_upright(image)
        size = image.size[::-1] if turn in TURNED_SIDEWAYS else image.size
        if size != (shape.width, shape.height):
            raise BadImage(f"is {size[1]} x {size[0]}, the data set has {shape}")
        with_alpha = channels == 4 and image.has_transparency_data
        flat = (_premultiplied if with_alpha else _flatten)(image, FULL_WINDOW, deep)
        return _to_array(flat, turn, channels)


def _sides(size: tuple[int, int], turn: Image.Transpose | None) -> str:
    """Width and height as words, of the image turned upright."""
    width, height = size[::-1] if turn in TURNED_SIDEWAYS else size
    return f"{width} pixels wide and {height} high"


def _is_pixel_art(image: Image.Image, resample: Resample, deep: bool) -> bool:
    """Whether an image is to be scaled to the nearest pixel: small images of few colours are."""
    if resample != "auto":
        return resample == "nearest"
    return (
        not deep
        and max(image.size) <= PIXEL_ART_SIDE
        and image.getcolors(PIXEL_ART_COLOURS) is not None
    )


def _fit(
    image: Image.Image, size: tuple[int, int], fit: Fit, method: Image.Resampling
) -> Image.Image:
    """An image of width and height `size`."""
    if fit == "crop":
        return ImageOps.fit(image, size, method)
    if fit != "pad":
        return image.resize(size, method)
    factor = min(size[0] / image.width, size[1] / image.height)
    inner = (
        max(1, min(round(image.width * factor), size[0])),
        max(1, min(round(image.height * factor), size[1])),
    )
    page = Image.new(image.mode, size, 0 if image.mode == "RGBa" else "white")
    page.paste(image.resize(inner, method), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return page


def _to_array(image: Image.Image, turn: Image.Transpose | None, channels: int) -> NDArray[np.uint8]:
    """The image turned upright, uint8, (channels, H, W); opaque if it has no alpha."""
    if turn is not None:
        image = image.transpose(turn)
    mode = "L" if channels < 3 else "RGB"
    if image.mode == "RGBa":
        *colours, alpha = image.split()
        # Lanczos's filter overshoots, in each channel by itself.
        shown = Image.merge("RGB", colours).convert(mode).split()
        levels = [np.minimum(np.asarray(band), np.asarray(alpha)) for band in shown]
        return np.stack([*levels, np.asarray(alpha)])
    pixels = np.asarray(image.convert(mode))
    pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)
    if has_alpha(channels):
        pixels = np.concatenate([pixels, np.full_like(pixels[:1], 255)])
    return pixels


def _alpha_range(image: Image.Image) -> tuple[int, int]:
    """The least and the most opaque pixel's alpha, 0 to 255."""
    if not image.has_transparency_data or image.mode[0] in "IF":  # numbers, not colours
        return 255, 255
    bands = [np.asarray(band)[..., 3] for band in _bands(image)]
    return min(int(band.min()) for band in bands), max(int(band.max()) for band in bands)


def _bands(image: Image.Image) -> Iterator[Image.Image]:
    """The image in mode RGBA, some rows at a time: all at once would take twice the memory."""
    for top in range(0, image.height, BAND_ROWS):
        bottom = min(top + BAND_ROWS, image.height)
        yield image.crop((0, top, image.width, bottom)).convert("RGBA")


def _is_deep(image: Image.Image) -> bool:
    """Whether the image, not decoded yet, has 16 bits a channel; in colour, Pillow keeps the upper
    8 of them."""
    if image.mode.startswith("I"):
        return True
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(BITS_PER_SAMPLE, 1)
        return bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8)
    tiles = image.tile if isinstance(image, PngImagePlugin.PngImageFile) else ()
    return any("16" in str(tile.args) for tile in tiles)


def _check_window(image: Image.Image, window: str, deep: bool) -> None:
    """Raise BadImage for pixels that the window says nothing of."""
    if image.mode == "F":
        raise BadImage("holds fractions; save it with 8 or 16 bits a channel")
    if deep and not image.mode.startswith("I") and window != FULL_WINDOW:
        raise BadImage("has 16 bits a channel in colour, which no window is applied to")


def _flatten(image: Image.Image, window: str, deep: bool) -> Image.Image:
    """The image in mode L or RGB, 8 bits a channel, laid over white if it is transparent; values of
    16-bit grey from one end of the window to the other become 0 to 255."""
    _check_window(image, window, deep)
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255
        if image.format == "TIFF" and not image.mode.startswith("I;16"):
            raise BadImage("has 32 bits a channel; save it with 8 or 16")
        low, high = read_window(window)
        eight_bits = np.rint((np.arange(65536) - low).clip(0, high - low) * (255 / (high - low)))
        values = np.asarray(image).clip(0, 65535).astype(np.uint16)
        return Image.fromarray(eight_bits.astype(np.uint8)[values])
    if image.has_transparency_data:
        # White, as on a page: drawings tend to have dark outlines, which black would swallow.
        page = Image.new("RGB", image.size, "white")
        for number, band in enumerate(_bands(image)):
            white = Image.new("RGBA", band.size, "white")
            white.alpha_composite(band)
            page.paste(white.convert("RGB"), (0, number * BAND_ROWS))
        return page
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _premultiplied(image: Image.Image, window: str, deep: bool) -> Image.Image:
    """A transparent image in mode RGBa: its colours were multiplied by their alpha."""
    _check_window(image, window, deep)
    page = Image.new("RGBa", image.size)
    for number, band in enumerate(_bands(image)):
        page.paste(band.convert("RGBa"), (0, number * BAND_ROWS))
    return page
