"""Whether samples are copies: the share that is closer to training than to test images, how many
are at least, and a picture of samples above their nearest training images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from genkit.compute.cache import cache_folder, read_cached, write_cached
from genkit.data import ImageData
from genkit.evaluation.copies import Copies, count_copies, nearest_moved, ratios
from genkit.evaluation.nearest import Nearest, closer_to_train
from genkit.features import ImageSet
from genkit.metrics import Reference, choice
from genkit.report.protocol_card import FLAGGED
from genkit.report.rows import NearestShares
from genkit.sampling.grids import make_grid, save_png

MOST_IMAGES, FEWEST_IMAGES = 2000, 200
PIXEL_WORK = 2e11  # products of two pixels that a search may take: some seconds on one core
SURPRISE = 3.0  # standard deviations above the share of fresh images
MOVED = 500  # samples that are compared in 18 positions
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
    copies: Copies | None = None

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
        copies = None
        if len(test) > 1:
            unseen = _unseen(data, reference, count)
            found = [
                count_copies(_ratios(each), each.train_places, unseen[name])
                for name, each in (("pixels", pixels), ("features", features))
                if each is not None and name in unseen
            ]
            found.append(count_copies(*_moved(looked[:MOVED], train, test, own), unseen["moved"]))
            copies = max(found, key=lambda each: each.at_least / each.looked)
        return cls(looked, train, pixels, features, copies)

    @property
    def shares(self) -> NearestShares:
        """The shares of samples closer to the training split, and how many are copies; flagged if a
        share is above 0.6, and not by chance, or if there are copies."""
        found: dict[str, float | int] = {}
        flagged = False
        for space, nearest in (("pixels", self.pixels), ("features", self.features)):
            if nearest is not None:
                found |= {space: nearest.share, f"{space}_deviation": nearest.deviation}
                flagged |= nearest.share > FLAGGED and nearest.surprise > SURPRISE
        if self.copies:
            flagged |= self.copies.at_least > 0
            found |= {"copies": self.copies.at_least, "copies_of": self.copies.looked}
        shares = NearestShares(images=len(self.samples), flagged=flagged)
        return shares.model_copy(update=found)

    def save_panel(self, path: Path) -> None:
        """Write a PNG: the 16 samples most like copies, those that are closest to a training image
        for their distance to a test image; below each its nearest training images, in pixels and
        in features."""
        chosen = _ratios(self.pixels).argsort()[:PANEL]
        rows = [self.samples[chosen]]
        for nearest in (self.pixels, self.features):
            if nearest is not None:
                rows.append(self.train[nearest.train_places[chosen]])
        save_png(make_grid(torch.cat(rows), columns=len(chosen)), path)


def _ratios(nearest: Nearest) -> Tensor:
    return ratios(nearest.train_distances, nearest.test_distances)


def _moved(
    images: Tensor, train: Tensor, test: Tensor, own: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Ratios and nearest training images of images that may be shifted or mirrored copies."""
    own = None if own is None else own[: len(images)]
    distances, places = nearest_moved(images, train)
    others, _ = nearest_moved(images, test, own)
    return ratios(distances, others), places


def _unseen(data: ImageData, reference: Reference | None, count: int) -> dict[str, Tensor]:
    """How near unseen real images are to training images, by kind of distance: ratios, (m,), of up
    to `count` test images, kept in the cache."""
    features = reference.train.extractor.identity if reference else "none"
    name = f"{data.fingerprint[:32]}-{features}-{count}.safetensors"
    path = cache_folder("unseen") / name
    if (kept := read_cached(path)) is not None:
        return kept
    train, test = torch.from_numpy(data.train.images), torch.from_numpy(data.test.images)
    own = choice(len(test), count, 1)
    pixels = closer_to_train(test[own].flatten(1), train.flatten(1), test.flatten(1), own)
    found = {"pixels": _ratios(pixels)}
    if reference:
        vectors = reference.test.features
        found["features"] = _ratios(
            closer_to_train(vectors[own], reference.train.features, vectors, own)
        )
    found["moved"] = _moved(test[own[:MOVED]], train, test, own)[0]
    write_cached(path, found)
    return found
