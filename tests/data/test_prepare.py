"""`genkit data prepare`: the same images as from the folder, once, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import all_images, images, open_named, result, save_images
from PIL import Image

import genkit.data.prepare
from genkit.data.decode import read_image
from genkit.data.partial import PARTIAL_FILE, PartialResult
from genkit.data.prepare import Prepared, prepare
from genkit.data.prepared import (
    IMAGES_FILE,
    MANIFEST_FILE,
    PrepareOptions,
    npy_header,
    read_manifest,
)
from genkit.data.sources import LIST_FILE, read_list
from genkit.data.walk import find_images
from genkit.data.workers import decode_files
from genkit.errors import UsageError

torch.set_num_threads(1)


def save_greys(place: Path, count: int, mode: str = "L") -> None:
    place.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images(count, 1, 20)):
        Image.fromarray(image[0]).convert(mode).save(place / f"{number}.png")


def fill(folder: Path, kind: str = "flat") -> Path:
    """A folder of small images, with some that are left out."""
    if kind == "flat":
        save_images(folder, 12)
    elif kind == "classes":
        save_images(folder / "dog", 7)
        save_images(folder / "cat", 6)
    elif kind == "splits":
        save_images(folder / "train" / "dog", 3)
        save_images(folder / "train" / "cat", 4)
        save_images(folder / "test" / "cat", 2)
        save_images(folder / "elsewhere", 2)
    elif kind == "grey":
        save_greys(folder / "a", 5)
        save_greys(folder / "b", 6, "RGB")
        Image.fromarray(images(1, 1, 20)[0, 0].astype(np.uint16) * 257).save(folder / "a/deep.png")
    broken = max(folder.rglob("0.png")).parent
    (broken / "broken.png").write_bytes(b"no image")
    (broken / "link.png").symlink_to("0.png")
    (broken / "notes.txt").touch()
    return folder


def prepared(folder: Path, out: Path, size: int = 16, **options: object) -> Prepared:
    return prepare(folder, out, size=size, **options)


@pytest.mark.parametrize("channels", ["auto", "1", "3"])
@pytest.mark.parametrize("kind", ["flat", "classes", "splits", "grey"])
def test_prepared_data_is_that_of_the_folder(tmp_path: Path, kind: str, channels: str) -> None:
    folder = fill(tmp_path / "in", kind)
    prepared(folder, tmp_path / "out", channels=channels)
    expected = open_named(f"folder:{folder}", size=16, channels=channels)
    data = open_named(f"prepared:{tmp_path / 'out'}")
    assert data.shape == expected.shape and data.held_out == expected.held_out
    for own, other in ((data.train, expected.train), (data.test, expected.test)):
        assert np.array_equal(own.images, other.images)
        assert np.array_equal(own.labels, other.labels)
    assert data.fingerprint == expected.fingerprint and data.classes == expected.classes
    assert [note.replace("prepared:", "folder:").replace("/out", "/in") for note in data.notes] == [
        *expected.notes
    ]
    assert len(data.notes) >= 3


def test_manifest_traces_each_row_to_its_file_and_names_what_was_left_out(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", "classes")
    manifest = prepared(folder, tmp_path / "out").manifest
    content = json.loads((tmp_path / "out" / MANIFEST_FILE).read_text())
    assert content["genkit_prepared"] == 2 and "files" not in content
    files = read_list(tmp_path / "out", manifest.files_sha256)
    lines = (tmp_path / "out" / LIST_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {key: value for key, value in file._asdict().items() if value is not None} for file in files
    ]
    array = np.load(tmp_path / "out" / IMAGES_FILE)
    assert array.shape == (13, 3, 16, 16) and array.dtype == np.uint8
    used = [file for file in files if file.row is not None]
    assert sorted(file.row for file in used) == list(range(13))
    for file in used:
        path = folder / file.path
        assert (read_image(path, 16, 3) == array[file.row]).all()
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert file.size_bytes == path.stat().st_size
        label = manifest.labels[file.row]
        assert manifest.classes[label] == Path(file.path).parts[0]
    assert manifest.left_out == {
        "dog/broken.png": "is not a PNG, JPEG, WebP, BMP, GIF or TIFF image",
        "dog/link.png": "is a symbolic link, which is not followed",
    }
    assert manifest.other_files == {".txt": 1}
    assert (
        manifest.sha256 == hashlib.sha256((tmp_path / "out" / IMAGES_FILE).read_bytes()).hexdigest()
    )


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (20_000, 3, 64, 64), (10**9, 1, 256, 256)])
def test_header_of_the_array_is_the_one_that_numpy_writes(shape: tuple[int, ...], tmp_path) -> None:
    with open(tmp_path / "a.npy", "wb") as file:
        file.write(npy_header(shape))
    with open(tmp_path / "a.npy", "rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        assert np.lib.format.read_array_header_1_0(file) == (shape, False, np.dtype(np.uint8))
        assert file.read() == b"" and file.tell() % 64 == 0


def test_result_depends_neither_on_processes_nor_on_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "in", "classes")
    save_images(folder / "ant", 40)
    prepared(folder, tmp_path / "one", workers=1)
    monkeypatch.setattr(genkit.data.prepare, "FEWEST_SHARED_BYTES", 0)
    monkeypatch.setattr(genkit.data.prepare, "BATCH_BYTES", 1)  # eight files at a time
    prepared(folder, tmp_path / "two", workers=2)
    assert result(tmp_path / "one") == result(tmp_path / "two")
    assert set(result(tmp_path / "one")) == {IMAGES_FILE, MANIFEST_FILE, LIST_FILE}


# On disk


def test_images_stay_on_disk_and_torch_takes_them_without_a_copy(tmp_path: Path) -> None:
    prepared(fill(tmp_path / "in"), tmp_path / "out")
    before = result(tmp_path / "out")
    data = open_named(f"prepared:{tmp_path / 'out'}")
    for split in (data.train, data.test):
        assert isinstance(split.images, np.memmap) and split.images.flags.writeable
        tensor = torch.from_numpy(split.images)
        assert tensor.data_ptr() == split.images.ctypes.data
        tensor.zero_()  # copy on write
    assert result(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (IMAGES_FILE, lambda b: b[:-1], "images.npy is damaged: it has .* bytes, not "),
        (IMAGES_FILE, lambda b: b"", "images.npy is damaged: it has 0 bytes"),
        (IMAGES_FILE, lambda b: b + b"\0", "images.npy is damaged"),
        (IMAGES_FILE, lambda b: b[:500] + bytes([b[500] ^ 1]) + b[501:], "is damaged: the SHA-256"),
        (IMAGES_FILE, lambda b: b[:-1] + bytes([b[-1] ^ 128]), "is damaged: the SHA-256"),
        (IMAGES_FILE, lambda b: b[:20] + b"x" + b[21:], "images.npy is damaged: wrong header"),
        (IMAGES_FILE, None, r"images.npy cannot be read \(No such file"),
        (MANIFEST_FILE, lambda b: b.replace(b"[12, 3", b"[11, 3"), "changed since genkit wrote"),
        (MANIFEST_FILE, lambda b: b[: len(b) // 2], "was changed since genkit wrote"),
        (MANIFEST_FILE, lambda b: b.replace(b"\n", b"\r\n"), "was changed since genkit wrote"),
        (MANIFEST_FILE, lambda b: b"", "is not the manifest of a prepared folder"),
        (
            MANIFEST_FILE,
            lambda b: b'{"name": "a web page"}',
            "is not the manifest of a prepared folder",
        ),
        (MANIFEST_FILE, lambda b: reseal(b.replace(b'": 2,', b'": 3,', 1)), "is of format 3"),
        (MANIFEST_FILE, lambda b: reseal(b.replace(b'"classes"', b'"kinds"')), "classes: field re"),
        (MANIFEST_FILE, lambda b: reseal(b.replace(b"[12, 3", b'["x", 3')), "shape.0: .* 'x'"),
        (MANIFEST_FILE, lambda b: reseal(b.replace(b"[12, 3", b"[-12, -3")), "shape.0: .* -12"),
        (MANIFEST_FILE, lambda b: reseal(b.replace(b"[12, 3", b"[12, 9" + b"9" * 30)), "not 30,7"),
        (MANIFEST_FILE, lambda b: reseal(b.replace(b's": 11,', b's": 12,')), "train_images is 12"),
        (MANIFEST_FILE, lambda b: reseal(b.replace(b": null", b": [1, 0]")), "2 labels for 12 im"),
        (MANIFEST_FILE, lambda b: reseal(b.replace(b"[12,", b"(12,")), "cannot be used: "),
        (MANIFEST_FILE, None, "is not a prepared folder"),
    ],
)
def test_damaged_folder_is_refused_and_prepared_again(
    tmp_path: Path, file: str, damage: object, message: str
) -> None:
    folder, out = fill(tmp_path / "in"), tmp_path / "out"
    prepared(folder, out)
    whole = result(out)
    if damage is None:
        (out / file).unlink()
    else:
        changed = damage(whole[file])
        assert changed != whole[file]
        (out / file).write_bytes(changed)
    with pytest.raises(UsageError, match=message) as caught:
        open_named(f"prepared:{out}")
    assert "\n" not in str(caught.value) and "again" in str(caught.value)
    if (out / MANIFEST_FILE).exists() and (out / MANIFEST_FILE).read_bytes().startswith(
        b'{"genkit_prep'
    ):
        assert prepared(folder, out).decoded == 13
        assert result(out) == whole
    else:  # what lies there is not genkit's to overwrite
        with pytest.raises(UsageError, match="neither empty nor a prepared folder"):
            prepared(folder, out)


def reseal(content: bytes) -> bytes:
    """A manifest that was edited by someone who knows of its checksum."""
    body, ending, _ = content.rpartition(b',\n"checksum": "')
    return body + ending + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


# Again


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b.replace(b"0", b"1"), None])
def test_without_its_list_of_files_a_folder_is_data_and_is_decoded_again(tmp_path, damage) -> None:
    folder, out = fill(tmp_path / "in"), tmp_path / "out"
    first = prepared(folder, out)
    whole, path = result(out), out / LIST_FILE
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    assert open_named(f"prepared:{out}").fingerprint == first.manifest.fingerprint
    assert prepared(folder, out).decoded == first.decoded
    assert result(out) == whole


def test_second_time_nothing_is_decoded_or_written(tmp_path: Path) -> None:
    folder, out = fill(tmp_path / "in"), tmp_path / "out"
    first = prepared(folder, out)
    times = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = prepared(folder, out)
    assert first.decoded == 13 and not first.up_to_date
    assert again.up_to_date and again.decoded == 0 and again.manifest == first.manifest
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == times


def test_only_changed_files_are_decoded_again(tmp_path: Path) -> None:
    folder, out = fill(tmp_path / "in", "grey"), tmp_path / "out"
    assert prepared(folder, out).manifest.shape[1] == 1
    save_images(folder / "a", 2)  # replaces two grey images by colour ones
    (folder / "b" / "3.png").unlink()
    save_greys(folder / "c", 1)
    os.utime(folder / "b" / "1.png", ns=(1, 1))
    update = prepared(folder, out)
    assert update.decoded == 4 and update.manifest.shape[:2] == (12, 3)
    prepared(folder, tmp_path / "fresh")
    assert result(out) == result(tmp_path / "fresh")
    for number in range(2):
        (folder / "a" / f"{number}.png").unlink()
    back = prepared(folder, out)
    assert back.decoded == 0 and not back.up_to_date and back.manifest.shape[:2] == (10, 1)
    assert open_named(f"prepared:{out}").fingerprint == (
        open_named(f"folder:{folder}", size=16).fingerprint
    )


def test_other_options_need_another_folder(tmp_path: Path) -> None:
    folder, out = fill(tmp_path / "in"), tmp_path / "out"
    prepared(folder, out)
    whole = result(out)
    with pytest.raises(UsageError, match="was prepared with --size 16 --channels auto"):
        prepared(folder, out, size=8)
    assert result(out) == whole


def test_file_that_could_not_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = fill(tmp_path / "in"), tmp_path / "out"
    walk = genkit.data.prepare.find_images

    def find_and_remove(place: Path, splits: bool) -> object:
        found = walk(place, splits)
        (folder / "3.png").rename(tmp_path / "3.png")
        return found

    monkeypatch.setattr(genkit.data.prepare, "find_images", find_and_remove)
    first = prepared(folder, out).manifest
    assert first.left_out["3.png"] == "cannot be read (No such file or directory)"
    monkeypatch.setattr(genkit.data.prepare, "find_images", walk)
    (tmp_path / "3.png").rename(folder / "3.png")  # with the time it had
    assert prepared(folder, out).decoded == 1
    prepared(folder, tmp_path / "fresh")
    assert result(out) == result(tmp_path / "fresh")


# What cannot be


def test_places_that_are_none_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / MANIFEST_FILE).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    for out, message in (
        (folder, "lies in"),
        (folder / "sub" / "out", "lies in .*/in, whose images are read"),
        (tmp_path / "link" / "out", "lies in"),
        (tmp_path / "file", "cannot be made"),
        (tmp_path / "file" / "out", "cannot be made"),
        (tmp_path / "full", "is neither empty nor a prepared folder"),
        (tmp_path / "page", "is neither empty nor a prepared folder"),
        (tmp_path, "is neither empty nor a prepared folder"),
    ):
        with pytest.raises(UsageError, match=message):
            prepared(folder, out)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("count", "message"), [(0, "no image that can be used"), (1, "1 image;"), (2, "2 images;")]
)
def test_folders_of_too_few_images_leave_nothing_behind(
    tmp_path: Path, count: int, message: str
) -> None:
    save_images(tmp_path / "in", count)
    (tmp_path / "in" / "text.png").write_text("text")
    with pytest.raises(UsageError, match=message):
        prepared(tmp_path / "in", tmp_path / "out")
    assert not result(tmp_path / "out")


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere does not exist"):
        prepared(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UsageError, match="nowhere is not a folder"):
        open_named(f"prepared:{tmp_path / 'nowhere'}")


# A partial result


def leave_partial(folder: Path, out: Path, count: int) -> None:
    """What a process leaves that was killed after `count` files."""
    out.mkdir()
    found = find_images(folder)
    options = PrepareOptions(size=16, channels="auto")
    partial = PartialResult(out, options, found.images)
    partial.append(decode_files(folder, found.images[:count], options))
    partial.close()


def change(statement: str) -> Callable[[Path], None]:
    """A change of the database itself, after which it is whole as a database."""

    def apply(path: Path) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            assert database.execute(statement).rowcount > 0

    return apply


def rewrite(damage: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(damage(path.read_bytes())) and None


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda path: None, 9),
        (change("UPDATE files SET pixels = zeroblob(1024) WHERE number = 2"), 2),
        (change("UPDATE files SET pixels = x'00' WHERE number = 8"), 8),
        (change("UPDATE files SET pixels = 'text' WHERE number = 8"), 0),
        (change("UPDATE files SET json = '[1, 2]' WHERE number = 3"), 0),
        (change("UPDATE files SET json = x'00' WHERE number = 3"), 0),
        (change("UPDATE files SET json = replace(json, 'false', 'true') WHERE number = 3"), 3),
        (change("UPDATE files SET json = '{' WHERE number = 3"), 0),
        (change("UPDATE options SET json = replace(json, '16', '17')"), 0),
        (change("DELETE FROM options"), 0),
        (change("DELETE FROM files WHERE number = 4"), 4),
        (lambda path: path.unlink(), 0),
        (rewrite(lambda b: b""), 0),
        (rewrite(lambda b: b"text" * 2000), 0),
        (rewrite(lambda b: b[: len(b) // 2]), 0),
        (rewrite(lambda b: b[:5000] + bytes(len(b) - 5000)), 0),
        (rewrite(lambda b: bytes(len(b))), 0),  # what a power cut may leave
    ],
)
def test_whatever_a_partial_result_lost_is_decoded_again(
    tmp_path: Path, damage: Callable[[Path], None], kept: int
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    save_images(folder, 12)
    leave_partial(folder, out, 9)
    damage(out / PARTIAL_FILE)
    assert prepared(folder, out).decoded == 12 - kept
    prepared(folder, tmp_path / "fresh")
    assert result(out) == result(tmp_path / "fresh")


def test_partial_result_of_an_older_genkit_is_replaced(tmp_path: Path) -> None:
    save_images(tmp_path / "in", 12)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("entries.partial", "rows.partial"):
        (out / name).write_bytes(b"of another format")
    assert prepared(tmp_path / "in", out).decoded == 12
    assert set(result(out)) == {IMAGES_FILE, MANIFEST_FILE, LIST_FILE}


def test_partial_result_of_a_folder_that_changed_meanwhile_is_used_up_to_the_change(
    tmp_path: Path,
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    save_images(folder, 12)
    leave_partial(folder, out, 9)
    os.utime(folder / "2.png", ns=(1, 1))  # the fifth: 0, 1, 10, 11, 2
    assert prepared(folder, out).decoded == 8
    prepared(folder, tmp_path / "fresh")
    assert result(out) == result(tmp_path / "fresh")


def test_unfinished_folder_is_not_taken_for_data(tmp_path: Path) -> None:
    save_images(tmp_path / "in", 12)
    leave_partial(tmp_path / "in", tmp_path / "out", 9)
    with pytest.raises(UsageError, match="is not a prepared folder"):
        open_named(f"prepared:{tmp_path / 'out'}")


@pytest.mark.skipif(sys.platform == "win32", reason="renames over open files")
def test_update_that_was_killed_between_array_and_manifest_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = fill(tmp_path / "in"), tmp_path / "out"
    prepared(folder, out)
    save_images(folder / "more", 3)

    def die(*arguments: object) -> None:
        raise SystemExit  # nothing is tidied up but open files

    with monkeypatch.context() as patch:
        patch.setattr(genkit.data.prepare, "write_atomic", die)
        with pytest.raises(SystemExit):
            prepared(folder, out)
    with pytest.raises(UsageError, match="is damaged"):
        open_named(f"prepared:{out}")
    assert prepared(folder, out).decoded == 0
    prepared(folder, tmp_path / "fresh")
    assert result(out) == result(tmp_path / "fresh")


def test_copy_of_a_prepared_folder_is_the_same_data(tmp_path: Path) -> None:
    prepared(fill(tmp_path / "in"), tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "in")
    data = open_named(f"prepared:{tmp_path / 'elsewhere'}")
    assert data.fingerprint == read_manifest(tmp_path / "out").fingerprint


def test_folder_that_an_older_genkit_prepared_opens(tmp_path: Path) -> None:
    manifest = Path(__file__).with_name("older-manifest.json").read_bytes()
    (tmp_path / MANIFEST_FILE).write_bytes(manifest)
    greys = np.array([0, 2, 1], np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3)
    np.save(tmp_path / IMAGES_FILE, greys)
    data = open_named(f"prepared:{tmp_path}")
    assert all_images(data).tolist() == greys.tolist() and data.classes == ("a", "b")
    assert [*data.train.labels, *data.test.labels] == [0, 0, 1] and data.held_out
    assert [note.partition(":")[0] for note in data.notes[:2]] == [
        "skipped a/link.png",
        "skipped a/\\udcff.png",
    ]
