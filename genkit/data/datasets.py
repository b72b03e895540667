"""Data sets: from what `--data` says to uint8 images in memory, split, checked and hashed.

Arrays are numpy's: `compare` looks at the data before it starts trainings, without torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from genkit.config.validation import explain, suggest
from genkit.data.splits import Augmentation, Split, check_splits
from genkit.data.walk import hold_out
from genkit.errors import UsageError, plugin_code
from genkit.io.files import user_cache
from genkit.specs import Attributes, Config, DatasetSpec, ImageFacts, ImageShape

MOST_VALUES = 2**24  # of which mean and deviation are taken


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """A data set that was opened and checked.

    Args:
        name: as the user typed it, such as "folder:sprites".
        train, test: C-contiguous, writable arrays; at least 2 images and 1 image.
        classes: the classes' names, in the order of the labels; empty without labels.
        notes: one line each on what the user should know.
        features, reference: as in the data set's spec.
        held_out: genkit took the test images from the training images.
        attributes: what the classes are combinations of, if they are.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    features: str
    reference: str | None
    held_out: bool
    attributes: Attributes | None = None

    @cached_property
    def shape(self) -> ImageShape:
        """Shape of each image, with the number of classes and their shares of training."""
        channels, height, width = self.train.images.shape[1:]
        classes, labels = len(self.classes), self.train.labels
        counts = np.bincount(labels, minlength=classes) if labels is not None else np.empty(0)
        shares = tuple((counts / max(counts.sum(), 1)).tolist())
        return ImageShape(channels, height, width, classes, shares)

    @cached_property
    def model_shape(self) -> ImageShape:
        """The shape with all facts about the training images that a model may use."""
        mean, deviation = mean_and_deviation(self.train.images)
        return replace(
            self.shape,
            class_names=self.classes,
            train_images=len(self.train.images),
            mean=mean,
            deviation=deviation,
            attributes=self.attributes,
        )

    @property
    def facts(self) -> ImageFacts:
        """What presets are fitted to, by 2,000 images: 26 to 229 is neither black nor white."""
        greys = np.bincount(self.train.look(2000).ravel(), minlength=256)
        between = greys[26:230].sum() / greys.sum()
        return ImageFacts(self.shape, len(self.train.images), round(float(between), 3))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of the shapes and bytes of all arrays of both splits."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(fingerprint_header(split.images.shape, split.labels is not None))
            digest.update(split.images.data)
            if split.labels is not None:
                digest.update(split.labels.astype("<i8").data)  # the same on every machine
            if split.intensities is not None:
                digest.update(b"intensities;")
                digest.update(split.intensities.data)
        return digest.hexdigest()


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


def fingerprint_header(shape: tuple[int, ...], labelled: bool) -> bytes:
    """What a fingerprint hashes before the images of a split of `shape` (N, C, H, W)."""
    return f"{shape} {labelled};".encode()


def parse_data_name(text: str) -> tuple[str, str | None]:
    """Name and source in what `--data` says, "NAME" or "NAME:SOURCE".

    Raises:
        UsageError: there is no name, or there is a path in its place.
    """
    name, _, source = text.partition(":")
    if not name.strip():
        raise UsageError(f"--data {text!r} names no data set; write --data NAME or NAME:SOURCE")
    if "/" in name or os.sep in name or name in (".", ".."):
        raise UsageError(
            f"--data {text!r} is a path; write --data folder:{text} for a folder of images "
            f"or --data npz:{text} for an .npz file"
        )
    return name, source or None


def data_root(option: Path | None = None) -> Path:
    """The folder where data sets live: `option`, else $GENKIT_DATA, else in the user's cache."""
    root = option or os.environ.get("GENKIT_DATA") or user_cache() / "data"
    return Path(os.path.expanduser(root))


def open_data(
    spec: DatasetSpec,
    name: str,
    source: str | None = None,
    options: Mapping[str, object] | None = None,
    root: Path | None = None,
) -> ImageData:
    """Load the data set of `spec`, check it, and hold out test images if it has none.

    Args:
        name: what the user typed, such as "folder:sprites", for messages and records.
        source: what follows the colon in it.
        options: values for the fields of `spec.config` and of `Augmentation`, as strings or as
            Python values.
        root: the folder where data sets live; None for `data_root()`.

    Raises:
        UsageError: the source, an option or the images cannot be used.
        PluginError: the loader broke its contract.
    """
    if spec.source is None and source is not None:
        raise UsageError(f"{spec.name} takes nothing after its name: --data {spec.name}")
    if spec.source is not None and not source:
        raise UsageError(
            f"{spec.name} needs a {spec.source.lower()}: --data {spec.name}:{spec.source}"
        )
    config, given = _build_configs(spec, options or {})
    with plugin_code(f"the loader of data set {spec.name!r}"):
        splits = spec.load()(config, source, data_root(root))
    check_splits(splits, spec.name, name)
    train, test, notes = splits.train, splits.test, tuple(splits.notes)
    held_out = test is None or splits.held_out
    if test is None:
        parts = map(itemgetter, hold_out(len(train.images), name))
        train, test = (_each_array(train, part) for part in parts)
    if held_out:
        count = len(test.images)
        notes += (
            f"{name} has no test images: genkit held out {count:,} of "
            f"{len(train.images) + count:,}, the same ones every time",
        )
    if len(train.images) < 2:
        raise UsageError(f"{name} holds a single training image; the fewest to learn from are 2")
    chosen = {name: getattr(given, name) for name in given.model_fields_set}
    augmentation = splits.train.augmentation.model_copy(update=chosen)
    notes += _describe(augmentation, len(train.images))
    data = ImageData(
        name=name,
        train=replace(_contiguous(train), augmentation=augmentation),
        test=_contiguous(test),
        classes=tuple(splits.classes),
        notes=notes,
        features=spec.features or "none",
        reference=spec.reference,
        held_out=held_out,
        attributes=splits.attributes,
    )
    if splits.fingerprint not in (None, data.fingerprint):
        raise UsageError(
            f"{name} is damaged: the SHA-256 of its images and labels begins with "
            f"{data.fingerprint[:8]} instead of {splits.fingerprint[:8]}; make it again"
        )
    return _transposed(data) if augmentation.transpose else data


def _describe(how: Augmentation, count: int) -> tuple[str, ...]:
    """A line for each way in which the training images are not learned from as they are."""
    lines = ["rows and columns of all images are exchanged (transpose)"] if how.transpose else []
    if how.images:
        number = len(how.chosen(count))
        lines.append(f"{number:,} of {count:,} images are learned from; scores compare with all")
    if how.moves:
        moves = str(how.model_copy(update={"images": 0, "transpose": False}))
        lines.append(
            f"training images are changed at random at each visit ({moves}); test images, and "
            "those that samples are compared with, are not"
        )
    return tuple(lines)


def _transposed(data: ImageData) -> ImageData:
    """The data set with rows and columns of its images exchanged; no statistics are known of it."""

    def turned(split: Split) -> Split:
        def turn(array: NDArray[Any]) -> NDArray[Any]:
            return np.ascontiguousarray(array.swapaxes(2, 3)) if array.ndim == 4 else array

        return replace(_each_array(split, turn), augmentation=split.augmentation)

    return replace(data, train=turned(data.train), test=turned(data.test), reference=None)


def _build_configs(spec: DatasetSpec, options: Mapping[str, object]) -> tuple[Config, Augmentation]:
    """`spec.config` and how training images are changed, with `options`; hyphens in their names
    count as underscores. A data set's own option comes before one of `Augmentation`."""
    own, common = spec.config.model_fields, Augmentation.model_fields
    known = {**own, **common}
    values = {option.replace("-", "_"): value for option, value in options.items()}
    for option in values:
        if option not in known:
            raise UsageError(
                f"{spec.name} has no data option {option!r}; its options are: {', '.join(known)}."
                f"{suggest(option, known)}"
            )
    try:
        return spec.config.model_validate(
            {option: value for option, value in values.items() if option in own}
        ), Augmentation.model_validate(
            {option: value for option, value in values.items() if option not in own}
        )
    except ValidationError as error:
        raise UsageError(explain(error, f"data option of {spec.name}, ")) from None


def _contiguous(split: Split) -> Split:
    """The split as C-contiguous, writable arrays, as torch wants them; copied only if need be."""
    return _each_array(split, lambda array: np.require(array, requirements=["C", "W"]))


def _each_array(split: Split, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Split:
    """The split with each of its arrays changed."""
    labels, intensities = split.labels, split.intensities
    return Split(
        change(split.images),
        None if labels is None else change(labels),
        None if intensities is None else change(intensities),
    )
