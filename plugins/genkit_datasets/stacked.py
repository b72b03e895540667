"""Stacked MNIST: three digits as the three colours of an image, 1,000 classes known to be there.

(Metz et al. 2017, arXiv 1611.02163, section 3.3.1: a test of whether a GAN drops modes.)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from genkit.data import Split, Splits
from genkit.specs import Config
from genkit_datasets import classic, mini

SEED = 0
PER_DIGIT = 2  # images for each digit of a split, each of three digits drawn at random


def load_mnist(config: Config, source: str | None, root: Path) -> Splits:
    """`mnist`, stacked: 120,000 + 20,000 images, 3 x 28 x 28."""
    return stack(classic.load_mnist(config, source, root))


def load_mnist_mini(config: Config, source: str | None, root: Path) -> Splits:
    """`mnist-mini`, stacked: 20,000 + 4,000 images, 3 x 28 x 28."""
    return stack(mini.load(config, source, root))


def stack(splits: Splits) -> Splits:
    """Digits, uint8 (N, 1, H, W) with labels, as images of three, (2 N, 3, H, W): one draw, always
    the same. The label is the number that the digits of red, green and blue make."""
    random = np.random.RandomState(SEED)  # whose stream never changes

    def stacked(split: Split) -> Split:
        assert split.labels is not None  # both loaders have them
        count = len(split.images)
        chosen = random.randint(count, size=(PER_DIGIT * count, 3))
        labels = split.labels[chosen] @ np.array([100, 10, 1])
        return Split(split.images[chosen, 0], labels)

    assert splits.test is not None
    names = tuple(f"{number:03}" for number in range(1000))
    return Splits(stacked(splits.train), stacked(splits.test), names)
