"""`hf:PATH or NAME`: images of Hugging Face's `datasets`: Parquet files, folders, and its hub.

Tests read files and folders that `datasets` wrote. Reading from the hub is written as its
documentation says, and has not been run.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genkit.data import BadImage, Splits, downloading, read_encoded
from genkit.errors import UsageError
from genkit_datasets import HuggingFaceConfig

TEST_NAMES = ("test", "validation", "valid", "val")  # the first that is there
SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves in a folder


def load(config: HuggingFaceConfig, source: str, root: Path) -> Splits:
    """Images and labels of a Parquet file, of a folder of such files or that `save_to_disk` wrote,
    or of a data set of the hub, which is downloaded into `root`.

    The split "train", or the only one, is for training. Images are those of the only column of
    images, labels those of the only column of class labels, unless the options name others.

    Raises:
        UsageError: the source cannot be read, or it is unclear which column is what.
    """
    found = _open(config, source, root)
    parts = _choose_parts(found, source)
    features = parts["train"].features
    image = _choose_column(features, "Image", config.image, "image", source)
    if image is None:
        raise UsageError(
            f"hf:{source} has no column of images, only {_listed(features)}; if one of these holds "
            "image files, give --data-option image=COLUMN"
        )
    label = None
    if config.label != "none":
        label = _choose_column(features, "ClassLabel", config.label, "label", source)
    names, labels, notes = _read_labels(parts, label)
    files = {part: _undecoded(rows, image) for part, rows in parts.items()}
    splits = read_encoded(
        f"hf:{source}",
        {part: len(rows) for part, rows in parts.items()},
        lambda part, number: _content(files[part][number][image]),
        labels,
        size=config.size,
        channels=config.channels,
        window=config.window,
        fit=config.fit,
        resample=config.resample,
    )
    classes = tuple(names[int(number)] for number in splits.classes)
    return replace(splits, classes=classes, notes=(*splits.notes, *notes))


def _open(config: HuggingFaceConfig, source: str, root: Path) -> Any:
    """What `datasets` makes of a source: a `Dataset`, or several by name."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"hf:{source} needs the package datasets ({error}); pip install 'torch-genkit[hf]'"
        ) from None
    datasets.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dill's, of what it cannot name
        return _load(datasets, config, source, root)


def _load(datasets: Any, config: HuggingFaceConfig, source: str, root: Path) -> Any:
    """The same, by the package."""
    path, more = Path(os.path.expanduser(source)), {"cache_dir": str(root / "hf")}
    try:
        if any((path / name).is_file() for name in SAVED):
            return datasets.load_from_disk(str(path))
        if path.is_file():
            return datasets.load_dataset("parquet", data_files=str(path), **more)
        if path.is_dir():
            return datasets.load_dataset(str(path.absolute()), config.subset, **more)
        if source.startswith(("/", ".", "~")) or source.endswith(".parquet"):
            raise UsageError(f"{source} does not exist; give a Parquet file, a folder, or a NAME")
        with downloading(f"hf:{source} is neither here nor", "Give the PATH of Parquet files"):
            return datasets.load_dataset(source, config.subset, **more)
    except UsageError:
        raise
    except Exception as error:  # datasets, pyarrow and fsspec have errors of many kinds
        reason = str(error.__cause__ or error).strip() or repr(error)
        raise UsageError(f"hf:{source} cannot be read: {reason.splitlines()[0]}") from error


def _choose_parts(found: Any, source: str) -> dict[str, Any]:
    """The rows for training and, if there are any, those for testing."""
    parts = dict(found) if isinstance(found, dict) else {"train": found}
    if len(parts) == 1:
        return {"train": next(iter(parts.values()))}
    if "train" not in parts:
        raise UsageError(f"hf:{source} has the splits {', '.join(parts)}, but none named train")
    test = next((parts[name] for name in TEST_NAMES if name in parts), None)
    return {"train": parts["train"]} | ({} if test is None else {"test": test})


def _choose_column(
    features: Any, kind: str, chosen: str | None, option: str, source: str
) -> str | None:
    """The column that was chosen, or the only one of a kind; None if there is none."""
    if chosen:
        if chosen not in features:
            raise UsageError(
                f"hf:{source} has no column {chosen!r}, only {_listed(features)}; give another "
                f"--data-option {option}=COLUMN"
            )
        return chosen
    columns = [name for name, feature in features.items() if type(feature).__name__ == kind]
    if len(columns) > 1:
        raise UsageError(
            f"hf:{source} has several columns that could be the {option}: {', '.join(columns)}; "
            f"choose one by --data-option {option}={columns[0]}"
            + (" or none by label=none" if option == "label" else "")
        )
    return columns[0] if columns else None


def _listed(features: Any) -> str:
    return ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())


def _read_labels(
    parts: dict[str, Any], column: str | None
) -> tuple[Sequence[str], Mapping[str, Sequence[int]] | None, tuple[str, ...]]:
    """The classes' names, the number of each image's class by split, and what to say of them."""
    if column is None:
        return (), None, ()
    values = {part: list(rows[column]) for part, rows in parts.items()}
    flat = [value for part in values.values() for value in part]
    if any(value is None or value == -1 for value in flat):  # -1 hides those of a competition
        return (), None, (f"labels in {column} are missing in part, so none are used",)
    if not all(isinstance(value, int | str) for value in flat):
        raise UsageError(f"the labels in {column} are neither whole numbers nor texts")
    names = getattr(parts["train"].features[column], "names", None)
    if names is not None:
        return names, values, ()
    known = sorted(set(flat))
    number = {value: place for place, value in enumerate(known)}
    numbers = {part: [number[value] for value in own] for part, own in values.items()}
    return tuple(map(str, known)), numbers, ()


def _undecoded(rows: Any, column: str) -> Any:
    """The rows with image files as they are, and without other columns."""
    from datasets import Image

    return rows.select_columns([column]).cast_column(column, Image(decode=False))


def _content(file: Mapping[str, Any] | None) -> bytes:
    """The content of an image file, which is in its row or at a path."""
    try:
        found = file or {}
        return found["bytes"] or Path(found["path"]).read_bytes()
    except (OSError, LookupError, TypeError):
        raise BadImage("is not there") from None
