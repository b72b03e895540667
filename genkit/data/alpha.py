"""Transparency: images at rest are premultiplied; files and other programs have straight colours.

Premultiplied means that grey or RGB values were multiplied by their alpha, so they are never above
it, and a transparent pixel has no hidden colour that a model would learn or a score would count.
Images are uint8, (N, C, H, W), 0 to 255, alpha last; those without alpha are left as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHECKERS = (170, 204)  # grey levels of the two squares
ROWS = 256  # images looked at together
CHECKER_PIXELS = 4  # a side of a square


def has_alpha(channels: int) -> bool:
    """Whether the last of so many channels is alpha: grey and alpha, or RGB and alpha."""
    return channels in (2, 4)


def is_grey(image: NDArray[np.uint8]) -> bool:
    """Whether the colours of an image, (C, H, W), are alike."""
    colours = image[:-1] if has_alpha(len(image)) else image
    return bool((colours == colours[:1]).all())


def is_premultiplied(images: NDArray[np.uint8]) -> bool:
    """Whether no colour is above its alpha."""
    if not has_alpha(images.shape[1]):
        return True
    parts = (images[start : start + ROWS] for start in range(0, len(images), ROWS))
    return all(bool((part[:, :-1] <= part[:, -1:]).all()) for part in parts)


def premultiply(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Straight images as premultiplied ones."""
    if not has_alpha(images.shape[1]):
        return images
    alpha = images[:, -1:]
    colours = images[:, :-1].astype(np.uint16) * alpha
    return np.concatenate([((colours + 127) // 255).astype(np.uint8), alpha], axis=1)


def straighten(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied images as straight ones, which `premultiply` turns into the same bytes again.
    Transparent pixels are black."""
    if not has_alpha(images.shape[1]):
        return images
    alpha = images[:, -1:].astype(np.uint16)
    divisor = np.maximum(alpha, 1)
    colours = (images[:, :-1].astype(np.uint16) * 255 + divisor // 2) // divisor
    return np.concatenate([colours, alpha], axis=1).astype(np.uint8)


def over_white(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied images on white: (N, 1 or 3, H, W)."""
    if not has_alpha(images.shape[1]):
        return images
    return np.add(images[:, :-1], 255 - images[:, -1:], dtype=np.uint8)


def over_black(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied images on black: (N, 1 or 3, H, W)."""
    if not has_alpha(images.shape[1]):
        return images
    colours: NDArray[np.uint8] = images[:, :-1]
    return colours


def over_checkers(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied images on a checkerboard of greys: (N, 1 or 3, H, W)."""
    if not has_alpha(images.shape[1]):
        return images
    rows, columns = (np.arange(side) // CHECKER_PIXELS for side in images.shape[2:])
    board = np.array(CHECKERS, np.uint16)[(rows[:, None] + columns) % 2]  # (H, W)
    behind = (((255 - images[:, -1:]) * board + 127) // 255).astype(np.uint8)
    shown: NDArray[np.uint8] = images[:, :-1] + behind
    return shown
