"""Mean and deviation of images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_VALUES = 2**24  # that are looked at


def mean_and_deviation(images: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean and standard deviation of all values in [-1, 1] of images, uint8, (N, C, H, W), or of at
    most 2**24 values, of images at equal distances."""
    chosen = images[:: -(-images.size // MOST_VALUES)].reshape(-1)
    counts = np.zeros(256)
    for part in np.array_split(chosen, -(-chosen.size // 2**20)):  # bincount needs 8 times it
        counts += np.bincount(part, minlength=256)
    values = np.arange(256) / 127.5 - 1
    mean = float(counts @ values / counts.sum())
    return mean, float(counts @ (values - mean) ** 2 / counts.sum()) ** 0.5
