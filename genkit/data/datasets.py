"""Data sets: from what `--data` says to uint8 images in memory, split, checked and hashed.

Arrays are numpy's: `compare` looks at the data before it starts trainings, without torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from genkit.config.validation import explain, suggest
from genkit.data.alpha import is_premultiplied
from genkit.data.walk import hold_out
from genkit.errors import PluginError, UsageError, plugin_code
from genkit.specs import Config, DatasetSpec, ImageShape


@dataclass(frozen=True)
class Split:
    """Images of one split.

    Args:
        images: uint8, (N, C, H, W), C 1 to 4; for 2 and 4 see `genkit.data.alpha`.
        labels: int64, (N,), or None.
        intensities: for data that is binarised at random, the probability of white times 255,
            uint8, shaped like `images`, which are one such draw: training draws each visit's
            pixels anew, everything else takes `images`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    intensities: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Splits:
    """What a data set's loader returns.

    Args:
        train: images to learn from.
        test: images held out by the data set's authors; None lets genkit hold some out.
        classes: the classes' names, in the order of the labels; empty without labels.
        notes: one line each on what the user should know, such as files that were skipped.
        fingerprint: of stored arrays when they were stored; if it is another now, they are refused.
        held_out: `test` was taken from the training images by `hold_out`.
    """

    train: Split
    test: Split | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fingerprint: str | None = None
    held_out: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageData:
    """A data set that was opened and checked.

    Args:
        name: as the user typed it, such as "folder:sprites".
        train, test: C-contiguous, writable arrays; at least 2 and 1 images.
        classes: the classes' names, in the order of the labels; empty without labels.
        notes: one line each on what the user should know.
        features, reference: as in the data set's spec.
        held_out: genkit took the test images from the training images.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    features: str
    reference: str | None
    held_out: bool

    @property
    def shape(self) -> ImageShape:
        """Shape of each image, with the number of classes."""
        channels, height, width = self.train.images.shape[1:]
        return ImageShape(channels, height, width, len(self.classes))

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


def fingerprint_header(shape: tuple[int, ...], labelled: bool) -> bytes:
    """What a fingerprint takes in before the images of a split, whose labels follow them."""
    return f"{shape} {labelled};".encode()


def parse_data_name(text: str) -> tuple[str, str | None]:
    """What `--data` says, "NAME" or "NAME:SOURCE", as name and source.

    Raises:
        UsageError: there is no name, or a path stands in its place.
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
    if option is not None:
        return Path(os.path.expanduser(option))
    if chosen := os.environ.get("GENKIT_DATA"):
        return Path(os.path.expanduser(chosen))
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the XDG specification: a relative path counts as unset
        cache = Path(os.path.expanduser("~")) / ".cache"
    return cache / "genkit" / "data"


def open_data(
    spec: DatasetSpec,
    name: str,
    source: str | None = None,
    options: Mapping[str, object] | None = None,
    root: Path | None = None,
) -> ImageData:
    """Load the data set of `spec`, check it, and hold out test images if it has none.

    Args:
        name: what the user typed, such as "folder:sprites"; stands in messages and records.
        source: what follows the colon in it.
        options: values for the fields of `spec.config`, as strings or as Python values.
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
    config = _build_config(spec, options or {})
    with plugin_code(f"the loader of data set {spec.name!r}"):
        splits = spec.load()(config, source, data_root(root))
    _check_splits(splits, spec.name, name)
    train, test, notes = splits.train, splits.test, tuple(splits.notes)
    if test is None:
        train, test = (_take(train, chosen) for chosen in hold_out(len(train.images), name))
    held_out = splits.test is None or splits.held_out
    if held_out:
        count = len(test.images)
        notes += (
            f"{name} has no test images: genkit held out {count:,} of "
            f"{len(train.images) + count:,}, the same ones every time",
        )
    if len(train.images) < 2:
        raise UsageError(f"{name} holds a single training image; the fewest to learn from are 2")
    data = ImageData(
        name=name,
        train=_contiguous(train),
        test=_contiguous(test),
        classes=tuple(splits.classes),
        notes=notes,
        features=spec.features,
        reference=spec.reference,
        held_out=held_out,
    )
    if splits.fingerprint not in (None, data.fingerprint):
        raise UsageError(
            f"{name} is damaged: the SHA-256 of its images and labels begins with "
            f"{data.fingerprint[:8]} instead of {splits.fingerprint[:8]}; make it again"
        )
    return data


def _build_config(spec: DatasetSpec, options: Mapping[str, object]) -> Config:
    """`spec.config` with `options`; hyphens in their names count as underscores."""
    known = spec.config.model_fields
    values = {option.replace("-", "_"): value for option, value in options.items()}
    for option in values:
        if option not in known:
            has = f"its options are: {', '.join(known)}" if known else "it has none"
            raise UsageError(
                f"{spec.name} has no data option {option!r}; {has}.{suggest(option, known)}"
            )
    try:
        return spec.config.model_validate(values)
    except ValidationError as error:
        raise UsageError(explain(error, f"data option of {spec.name}, ")) from None


def _check_splits(splits: Splits, spec_name: str, name: str) -> None:
    """Raise `PluginError` unless a loader returned what its contract says."""

    whose = f"the loader of data set {spec_name!r}"

    def require(kept: bool, problem: str) -> None:
        if not kept:
            raise PluginError(f"{whose} {problem}")

    require(isinstance(splits, Splits), f"returned {type(splits).__name__} instead of Splits")
    for part, split in (("train", splits.train), ("test", splits.test)):
        if split is None and part == "test":
            continue
        if not isinstance(split, Split):
            raise PluginError(f"{whose} gave {type(split).__name__} as {part}, not a Split")
        images, labels = split.images, split.labels
        require(isinstance(images, np.ndarray), f"gave {part} images that are no numpy array")
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
                f"gave {part} intensities that are no uint8 array of shape {images.shape}",
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


def _take(split: Split, indices: NDArray[np.int64]) -> Split:
    return _each_array(split, lambda array: array[indices])


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
