"""Whether samples are copies: the share that is closer to training than to test images, and a
picture of samples above their nearest training images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from genkit.data import ImageData
from genkit.evaluation.nearest import Nearest, closer_to_train
from genkit.features import ImageSet
from genkit.metrics import Reference, choice
from genkit.report.protocol_card import FLAGGED
from genkit.report.rows import NearestShares
from genkit.sampling.grids import make_grid, save_png

MOST_IMAGES, FEWEST_IMAGES = 2000, 200
PIXEL_WORK = 2e11  # products of two pixels that a search may take: some seconds on one core
SURPRISE = 3.0  # standard deviations above the share of fresh images
PANEL = 16  # samples in the picture


@dataclass(frozen=True)
class Memorisation:
    """Nearest neighbours of samples, in pixels and in features.

    Args:
        samples: those looked at, uint8, (n, C, H, W).
        train: the training split, uint8, (N, C, H, W).
    """

    samples: Tensor
    train: Tensor
    pixels: Nearest
    features: Nearest | None

    @classmethod
    def measure(
        cls,
        images: Tensor,
        data: ImageData,
        samples: ImageSet | None = None,
        reference: Reference | None = None,
        places: Tensor | None = None,
    ) -> Memorisation | None:
        """Find the neighbours of up to 2,000 of the images, a seeded choice; None for the only
        test image, which has no others to be close to.

        Args:
            images: uint8, (n, C, H, W).
            samples, reference: the same images with features, and what to compare them with.
            places: int64, (n,), where each image stands in the test split, if it is from there.
        """
        train, test = torch.from_numpy(data.train.images), torch.from_numpy(data.test.images)
        if places is not None and len(test) < 2:
            return None
        work = (len(train) + len(test)) * data.shape.dimensions
        count = int(min(max(PIXEL_WORK / work, FEWEST_IMAGES), MOST_IMAGES))
        chosen = choice(len(images), count, 0)
        own = None if places is None else places[chosen]
        looked = images[chosen]
        pixels = closer_to_train(looked.flatten(1), train.flatten(1), test.flatten(1), own)
        features = None
        if samples is not None and reference is not None:
            features = closer_to_train(
                samples.features[chosen], reference.train.features, reference.test.features, own
            )
        return cls(looked, train, pixels, features)

    @property
    def shares(self) -> NearestShares:
        """The shares of samples closer to the training split; flagged if one of them is above 0.6,
        and not by chance."""
        found: dict[str, float] = {}
        flagged = False
        for space, nearest in (("pixels", self.pixels), ("features", self.features)):
            if nearest is not None:
                found |= {space: nearest.share, f"{space}_deviation": nearest.deviation}
                flagged |= nearest.share > FLAGGED and nearest.surprise > SURPRISE
        shares = NearestShares(images=len(self.samples), flagged=flagged)
        return shares.model_copy(update=found)

    def save_panel(self, path: Path) -> None:
        """Write a PNG: the 16 samples most like copies, those that are closest to a training image
        for their distance to a test image; below each its nearest training images, in pixels and
        in features."""
        ratio = self.pixels.train_distances / self.pixels.test_distances.clamp(min=1e-9)
        chosen = ratio.argsort()[:PANEL]
        rows = [self.samples[chosen]]
        for nearest in (self.pixels, self.features):
            if nearest is not None:
                rows.append(self.train[nearest.train_places[chosen]])
        save_png(make_grid(torch.cat(rows), columns=len(chosen)), path)
