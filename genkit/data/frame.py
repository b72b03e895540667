"""What image files become: images of one size and one number of channels, scaled in one way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from genkit.data.alpha import has_alpha
from genkit.data.walk import FULL_WINDOW
from genkit.errors import UsageError

Channels = Literal["auto", "1", "2", "3", "4"]  # auto: as few as show all that the images have
Fit = Literal["crop", "pad", "stretch", "none"]
Resample = Literal["auto", "smooth", "nearest"]

SHORTEST, LONGEST = 8, 256  # pixels a side of what is trained on
DECODED_CHANNELS = {"auto": 4, "1": 1, "2": 2, "3": 3, "4": 4}


@dataclass(frozen=True)
class Frame:
    """How the images of a data set are read.

    Args:
        height, width: of all images, pixels.
        channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha).
        fit: how an image of another shape fills the frame. crop: its centre is cut out; pad: white
            edges, or transparent ones; stretch: its sides are scaled by different factors; none:
            it must have this size.
        resample: smooth (Lanczos's filter), nearest (pixels stay pixels), or auto: nearest for
            pixel art, which is small and has few colours.
        window: "LOW-HIGH", the values of 16-bit images that become 0 and 255; what lies outside is
            cut.
    """

    height: int
    width: int
    channels: int
    fit: Fit = "crop"
    resample: Resample = "smooth"
    window: str = FULL_WINDOW


def read_size(size: int | str) -> tuple[int, int]:
    """Height and width of "SIDE" or "WIDTHxHEIGHT", in pixels.

    Raises:
        UsageError: it is neither, or a side is too short or too long.
    """
    found = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", str(size))
    width = int(found[1]) if found else 0
    height = int(found[2] or width) if found else 0
    if not all(SHORTEST <= side <= LONGEST for side in (height, width)):
        raise UsageError(
            f"the size {size!r} is not a side, such as 32, or WIDTHxHEIGHT, such as 48x32, of "
            f"{SHORTEST} to {LONGEST} pixels"
        )
    return height, width


def read_window(text: str) -> tuple[int, int]:
    """The lowest and the highest value of a window for 16-bit images, "LOW-HIGH".

    Raises:
        UsageError: it is not two values of 16 bits, the lower one first.
    """
    low, _, high = text.partition("-")
    if low.isdecimal() and high.isdecimal() and int(low) < int(high) < 2**16:
        return int(low), int(high)
    raise UsageError(f"the window {text!r} is not LOW-HIGH, such as 0-65535 or 0-4095")


def fewest_channels(grey: bool, transparent: bool) -> int:
    """Channels that show all there is in images: 1 to 4."""
    return (1 if grey else 3) + transparent


def kept_channels(decoded: int, wanted: int) -> list[int]:
    """Which channels of images decoded to 4, or to just those wanted, are kept: of grey images all
    colours are alike, and alpha comes last."""
    if decoded == wanted:
        return list(range(wanted))
    return {1: [0], 2: [0, 3], 3: [0, 1, 2]}[wanted]


def with_channels(pixels: bytes, channels: int, wanted: int) -> bytes:
    """An image's bytes with as many channels as it is decoded to: what `kept_channels` left out
    follows from what is there."""
    if channels == wanted:
        return pixels
    size = len(pixels) // channels
    planes = [pixels[start : start + size] for start in range(0, len(pixels), size)]
    colours = planes[:1] * 3 if channels < 3 else planes[:3]
    return b"".join([*colours, planes[-1] if has_alpha(channels) else b"\xff" * size])
