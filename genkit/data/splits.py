"""What a data set returns: training and test images with their labels, as uint8 arrays; and how
training images are learned from: which, and how they are changed at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genkit.data.alpha import is_premultiplied
from genkit.data.walk import hold_out
from genkit.errors import PluginError, UsageError
from genkit.specs import Attributes, Config, option

MOST_COMBINATIONS = 10_000  # of attributes

CHOICE_SEED = 20_240_601  # of the images that `images` leaves


class Augmentation(Config):
    """How training images are learned from: options that every data set has."""

    flip: bool = option(False, "in training, mirror half of the images, left to right")
    shift: int = option(
        0,
        "in training, move images by up to so many pixels along each side; edges are repeated",
        ge=0,
        le=32,
    )
    images: int = option(
        0, "in training, learn from so many of the images only, always the same; 0: all", ge=0
    )
    transpose: bool = option(
        False, "exchange rows and columns of all images, in training and in scores"
    )

    @property
    def moves(self) -> bool:
        """Whether images are changed at random at each visit."""
        return self.flip or self.shift > 0

    def chosen(self, count: int) -> NDArray[np.int64]:
        """Which of `count` images are learned from, int64, in ascending order: fewer are among
        more. UsageError if there are not so many."""
        if self.images == 1 or self.images > count:
            raise UsageError(f"data option images={self.images}: give 2 to {count:,}, or 0 for all")
        # RandomState's stream never changes; default_rng's may change with numpy's version.
        order = np.random.RandomState(CHOICE_SEED).permutation(count)
        return np.sort(order[: self.images or count])

    def __str__(self) -> str:
        """The options that are on, as one writes them; empty for none."""
        return " ".join(f"{name}={str(value).lower()}" for name, value in self if value)


NO_AUGMENTATION = Augmentation()


@dataclass(frozen=True)
class Split:
    """Images of one split.

    Args:
        images: uint8, (N, C, H, W), 0 to 255, C 1 to 4; for 2 and 4 see `genkit.data.alpha`.
        labels: int64, (N,), 0 to the number of classes - 1, or None.
        intensities: for data that is binarised at random, the probability of white times 255:
            uint8, (N, C, H, W). `images` is one such draw; training draws new pixels at each
            visit, everything else takes `images`.
        augmentation: how images are changed when they are learned from; nothing else sees it, and
            the user's options come before it.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    intensities: NDArray[np.uint8] | None = None
    augmentation: Augmentation = NO_AUGMENTATION

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
        attributes: what the classes are combinations of, see `combine`; None if they are not.
    """

    train: Split
    test: Split | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fingerprint: str | None = None
    held_out: bool = False
    attributes: Attributes | None = None


def combine(
    values: ArrayLike, names: Sequence[str]
) -> tuple[NDArray[np.int64], tuple[str, ...], Attributes]:
    """Images with several attributes as images of classes: each combination that occurs is one.

    Args:
        values: of each image, numbers, (N, K); of all splits one after the other.
        names: of the attributes, (K,).

    Returns: labels, int64 (N,); the classes' names, such as "colour=2 size=0", or of attributes
    that are 0 or 1 the names of those that are 1, such as "hat glasses"; and their attributes.

    Raises:
        UsageError: values are not finite numbers, (N, K), or have too many combinations.
    """
    given = np.asarray(values)
    if given.ndim != 2 or given.shape[1] != len(names) or given.dtype.kind not in "iufb":
        raise UsageError(
            f"attributes are {given.dtype} {given.shape}; expected are numbers, a row for each "
            f"image with {len(names)} values: {', '.join(names)}"
        )
    table = given.astype(np.float64)
    if not np.isfinite(table).all():
        raise UsageError("attributes hold values that are not finite")
    rows, labels = np.unique(table, axis=0, return_inverse=True)
    if len(rows) > MOST_COMBINATIONS:
        raise UsageError(
            f"attributes have {len(rows):,} different combinations, and the most are "
            f"{MOST_COMBINATIONS:,}: round them, or leave some out"
        )
    found = tuple(tuple(row) for row in rows.tolist())
    if np.isin(rows, (0, 1)).all():
        lists = [[name for name, value in zip(names, row, strict=True) if value] for row in found]
        classes = tuple(" ".join(each) or "none" for each in lists)
    else:
        pairs = [
            [f"{name}={value:g}" for name, value in zip(names, row, strict=True)] for row in found
        ]
        classes = tuple(map(" ".join, pairs))
    return labels.reshape(-1).astype(np.int64), classes, Attributes(tuple(names), found)


def hold_out_in_place(split: Split, name: str) -> tuple[Split, Split]:
    """The images that genkit would hold out of a data set without test images, and the others:
    parts of the same arrays, whose rows are moved, so that nothing is in memory twice.

    Args:
        split: all images; its arrays belong to the caller and are changed.
        name: of the data set, for messages.

    Raises:
        UsageError: there are fewer than 3 images.
    """
    train, test = hold_out(len(split.images), name)
    order = np.concatenate([train, test])
    for array in (split.images, split.labels, split.intensities):
        if array is not None:
            _reorder(array, order)

    def part(rows: slice) -> Split:
        labels, intensities = split.labels, split.intensities
        return Split(
            split.images[rows],
            None if labels is None else labels[rows],
            None if intensities is None else intensities[rows],
        )

    return part(slice(len(train))), part(slice(len(train), None))


def _reorder(array: NDArray[Any], order: NDArray[np.int64]) -> None:
    """Make `array` what array[order] is, along the cycles of the permutation: one row is kept
    beside it at a time."""
    source = order.tolist()
    for start in range(len(source)):
        if source[start] == start:
            continue
        first, place = array[start].copy(), start
        while source[place] != start:
            array[place] = array[source[place]]
            source[place], place = place, source[place]  # done
        array[place], source[place] = first, place


def check_splits(splits: Splits, spec_name: str, name: str) -> None:
    """Raise `PluginError` unless a loader returned what its contract says."""
    whose = f"the loader of data set {spec_name!r}"

    def require(holds: bool, problem: str) -> None:
        if not holds:
            raise PluginError(f"{whose} {problem}")

    require(isinstance(splits, Splits), f"returned {type(splits).__name__} instead of Splits")
    if attributes := splits.attributes:
        rows, width = len(attributes.values), len(attributes.names)
        require(
            rows == len(splits.classes) and all(len(row) == width for row in attributes.values),
            f"gave attributes that are not {len(splits.classes)} rows of {width} values, a row for "
            "each class",
        )
    for part, split in (("train", splits.train), ("test", splits.test)):
        if split is None and part == "test":
            continue
        if not isinstance(split, Split):
            raise PluginError(f"{whose} gave {type(split).__name__} as {part}, not a Split")
        images, labels = split.images, split.labels
        require(isinstance(images, np.ndarray), f"gave {part} images that are not a numpy array")
        require(images.dtype == np.uint8, f"gave {part} images of {images.dtype}, not uint8")
        require(
            images.ndim == 4 and 1 <= images.shape[1] <= 4 and min(images.shape[2:]) > 0,
            f"gave {part} images of shape {images.shape}, not (N, 1 to 4, H, W)",
        )
        require(is_premultiplied(images), f"gave {part} images whose colours are above their alpha")
        if len(images) == 0:
            raise UsageError(f"{name} holds no {part} images")
        require(
            images.shape[1:] == splits.train.images.shape[1:],
            f"gave train and test images of different shapes: "
            f"{splits.train.images.shape[1:]} and {images.shape[1:]}",
        )
        require(
            (labels is not None) == bool(splits.classes),
            f"names {len(splits.classes)} classes, but its {part} split has "
            f"{'no ' if labels is None else ''}labels",
        )
        if (intensities := split.intensities) is not None:
            require(
                isinstance(intensities, np.ndarray)
                and intensities.dtype == np.uint8
                and intensities.shape == images.shape,
                f"gave {part} intensities that are not a uint8 array of shape {images.shape}",
            )
            require(
                bool(((images == 0) | (images == 255)).all()),
                f"gave {part} intensities with images of other values than 0 and 255",
            )
        if labels is None:
            continue
        require(
            isinstance(labels, np.ndarray) and labels.dtype == np.int64,
            f"gave {part} labels of {getattr(labels, 'dtype', type(labels).__name__)}, not int64",
        )
        require(
            labels.shape == (len(images),),
            f"gave {part} labels of shape {labels.shape} for {len(images)} images",
        )
        require(
            0 <= labels.min() and labels.max() < len(splits.classes),
            f"gave {part} labels from {labels.min()} to {labels.max()} "
            f"for {len(splits.classes)} classes",
        )
