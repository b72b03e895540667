"""Transparency: images at rest are premultiplied; files and other programs have straight colours.

Premultiplied means that grey or RGB values were multiplied by their alpha, so they are never above
it, and a transparent pixel has no hidden colour that a model would learn or a score would count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genkit.specs import ImageShape

CHECKERS = (170, 204)  # grey levels of the two squares
CHECKER_PIXELS = 4  # a side of a square


def has_alpha(channels: int) -> bool:
    """Whether the last of so many channels is alpha: grey and alpha, or RGB and alpha."""
    return channels in (2, 4)


def premultiply(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Straight images, uint8 (N, C, H, W), 0 to 255, alpha last, as premultiplied ones."""
    alpha = images[:, -1:]
    colours = images[:, :-1].astype(np.uint16) * alpha
    return np.concatenate([((colours + 127) // 255).astype(np.uint8), alpha], axis=1)


def straighten(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied images, uint8 (N, C, H, W), as straight ones; transparent pixels are black.

    `premultiply` gives the premultiplied images again, bit for bit.
    """
    alpha = images[:, -1:].astype(np.uint16)
    divisor = np.maximum(alpha, 1)
    colours = (images[:, :-1].astype(np.uint16) * 255 + divisor // 2) // divisor
    return np.concatenate([colours, alpha], axis=1).astype(np.uint8)


def over_white(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied images, uint8 (N, C, H, W), on white: (N, C - 1, H, W)."""
    return np.add(images[:, :-1], 255 - images[:, -1:], dtype=np.uint8)


def over_black(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied images, uint8 (N, C, H, W), on black: (N, C - 1, H, W)."""
    colours: NDArray[np.uint8] = images[:, :-1]
    return colours


def over_checkers(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied images, uint8 (N, C, H, W), on a checkerboard of greys: (N, C - 1, H, W)."""
    rows, columns = (np.arange(side) // CHECKER_PIXELS for side in images.shape[2:])
    board = np.array(CHECKERS, np.uint16)[(rows[:, None] + columns) % 2]  # (H, W)
    rest = ((255 - images[:, -1:]) * board + 127) // 255
    return np.add(images[:, :-1], rest.astype(np.uint8), dtype=np.uint8)


def without_alpha(shape: ImageShape) -> ImageShape:
    """The shape of images of `shape` on a background."""
    channels = shape.channels - has_alpha(shape.channels)
    return ImageShape(channels, shape.height, shape.width, shape.classes)
