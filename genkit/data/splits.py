"""What a data set returns: training and test images with their labels, as uint8 arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """Images of one split.

    Args:
        images: uint8, (N, C, H, W), 0 to 255, C 1 to 4; for 2 and 4 see `genkit.data.alpha`.
        labels: int64, (N,), 0 to the number of classes - 1, or None.
        intensities: for data that is binarised at random, the probability of white times 255:
            uint8, (N, C, H, W). `images` is one such draw; training draws new pixels at each
            visit, everything else takes `images`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    intensities: NDArray[np.uint8] | None = None

    def look(self, count: int) -> NDArray[np.uint8]:
        """Up to `count` of the images, evenly spaced: of data sorted by class, all classes."""
        shown = min(count, len(self.images))
        return self.images[np.arange(shown) * len(self.images) // max(shown, 1)]


@dataclass(frozen=True)
class Splits:
    """What a data set's loader returns.

    Args:
        train: images to learn from.
        test: images held out by the data set's authors; None lets genkit hold some out.
        classes: the classes' names, in the order of the labels; empty without labels.
        notes: one line each on what the user should know, such as files that were skipped.
        fingerprint: of the arrays when they were stored; if it differs now, they are refused.
        held_out: `test` was taken from the training images by `hold_out`.
    """

    train: Split
    test: Split | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fingerprint: str | None = None
    held_out: bool = False
