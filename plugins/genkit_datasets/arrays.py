"""Images from an .npz file: which array is what, and in which order its axes are."""

from __future__ import annotations

import os
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit.data import Split, Splits, combine, hold_out_in_place, premultiply
from genkit.errors import UsageError
from genkit.specs import Attributes, Config

ROWS = 64  # images changed together
NAMES = "attribute_names"
EXPECTED = "(N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 to 4"
# What zipfile and numpy raise for archives that are damaged, locked or hold Python objects.
ERRORS_OF_UNREADABLE_FILES = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, MemoryError, SyntaxError),
    *(OverflowError, zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


def load(config: Config, source: str, root: Path) -> Splits:
    """Splits from `train_images` and `test_images`, or from `images`, `arr_0` or the only array.

    Images are uint8, (N, H, W), (N, H, W, C) or (N, C, H, W), 0 to 255; of 2 and 4 channels the
    last is alpha, and is straight. Labels come from `train_labels` and `test_labels`, or from
    `labels`: integers, (N,) or (N, 1), of any values; each value is a class. Labels of several
    attributes are numbers, (N, K), and each combination is a class; `attribute_names` has K texts.

    Raises:
        UsageError: the file cannot be read, or its arrays are not images and labels.
    """
    path = Path(os.path.expanduser(source))
    arrays = _read(path)
    train_key = _find_images(path, arrays)
    has_test = train_key == "train_images" and "test_images" in arrays
    keys = [(train_key, "train_labels" if train_key == "train_images" else "labels")]
    keys += [("test_images", "test_labels")] if has_test else []
    images = [_as_images(path, images_key, arrays[images_key]) for images_key, _ in keys]
    if has_test and images[0].shape[1:] != images[1].shape[1:]:
        raise UsageError(
            f"training and test images in {path} differ in shape: "
            f"{images[0].shape[1:]} and {images[1].shape[1:]}"
        )
    labels = [
        _as_labels(path, key, arrays[key], len(part))
        for (_, key), part in zip(keys, images, strict=True)
        if key in arrays
    ]
    used = {key for pair in keys for key in pair}
    used |= {NAMES} if labels and labels[0].ndim == 2 else set()
    unused = sorted(set(arrays) - used)
    notes = [f"{path.name}: not used: {', '.join(unused)}"] if unused else []
    if len(labels) < len(images):
        if labels:
            notes.append(f"{path.name}: labels of one split are missing, so none are used")
        return _splits(path, [Split(part) for part in images], (), notes)
    found, classes, attributes = _to_classes(path, labels, arrays.get(NAMES))
    parts = np.split(found.astype(np.int64), [len(labels[0])])
    splits = [Split(part, own) for part, own in zip(images, parts, strict=False)]
    return _splits(path, splits, classes, notes, attributes)


def _splits(
    path: Path,
    parts: list[Split],
    classes: tuple[str, ...],
    notes: list[str],
    attributes: Attributes | None = None,
) -> Splits:
    """Splits of the training part and the test part; without one, some images are held out."""
    if not len(parts[0].images):
        return Splits(parts[0])
    if held_out := len(parts) == 1:
        parts = list(hold_out_in_place(parts[0], f"npz:{path}"))
    return Splits(
        parts[0], parts[1], classes, tuple(notes), held_out=held_out, attributes=attributes
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of the file by name."""
    if not os.path.isfile(path):
        problem = "is not a file" if os.path.exists(path) else "does not exist"
        raise UsageError(f"{path} {problem}; write --data npz:PATH with the path of an .npz file")
    try:
        if not zipfile.is_zipfile(path):
            raise UsageError(
                f"{path} is not an .npz file; write one with "
                "numpy.savez_compressed(path, images=array)"
            )
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore", UserWarning)  # of files that Python 2 wrote
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except ERRORS_OF_UNREADABLE_FILES as error:
        raise UsageError(f"{path} cannot be read as arrays of numbers: {error}") from error


def _find_images(path: Path, arrays: dict[str, NDArray[Any]]) -> str:
    for key in ("train_images", "images", "arr_0"):
        if key in arrays:
            return key
    if len(arrays) == 1:
        return next(iter(arrays))
    raise UsageError(
        f"{path} holds {', '.join(arrays) or 'no arrays'}; expected are 'images', or "
        "'train_images' and 'test_images'"
    )


def _as_images(path: Path, key: str, array: NDArray[Any]) -> NDArray[np.uint8]:
    """An array in any of the `EXPECTED` layouts as uint8, (N, C, H, W)."""
    shape: tuple[int, ...] = getattr(array, "shape", ())
    found = f"{key!r} in {path} is {getattr(array, 'dtype', 'not an array')} {shape}"
    if getattr(array, "dtype", None) != np.uint8:
        raise UsageError(f"{found}; expected are uint8 values, 0 to 255, {EXPECTED}")
    if len(shape) == 3:
        array = array[:, None]  # (N, H, W) -> (N, 1, H, W)
    elif len(shape) != 4 or not {shape[1], shape[3]} & {1, 2, 3, 4}:
        raise UsageError(f"{found}; expected is the shape {EXPECTED}")
    elif shape[3] in (1, 3) or (shape[3] in (2, 4) and shape[1] not in (1, 3)):
        array = array.transpose(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
    if 0 in array.shape[2:]:
        raise UsageError(f"{found}: its images have no pixels")
    if array.shape[1] in (2, 4):
        for start in range(0, len(array), ROWS):
            array[start : start + ROWS] = premultiply(array[start : start + ROWS])
    return array if array.flags.c_contiguous else _reordered(array)


def _reordered(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, C, H, W) whose channels come last in memory, C-contiguous, in the same memory: a second
    array would double what a large file takes."""
    count, *shape = array.shape
    last = array.transpose(0, 2, 3, 1)  # as it lies there
    if not (last.flags.c_contiguous and last.flags.writeable):
        return np.ascontiguousarray(array)
    memory = last.reshape(count, -1)  # a view
    for start in range(0, count, ROWS):
        part = array[start : start + ROWS].copy()
        memory[start : start + ROWS] = part.reshape(len(part), -1)
    return memory.reshape(count, *shape)


def _as_labels(path: Path, key: str, array: NDArray[Any], count: int) -> NDArray[Any]:
    """Integers, (count,) or (count, 1), as (count,); or several attributes, (count, K)."""
    shape: tuple[int, ...] = getattr(array, "shape", ())
    if shape in ((count,), (count, 1)) and array.dtype.kind in "iu":
        return array.reshape(count)
    if len(shape) == 2 and shape[0] == count and shape[1] > 1 and array.dtype.kind in "iufb":
        return array
    raise UsageError(
        f"{key!r} in {path} is {getattr(array, 'dtype', 'not an array')} {shape}; expected are "
        f"{count} integers, one for each image, or a row of numbers for each"
    )


def _to_classes(
    path: Path, labels: list[NDArray[Any]], names: NDArray[Any] | None
) -> tuple[NDArray[np.int64], tuple[str, ...], Attributes | None]:
    """Labels of all splits, int64, the classes' names, and what the classes are combinations of.

    Args:
        names: of the attributes, as the file gives them; without it they are a0, a1 and so on.
    """
    if len({own.shape[1:] for own in labels}) > 1:
        raise UsageError(f"training and test labels in {path} have different numbers of attributes")
    if labels[0].ndim == 1:
        values, found = np.unique(np.concatenate(labels), return_inverse=True)
        return found.astype(np.int64), tuple(map(str, values)), None
    width = labels[0].shape[1]
    if names is None:
        names = np.array([f"a{number}" for number in range(width)])
    if names.dtype.kind != "U" or names.shape != (width,) or len({*names.tolist()}) < width:
        raise UsageError(
            f"{NAMES!r} in {path} is {names.dtype} {names.shape}; expected are {width} different "
            "texts, one for each attribute"
        )
    return combine(np.concatenate(labels), names.tolist())
