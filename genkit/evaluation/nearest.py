"""Are samples closer to the images trained on than to images held out?

Takes pixels or features, returns nearest neighbours and one share; it knows no models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 1024  # samples at a time
COLUMNS = 2048  # references at a time; 8 MiB of distances with ROWS
CANDIDATES = 4  # nearest by float32 arithmetic, of which the nearest is found exactly


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each of n samples, and how many samples are closer to those.

    Args:
        train_places: int64, (n,): place of the nearest training image, of up to 4 equals the first.
        train_distances: float64, (n,): Euclidean distance to it.
        test_distances: float64, (n,): Euclidean distance to the nearest test image.
        share: share of samples closer to the training split, as if both splits were of one size:
            0.5 for fresh images, 1 for copies, below 0.5 for samples that avoid the training split.
        deviation: standard deviation of the share.
        surprise: by how many of its standard deviations the count is above that of fresh images.
    """

    train_places: Tensor
    train_distances: Tensor
    test_distances: Tensor
    share: float
    deviation: float
    surprise: float


def closer_to_train(
    samples: Tensor, train: Tensor, test: Tensor, test_places: Tensor | None = None
) -> Nearest:
    """How many samples are closer to the training split than to the test split.

    A sample whose nearest image is of the training split counts 1, a tie one half. If samples,
    training and test images come from one distribution, the nearest of N + M images is a training
    image with probability N / (N + M). So the share r that is counted is put on the scale of equal
    splits by its odds: share / (1 - share) = r / (1 - r) / (N / M). Its deviation is that of a
    binomial r, carried over to first order; r is kept half a sample from 0 and 1 there. As samples
    count the different images that are nearest to any: samples that all look alike have one image
    nearest to them, of the training split or not, and count as one sample.

    The number is to be read beside that of real images. Splits may differ in themselves: MNIST's
    are of different writers, and its test images score 0.38 in pixels and 0.43 in features of
    digits, but 0.5 once the splits are mixed. And samples that all look alike, or like no image,
    have one nearest image and score near 0 or 1: only small distances make them copies.

    The training split is taken whole, not as a subset as large as the test split: five in six
    copies of 60,000 images have no twin in a subset of 10,000, and would pass as fresh.

    Samples, training and held-out images are the three samples of the test for data-copying of
    Meehan et al. 2020 (arXiv 2004.05675). That asks whether samples are closer to the training
    split than test images are, by a rank test in each cell of a partition. Here each sample's
    distances to both splits are compared, so that no partition is needed; a sample far from both
    still counts for the split that it is closer to.

    Candidates are ranked in float32; the distances of the best 4 are then computed again
    in float64, so that a copy has distance 0 and a tie is a tie.

    Args:
        samples: (n, D), float32 or uint8 as all three: features, or pixels one image a row.
        train: (N, D). It is converted block by block: uint8 needs no float copy of the whole.
        test: (M, D).
        test_places: int64, (n,): for samples that are test images themselves, the place of each
            in `test`, -1 for one that is not. It is left out for that sample, and M is one less.

    Raises:
        ValueError: no samples, or no images to compare them with.
    """
    test_count = len(test) - (test_places is not None)
    if min(len(samples), len(train), test_count) < 1:
        raise ValueError(
            f"{len(samples)} samples, {len(train)} training and {test_count} other test images: "
            "a comparison needs at least one of each"
        )
    train_places, train_distances = _nearest(samples, train, None)
    nearest_tests, test_distances = _nearest(samples, test, test_places)
    # sign: 1 closer to train, 0 a tie, -1 closer to test
    signs = (test_distances - train_distances).sign()
    closer = float((1 + signs).mean() / 2)
    nearest = torch.where(signs >= 0, train_places, len(train) + nearest_tests)
    different = len(torch.unique(nearest))
    share, deviation = _at_equal_sizes(closer, different, len(train), test_count)
    fresh = len(train) / (len(train) + test_count)
    surprise = (closer - fresh) / math.sqrt(fresh * (1 - fresh) / different)
    return Nearest(train_places, train_distances, test_distances, share, deviation, surprise)


def _at_equal_sizes(
    closer: float, samples: int, train_count: int, test_count: int
) -> tuple[float, float]:
    """The share closer to train if both splits were of one size, and its standard deviation."""

    def weight(r: float) -> float:  # r test_count : (1 - r) train_count are the odds of the share
        return r * test_count + (1 - r) * train_count

    r = min(max(closer, 0.5 / samples), 1 - 0.5 / samples)
    slope = train_count * test_count / weight(r) ** 2
    deviation = slope * math.sqrt(r * (1 - r) / samples)
    return closer * test_count / weight(closer), deviation


def _nearest(
    samples: Tensor, references: Tensor, own_places: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Places, int64 (n,), and distances, float64 (n,), of the samples' nearest references.

    Args:
        own_places: (n,) of a reference to leave out for each sample.
    """
    centre = samples.mean(0, dtype=torch.float32)  # large common values would cost digits
    nearest = []
    for start in range(0, len(samples), ROWS):
        rows = slice(start, start + ROWS)
        own = None if own_places is None else own_places[rows]
        scores, places = _candidates(samples[rows] - centre, references, centre, own)
        points = samples[rows].double()
        squares = torch.stack(
            [(references[column] - points).square().sum(1) for column in places.T], 1
        ).masked_fill(scores.isinf(), math.inf)  # (rows, CANDIDATES)
        least = squares.amin(1, keepdim=True)
        first = places.masked_fill(squares > least, len(references)).amin(1)
        nearest.append((first, least[:, 0].sqrt()))
    return torch.cat([part[0] for part in nearest]), torch.cat([part[1] for part in nearest])


def _candidates(
    points: Tensor, references: Tensor, centre: Tensor, own_places: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scores and places, (rows, CANDIDATES), of the nearest references by float32 arithmetic.

    A score is the squared distance less the point's own square, |b|^2 - 2 a b, and infinite where
    there are fewer references than candidates.
    """
    scores = points.new_full((len(points), CANDIDATES), math.inf)
    places = torch.zeros_like(scores, dtype=torch.long)
    for start in range(0, len(references), COLUMNS):
        block = references[start : start + COLUMNS] - centre  # float32, of uint8, too
        found = torch.addmm(block.square().sum(1), points, block.T, alpha=-2)
        if own_places is not None:
            here = ((own_places >= start) & (own_places < start + len(block))).nonzero()[:, 0]
            found[here, own_places[here] - start] = math.inf
        best, where = found.topk(min(CANDIDATES, len(block)), largest=False)
        scores, order = torch.cat([scores, best], 1).topk(CANDIDATES, largest=False)
        places = torch.cat([places, where + start], 1).gather(1, order)
    return scores, places
