"""MNIST in black and white, as likelihoods are published: binarised at random or at a threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genkit.data import Split, Splits
from genkit_datasets import BinaryConfig, classic, mini

SEED = 0
THRESHOLD = 128


def load_mnist(config: BinaryConfig, source: str | None, root: Path) -> Splits:
    """`mnist`, binarised."""
    return binarise(classic.load_mnist(config, source, root), config.binarisation)


def load_mnist_mini(config: BinaryConfig, source: str | None, root: Path) -> Splits:
    """`mnist-mini`, binarised."""
    return binarise(mini.load(config, source, root), config.binarisation)


def binarise(splits: Splits, binarisation: str) -> Splits:
    """Grey images, uint8 (N, 1, H, W), 0 to 255, as black and white ones, 0 or 255.

    "stochastic" (Salakhutdinov and Murray 2008; Burda et al. 2016, arXiv 1509.00519, section 5):
    a pixel is white with probability value / 255. Training draws it again at each visit; the
    images of both splits are one draw, always the same. "threshold": white from 128 on.
    """
    train, test = splits.train, splits.test
    assert test is not None  # both loaders have one
    if binarisation == "threshold":
        white = [split.images >= THRESHOLD for split in (train, test)]
        intensities = None
    else:
        # RandomState's stream never changes. Of 0 to 254, `value` numbers are less than `value`.
        random = np.random.RandomState(SEED)
        white = [
            random.randint(255, size=split.images.shape, dtype=np.uint8) < split.images
            for split in (train, test)
        ]
        intensities = train.images
    return Splits(
        Split(_to_bytes(white[0]), train.labels, intensities),
        Split(_to_bytes(white[1]), test.labels),
        splits.classes,
    )


def _to_bytes(white: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return white.astype(np.uint8) * np.uint8(255)
