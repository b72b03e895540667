"""One image file to one small uint8 array: how modes become grey, RGB or RGBA, and are scaled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin

from genkit.data.alpha import has_alpha
from genkit.data.image_file import (
    TURNED_SIDEWAYS,
    BadImage,
    opened,
    read_content,
    what_turns_upright,
)
from genkit.data.walk import FULL_WINDOW
from genkit.errors import UsageError
from genkit.specs import ImageShape

BAND_ROWS = 256
BITS_PER_SAMPLE = 258  # a TIFF's tag


def read_window(text: str) -> tuple[int, int]:
    """The lowest and the highest value of a window for 16-bit images, "LOW-HIGH".

    Raises:
        UsageError: it is not two values of 16 bits, the lower one first.
    """
    low, _, high = text.partition("-")
    if low.isdecimal() and high.isdecimal() and int(low) < int(high) < 2**16:
        return int(low), int(high)
    raise UsageError(f"the window {text!r} is not LOW-HIGH, such as 0-65535 or 0-4095")


def read_image(path: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """The centre square of an image file, upright and scaled.

    Args:
        path: of a PNG, JPEG, WebP, BMP, GIF or TIFF file.
        size: pixels a side of the square.
        channels: 1 for grey, 3 for colour.

    Returns:
        uint8, (channels, size, size), 0 to 255.

    Raises:
        BadImage: the file cannot be used; the message begins with its path, and `reason` says why.
    """
    try:
        return decode_image(read_content(path), size, channels)[0]
    except BadImage as error:
        raise BadImage(error.reason, str(path)) from None


def decode_image(
    content: bytes, size: int, channels: int, window: str = FULL_WINDOW
) -> tuple[NDArray[np.uint8], bool]:
    """The centre square of the image, upright and scaled, and whether it had 16 bits a channel.

    Of an animation, the first frame. Scaled by Lanczos's filter. Without a channel for alpha,
    transparency lies on white; with one, colours are premultiplied before they are scaled.

    Args:
        content: a PNG, JPEG, WebP, BMP, GIF or TIFF file.
        size: pixels a side of the square.
        channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha).
        window: "LOW-HIGH", the values of 16-bit images that become 0 and 255; what lies outside is
            cut.

    Returns:
        uint8, (channels, size, size), 0 to 255.

    Raises:
        BadImage: as `opened` does.
    """
    with opened(content) as image:
        # A JPEG can be decoded at a fraction of its size, several times faster.
        image.draft(None, (2 * size, 2 * size))
        deep = _is_deep(image)
        turn = what_turns_upright(image)
        flat = _flat_or_premultiplied(image, read_window(window), deep, channels)
        square = ImageOps.fit(flat, (size, size), Image.Resampling.LANCZOS)
    return _to_array(square, turn, channels), deep


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
        flat = _flat_or_premultiplied(image, read_window(FULL_WINDOW), deep, channels)
        return _to_array(flat, turn, channels)


def _to_array(image: Image.Image, turn: Image.Transpose | None, channels: int) -> NDArray[np.uint8]:
    """The image turned upright, uint8, (channels, H, W)."""
    if turn is not None:
        image = image.transpose(turn)
    if has_alpha(channels):
        *colours, alpha = image.split()
        shown = Image.merge("RGB", colours).convert("L" if channels == 2 else "RGB")
        # Lanczos's filter overshoots, in each channel by itself.
        levels = [np.minimum(np.asarray(band), np.asarray(alpha)) for band in shown.split()]
        return np.stack([*levels, np.asarray(alpha)])
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels).transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)


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


def _flatten(image: Image.Image, window: tuple[int, int], deep: bool) -> Image.Image:
    """The image in mode L or RGB, 8 bits a channel, laid over white if it is transparent; values of
    16-bit grey from one end of the window to the other become 0 to 255."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips at 255
        if image.format == "TIFF" and not image.mode.startswith("I;16"):
            raise BadImage("has 32 bits a channel; save it with 8 or 16")
        low, high = window
        eight_bits = np.rint((np.arange(65536) - low).clip(0, high - low) * (255 / (high - low)))
        values = np.asarray(image).clip(0, 65535).astype(np.uint16)
        return Image.fromarray(eight_bits.astype(np.uint8)[values])
    if image.mode == "F":
        raise BadImage("holds fractions; save it with 8 or 16 bits a channel")
    if deep and window != read_window(FULL_WINDOW):
        raise BadImage("has 16 bits a channel in colour, which no window is applied to")
    if image.has_transparency_data:
        # White, as on a page: drawings tend to have dark outlines, which black would swallow.
        page = Image.new("RGB", image.size, "white")
        for top in range(0, image.height, BAND_ROWS):  # all at once would take twice the memory
            box = (0, top, image.width, min(top + BAND_ROWS, image.height))
            band = image.crop(box).convert("RGBA")
            white = Image.new("RGBA", band.size, "white")
            white.alpha_composite(band)
            page.paste(white.convert("RGB"), box)
        return page
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _flat_or_premultiplied(
    image: Image.Image, window: tuple[int, int], deep: bool, channels: int
) -> Image.Image:
    """The image in mode L or RGB; for 2 and 4 channels in mode RGBa, whose colours were multiplied
    by their alpha."""
    if not has_alpha(channels):
        return _flatten(image, window, deep)
    if not image.has_transparency_data:
        image = _flatten(image, window, deep)
    page = Image.new("RGBa", image.size)
    for top in range(0, image.height, BAND_ROWS):
        box = (0, top, image.width, min(top + BAND_ROWS, image.height))
        page.paste(image.crop(box).convert("RGBA").convert("RGBa"), box)
    return page
