"""Images from a folder: which files, what class each is of, what was left out and why.

Decoding one file is `genkit_datasets.decode`'s job.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genkit.data import Split, Splits
from genkit.errors import UsageError
from genkit_datasets import FolderConfig
from genkit_datasets.decode import BadImage, pillow_warnings, read_image

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MOST_NOTES = 10


def load(config: FolderConfig, source: str, root: Path) -> Splits:
    """Splits from all images below the folder `source`, in the order of their paths.

    Sub-folders named train and test are the splits. Within them, or else within `source`, the
    first-level sub-folders are the classes if there are at least two and every image is in one.

    Raises:
        UsageError: there is no such folder, or no image in it can be used.
    """
    folder = Path(os.path.expanduser(source))
    if not os.path.isdir(folder):
        problem = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise UsageError(f"{folder} {problem}; write --data folder:PATH with a folder of images")
    paths, skipped = find_images(folder)
    names = [""]
    notes = []
    if all((folder / name).is_dir() for name in ("train", "test")):
        names = ["train", "test"]
        inside = [path for path in paths if path.parts[0] in names]
        if len(inside) < len(paths):
            notes.append(f"images outside train and test, left out: {len(paths) - len(inside):,}")
        paths = inside
    images, paths, reasons, deep_count = _read_images(folder, paths, config)
    skipped += reasons
    parts = []
    for name in names:
        indices = [i for i, path in enumerate(paths) if not name or path.parts[0] == name]
        if not indices:
            tried = f"; skipped: {'; '.join(skipped[:3])}" if skipped else ""
            raise UsageError(
                f"{folder / name} holds no image that can be used "
                f"({', '.join(ending[1:] for ending in EXTENSIONS)}){tried}"
            )
        parts.append(slice(indices[0], indices[-1] + 1))  # paths are sorted
    if deep_count:
        notes.append(f"16-bit images: {deep_count:,}, their values 0 to 65535 scaled to 0 to 255")
    notes += [f"skipped {reason}" for reason in skipped[:MOST_NOTES]]
    if len(skipped) > MOST_NOTES:
        notes.append(f"and {len(skipped) - MOST_NOTES:,} more skipped")
    classes, labels = _label([path.parts[len(names) - 1 :] for path in paths])
    splits = [Split(images[part], None if labels is None else labels[part]) for part in parts]
    return Splits(splits[0], splits[1] if len(splits) > 1 else None, classes, tuple(notes))


def find_images(folder: Path) -> tuple[list[Path], list[str]]:
    """Sorted paths, relative to `folder`, of the files that are images by name.

    Only regular files count. Symbolic links are not followed, neither to files nor to folders,
    and so no walk leaves the folder or ends in a loop; names that begin with a dot are ignored.

    Returns:
        The paths, and a reason for each thing left out.
    """
    images: list[Path] = []
    skipped: list[str] = []
    others: Counter[str] = Counter()

    def note_unreadable(error: OSError) -> None:
        skipped.append(f"{_printable(str(error.filename))}: cannot be read ({error.strerror})")

    for place, folders, files in os.walk(folder, onerror=note_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*folders, *sorted(files)]:
            path = Path(place, name)
            relative = path.relative_to(folder)
            mode = path.lstat().st_mode
            if name.startswith(".") or stat.S_ISDIR(mode):
                continue
            if stat.S_ISLNK(mode):
                skipped.append(f"{_printable(relative)}: is a symbolic link, which is not followed")
            elif path.suffix.lower() not in EXTENSIONS:
                others[path.suffix.lower() or "no extension"] += 1
            elif not stat.S_ISREG(mode):
                skipped.append(f"{_printable(relative)}: is no regular file")
            else:
                images.append(relative)
    if others:
        kinds = ", ".join(_printable(kind) for kind, _ in others.most_common(5))
        skipped.insert(0, f"other files: {others.total():,} ({kinds})")
    return sorted(images), skipped


def _read_images(
    folder: Path, paths: list[Path], config: FolderConfig
) -> tuple[NDArray[np.uint8], list[Path], list[str], int]:
    """Images (N, C, H, W) of the paths that can be read, those paths, a reason for each other
    path, and how many images had 16 bits a channel."""
    channels = 1 if config.channels == "1" else 3
    shape = (len(paths), channels, config.size, config.size)
    try:
        images = np.empty(shape, dtype=np.uint8)
    except MemoryError:
        raise UsageError(
            f"{len(paths):,} images of {shape[1:]} do not fit into memory; give a smaller size"
        ) from None
    kept: list[Path] = []
    skipped: list[str] = []
    deep_count = 0
    grey = config.channels == "auto"
    with pillow_warnings():
        for path in paths:
            try:
                image, deep = read_image(folder / path, config.size, channels)
            except BadImage as error:
                skipped.append(f"{_printable(path)}: {_printable(error)}")
                continue
            images[len(kept)] = image
            grey = grey and bool((image == image[:1]).all())
            deep_count += deep
            kept.append(path)
    images = images[: len(kept)]
    return (images[:, :1] if grey else images), kept, skipped, deep_count


def _label(paths: list[tuple[str, ...]]) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
    """Classes and labels from paths' first parts; none if they are no classes."""
    if any(len(parts) < 2 for parts in paths):
        return (), None
    classes = sorted({parts[0] for parts in paths})
    if len(classes) < 2:
        return (), None
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[parts[0]] for parts in paths], dtype=np.int64)
    return tuple(_printable(name) for name in classes), labels


def _printable(text: object) -> str:
    """The text on one line, with escapes for what a terminal or an encoder would choke on."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
