"""Which images there are below a folder, and which are for training, for testing, of which class.

Reads names and metadata only; `genkit.data.decode` opens the files.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genkit.errors import UsageError, printable
from genkit.io.records import Record

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# What people call the folders of training images, of test images and, if there are none of these,
# of validation images; in any case, with or without "set" or "images".
TRAIN_NAMES = ("train", "training")
TEST_NAMES = (("test", "testing"), ("val", "valid", "validation", "eval"))
OUTSIDE_SPLITS = "lies outside train and test"
MOST_NOTES = 10
FULL_WINDOW = "0-65535"  # values of 16-bit images that become 0 and 255
HELD_OUT_FRACTION = 0.1
HELD_OUT_IMAGES = 10_000
HELD_OUT_SEED = 0


class ImageFile(NamedTuple):
    """A file that is an image by its name; the path is relative to the folder."""

    path: Path
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class FolderListing:
    """What lies below a folder.

    Args:
        folder: the folder.
        images: sorted by path.
        left_out: why other things were left out, by path.
        others: number of files of each extension that is not an image's.
        splits: paths of the sub-folders "train" and "test", relative to the folder; empty if it has
            none.
    """

    folder: Path
    images: list[ImageFile] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    splits: Mapping[str, Path] = field(default_factory=dict)

    @property
    def renamed_splits(self) -> dict[str, str]:
        """The paths of the splits, if they are not simply train and test."""
        found = {name: path.as_posix() for name, path in self.splits.items()}
        return {} if found == {name: name for name in found} else found

    def split_of(self, path: Path) -> str | None:
        """The split that a path, relative to the folder, lies in."""
        return next((name for name, top in self.splits.items() if path.is_relative_to(top)), None)


def find_images(folder: Path, splits: bool = True) -> FolderListing:
    """All files below `folder` that are images by name.

    Only regular files count. Symbolic links are not followed, neither to files nor to folders:
    they may lead out of the folder or in a circle. Names that begin with a dot are ignored.
    If there are sub-folders train and test, images outside them are left out.

    Args:
        splits: look for sub-folders train and test, or what people call them (`find_splits`).

    Raises:
        UsageError: there is no such folder, or it is unclear which images are for testing.
    """
    if not os.path.isdir(folder):
        problem = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise UsageError(f"{folder} {problem}; give the path of a folder of images")
    listing = FolderListing(folder, splits=find_splits(folder) if splits else {})
    pending = [Path()]
    while pending:
        place = pending.pop()
        try:
            with os.scandir(folder / place) as entries:
                pending += [path for entry in entries if (path := _examine(listing, place, entry))]
        except OSError as error:
            listing.left_out[place] = f"cannot be read ({error.strerror})"
    listing.images.sort(key=lambda image: image.path.parts)
    return listing


def find_splits(
    folder: Path, sub_folders: Callable[[Path], list[str]] | None = None
) -> dict[str, Path]:
    """The sub-folders of training and of test images, relative to the folder, whatever their case:
    train or training, beside test, testing, val or validation; there, or in the only sub-folder.

    Args:
        sub_folders: names of the folders in a folder, for one that is not in the file system.

    Raises:
        UsageError: one is there without the other, or twice.
    """
    sub_folders = sub_folders or _sub_folders
    names = sub_folders(folder)
    found = _match_splits(folder, names)
    if found or len(names) != 1 or names[0].casefold() in TRAIN_NAMES:
        return {split: Path(name) for split, name in found.items()}
    inner = _match_splits(folder / names[0], sub_folders(folder / names[0]))
    return {split: Path(names[0], name) for split, name in inner.items()}


def _sub_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, without those that are hidden or that macOS adds."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith((".", "__"))
            )
    except OSError:
        return []  # the walk says why


def _match_splits(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The names of the splits among the sub-folders of a folder."""

    def among(known: Sequence[str]) -> list[str]:
        endings = ("", "set", "_set", "-set", "images", "_images", "-images")
        spellings = {word + ending for word in known for ending in endings}
        return [name for name in names if name.casefold() in spellings]

    train = among(TRAIN_NAMES)
    test = next((found for known in TEST_NAMES if (found := among(known))), [])
    if len(train) == len(test) == 1:
        return {"train": train[0], "test": test[0]}
    if (not train and not test) or len(names) == 1:
        return {}
    there = ", ".join(map(printable, [*train, *test]))
    raise UsageError(
        f"which images of {folder} are for training and which for testing? Of its {len(names)} "
        f"sub-folders {there} could say so, but it needs one of each; name them train and test, or "
        "give splits=none (--data-option, or --splits) if all sub-folders are classes"
    )


def _examine(listing: FolderListing, place: Path, entry: os.DirEntry[str]) -> Path | None:
    """Add an entry of the folder `place` to the listing; return its path if it is a folder."""
    if entry.name.startswith("."):
        return None
    path = place / entry.name
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        listing.left_out[path] = f"cannot be read ({error.strerror})"
        return None
    if stat.S_ISDIR(status.st_mode):
        return path
    if stat.S_ISLNK(status.st_mode):
        listing.left_out[path] = "is a symbolic link, which is not followed"
    elif (extension := path.suffix.lower()) not in EXTENSIONS:
        listing.others[extension or "no extension"] += 1
    elif not stat.S_ISREG(status.st_mode):
        listing.left_out[path] = "is not a regular file"
    elif listing.splits and listing.split_of(path) is None:
        listing.left_out[path] = OUTSIDE_SPLITS
    else:
        listing.images.append(ImageFile(path, status.st_size, status.st_mtime_ns))
    return None


def split_by_folder(
    listing: FolderListing, paths: Sequence[Path], left_out: Mapping[Path, str]
) -> dict[str, slice]:
    """The part of the sorted `paths` of usable images that each split has, by its name: "train"
    and "test", or "" for all.

    Raises:
        UsageError: a split has none.
    """
    parts = {}
    split_of = [listing.split_of(path) or "" for path in paths]
    for name, top in (listing.splits or {"": Path()}).items():
        indices = [i for i, split in enumerate(split_of) if split == name]
        if not indices:
            reasons = describe_left_out(left_out, listing.others)[:3]
            endings = ", ".join(ending[1:] for ending in EXTENSIONS)
            raise UsageError(
                f"{listing.folder / top} holds no image that can be used ({endings})"
                + "".join(f"; {reason}" for reason in reasons)
            )
        parts[name] = slice(indices[0], indices[-1] + 1)
    return parts


def label_by_folder(
    listing: FolderListing, paths: Sequence[Path]
) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Classes, and labels as int64 (N,), from the first-level sub-folders, within the splits if
    there are any. Without two sub-folders, or with an image outside them, there are none."""
    depth = len(next(iter(listing.splits.values())).parts) if listing.splits else 0
    parts = [path.parts[depth:] for path in paths]
    if any(len(names) < 2 for names in parts):
        return (), None
    classes = sorted({names[0] for names in parts})
    if len(classes) < 2:
        return (), None
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[names[0]] for names in parts], dtype=np.int64)
    return tuple(printable(name) for name in classes), labels


def hold_out(count: int, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of `count` images are for training and which for testing: two int64 arrays, (N,), of
    indices in ascending order. They depend on `count` only.

    Raises:
        UsageError: there are fewer than 3 images in the data set `name`.
    """
    if count < 3:
        raise UsageError(
            f"{name} holds {count} image{'s' if count > 1 else ''}; the fewest to learn from, "
            "with one held out for testing, are 3"
        )
    # RandomState's stream never changes; default_rng's may change with numpy's version.
    order = np.random.RandomState(HELD_OUT_SEED).permutation(count)
    test_count = min(HELD_OUT_IMAGES, max(1, int(count * HELD_OUT_FRACTION)))
    return np.sort(order[test_count:]), np.sort(order[:test_count])


class Seen(Record):
    """How many images had 16 bits a channel, are transparent, and were taken for pixel art."""

    deep: int = 0
    transparent: int = 0
    nearest: int = 0


NOTHING_SPECIAL = Seen()


def describe_left_out(
    left_out: Mapping[Path, str],
    others: Counter[str],
    seen: Seen = NOTHING_SPECIAL,
    window: str = FULL_WINDOW,
    renamed_splits: Mapping[str, str] | None = None,
) -> list[str]:
    """Notes on what was left out, one line each, on folders that were taken for splits, and on what
    was done to images of special kinds: of 16 bits, the values in the window were kept."""
    notes = []
    if renamed_splits:
        train, test = (printable(renamed_splits[name]) for name in ("train", "test"))
        notes.append(f"training images are those in {train}, test images those in {test}")
    outside = sum(reason == OUTSIDE_SPLITS for reason in left_out.values())
    if outside:
        notes.append(f"images outside train and test, left out: {outside:,}")
    if seen.deep:
        low, high = window.split("-")
        notes.append(
            f"16-bit images: {seen.deep:,}, their values {low} to {high} scaled to 0 to 255"
        )
    if seen.transparent:
        notes.append(
            f"transparent images: {seen.transparent:,}, so all have a channel for alpha; channels "
            "1 or 3 lay them over white"
        )
    if seen.nearest:
        notes.append(
            f"images of few colours: {seen.nearest:,}, scaled to the nearest pixel, which keeps "
            "their colours; resample smooth blends them"
        )
    skipped = []
    if others:
        kinds = ", ".join(printable(kind) for kind, _ in others.most_common(5))
        skipped.append(f"skipped other files: {others.total():,} ({kinds})")
    for path in sorted(left_out, key=lambda path: path.parts):
        if left_out[path] != OUTSIDE_SPLITS:
            skipped.append(f"skipped {printable(path)}: {printable(left_out[path])}")
    notes += skipped[:MOST_NOTES]
    if len(skipped) > MOST_NOTES:
        notes.append(f"and {len(skipped) - MOST_NOTES:,} more skipped")
    return notes
