"""`hf:` reads what `datasets` wrote as `folder:` reads the same files; skipped without it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import all_images, open_named, save_images
from toys import registry

from genkit.config.run import RunConfig
from genkit.data.walk import hold_out
from genkit.errors import UsageError
from genkit.runs.build import with_absolute_paths

pytestmark = pytest.mark.filterwarnings("ignore")  # of dill and other packages


def test_without_the_package_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"needs the package .* pip install 'torch-genkit\[hf\]'"):
        open_named("hf:owner/sprites")


def test_a_run_records_a_path_from_anywhere_and_a_name_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("all.parquet").touch()
    for given, recorded in (
        ("hf:all.parquet", f"hf:{tmp_path / 'all.parquet'}"),
        ("hf:owner/sprites", "hf:owner/sprites"),
        ("folder:missing", f"folder:{tmp_path / 'missing'}"),
        ("torchvision:all.parquet", "torchvision:all.parquet"),
    ):
        assert with_absolute_paths(RunConfig(data=given), registry()).data == recorded


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets", minversion="4")


def write(path: Path, columns: dict[str, tuple[Any, list]]) -> Path:
    """A Parquet file of columns with their kinds, as `Dataset.to_parquet` writes it."""
    import datasets
    import pyarrow.parquet

    kinds = datasets.Features({name: kind for name, (kind, _) in columns.items()})
    values = {name: cells for name, (_, cells) in columns.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(values, schema=kinds.arrow_schema), path)
    return path


@pytest.fixture
def columns(datasets: Any, tmp_path: Path) -> dict[str, tuple[Any, list]]:
    """Ten images as files, of which every third is of the class "cat", the others "dog"."""
    save_images(tmp_path / "in", 10)
    files = [path.read_bytes() for path in sorted((tmp_path / "in").iterdir())]
    labels = [int(i % 3 == 0) for i in range(10)]
    return {
        "animal": (datasets.ClassLabel(names=["dog", "cat"]), labels),
        "sprite": (datasets.Image(), [{"bytes": file, "path": None} for file in files]),
        "number": (datasets.Value("int32"), [7] * 4 + [5] * 6),
    }


def saved(columns: dict[str, tuple[Any, list]], datasets: Any, folder: Path, how: str) -> Path:
    """One file of all rows, or a folder of 7 rows to train on, 3 to test on and others."""
    if how == "file":
        return write(folder / "all.parquet", columns)
    for name, part in {"train": slice(7), "test": slice(7, 10), "validation": slice(1)}.items():
        rows = {column: (kind, cells[part]) for column, (kind, cells) in columns.items()}
        write(folder / "files" / "data" / f"{name}-00000-of-00001.parquet", rows)
    if how == "saved":
        cache = str(folder / "cache")
        datasets.load_dataset(str(folder / "files"), cache_dir=cache).save_to_disk(folder / how)
        return folder / how
    return folder / "files"


@pytest.mark.parametrize("how", ["file", "folder", "saved"])
def test_images_are_those_of_the_files_and_class_labels_the_classes(
    datasets: Any, columns: dict, tmp_path: Path, how: str
) -> None:
    data = open_named(f"hf:{saved(columns, datasets, tmp_path, how)}", tmp_path / "root")
    folder = open_named(f"folder:{tmp_path / 'in'}")
    names = np.array(data.classes)
    if how == "file":
        assert data.held_out and data.fingerprint != folder.fingerprint  # it has labels
        assert np.array_equal(data.train.images, folder.train.images)
        assert np.array_equal(data.test.images, folder.test.images)
    else:
        assert not data.held_out and (len(data.train.images), len(data.test.images)) == (7, 3)
        every = all_images(folder)[np.argsort(np.concatenate(hold_out(10, "folder")))]
        assert np.array_equal(all_images(data), every)
        wanted = ["cat" if i % 3 == 0 else "dog" for i in range(10)]
        found = np.concatenate([data.train.labels, data.test.labels])
        assert names[found].tolist() == wanted


def test_other_columns_can_be_the_labels(datasets: Any, columns: dict, tmp_path: Path) -> None:
    source = f"hf:{saved(columns, datasets, tmp_path, 'folder')}"
    root = tmp_path / "root"
    data = open_named(source, root, label="number", size=8)
    assert data.classes == ("5", "7") and str(data.shape) == "3 x 8 x 8"
    assert data.train.labels.tolist() == [1, 1, 1, 1, 0, 0, 0] and set(data.test.labels) == {0}
    assert open_named(source, root, label="none").train.labels is None
    for option in ("image", "label"):
        with pytest.raises(UsageError, match=f"no column 'x'.*give another.*{option}=COLUMN"):
            open_named(source, root, **{option: "x"})


def test_what_is_unclear_or_missing_is_one_sentence(columns: dict, tmp_path: Path) -> None:
    root = tmp_path / "root"
    two = f"hf:{write(tmp_path / '2.parquet', columns | {'pet': columns['animal']})}"
    with pytest.raises(UsageError, match=r"the label: animal, pet; .*label=animal or none"):
        open_named(two, root)
    labels = {"animal": columns["animal"]}
    with pytest.raises(UsageError, match=r"no column of images, only animal \(ClassLabel\)"):
        open_named(f"hf:{write(tmp_path / '0.parquet', labels)}", root)
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(UsageError, match=r"text\.parquet cannot be read: "):
        open_named(f"hf:{tmp_path / 'text.parquet'}", root)
    with pytest.raises(UsageError, match="does not exist; give a Parquet file"):
        open_named(f"hf:{tmp_path / 'missing'}", root)
    with pytest.raises(UsageError, match=r"hf:owner/sprites .*(download|read)"):  # offline
        open_named("hf:owner/sprites", root)


def test_images_that_cannot_be_read_and_labels_that_are_hidden_are_left_out(
    datasets: Any, columns: dict, tmp_path: Path
) -> None:
    images, kind = columns["sprite"][1][:4], datasets.ClassLabel(2)
    cells = [{"bytes": b"text", "path": None}, *images]
    rows = {"image": (datasets.Image(), cells), "label": (kind, [0, 1, 0, 1, -1])}
    data = open_named(f"hf:{write(tmp_path / 'some.parquet', rows)}", tmp_path / "root")
    assert len(all_images(data)) == 4 and data.train.labels is None
    assert any("skipped train/0: " in note for note in data.notes)
    assert any("labels in label are missing in part" in note for note in data.notes)
