"""`genkit data prepare`: the same images as from the folder, once, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import images, open_named, result, save_images
from PIL import Image

import genkit.data.prepare
from genkit.data.decode import read_image
from genkit.data.partial import ENTRIES, ROWS, Draft
from genkit.data.prepare import Prepared, prepare
from genkit.data.prepared import ARRAY, MANIFEST, npy_header, read_manifest
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
    content = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert content["files"] == manifest.files and content["genkit_prepared"] == 1
    array = np.load(tmp_path / "out" / ARRAY)
    assert array.shape == (13, 3, 16, 16) and array.dtype == np.uint8
    used = [file for file in manifest.files if "row" in file]
    assert sorted(file["row"] for file in used) == list(range(13))
    for file in used:
        path = folder / file["path"]
        assert (read_image(path, 16, 3)[0] == array[file["row"]]).all()
        assert file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert file["size_bytes"] == path.stat().st_size
        label = manifest.labels[file["row"]]
        assert manifest.classes[label] == Path(file["path"]).parts[0]
    assert manifest.left_out == {
        "dog/broken.png": "is no PNG, JPEG, WebP or BMP image",
        "dog/link.png": "is a symbolic link, which is not followed",
    }
    assert manifest.other_files == {".txt": 1}
    assert manifest.sha256 == hashlib.sha256((tmp_path / "out" / ARRAY).read_bytes()).hexdigest()


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
    monkeypatch.setattr(genkit.data.prepare, "CHUNK_BYTES", 1)  # eight files at a time
    prepared(folder, tmp_path / "two", workers=2)
    assert result(tmp_path / "one") == result(tmp_path / "two")
    assert set(result(tmp_path / "one")) == {ARRAY, MANIFEST}


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
        (ARRAY, lambda b: b[:-1], "images.npy is damaged: it has .* bytes, .* are"),
        (ARRAY, lambda b: b"", "images.npy is damaged: it has 0 bytes"),
        (ARRAY, lambda b: b + b"\0", "images.npy is damaged"),
        (ARRAY, lambda b: b[:500] + bytes([b[500] ^ 1]) + b[501:], "is damaged: the SHA-256"),
        (ARRAY, lambda b: b[:-1] + bytes([b[-1] ^ 128]), "is damaged: the SHA-256"),
        (ARRAY, lambda b: b[:20] + b"x" + b[21:], "images.npy is damaged: it begins otherwise"),
        (ARRAY, None, r"images.npy cannot be read \(No such file"),
        (MANIFEST, lambda b: b.replace(b'"row": 1}', b'"row": 2}'), "changed since genkit wrote"),
        (MANIFEST, lambda b: b.replace(b"[12, 3", b"[11, 3"), "changed since genkit wrote"),
        (MANIFEST, lambda b: b[: len(b) // 2], "was changed since genkit wrote"),
        (MANIFEST, lambda b: b.replace(b"\n", b"\r\n"), "was changed since genkit wrote"),
        (MANIFEST, lambda b: b"", "is no manifest of a prepared folder"),
        (MANIFEST, lambda b: b'{"name": "a web page"}', "is no manifest of a prepared folder"),
        (MANIFEST, lambda b: reseal(b.replace(b'": 1,', b'": 2,', 1)), "is of format 2"),
        (MANIFEST, lambda b: reseal(b.replace(b'"classes"', b'"kinds"')), "cannot be used"),
        (MANIFEST, lambda b: reseal(b.replace(b"[12, 3", b'["x", 3')), "cannot be used|read"),
        (MANIFEST, None, "is no prepared folder"),
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
    if (out / MANIFEST).exists() and (out / MANIFEST).read_bytes().startswith(b'{"genkit_prep'):
        assert prepared(folder, out).decoded == 13
        assert result(out) == whole
    else:  # what lies there is not genkit's to overwrite
        with pytest.raises(UsageError, match="not empty and no prepared folder"):
            prepared(folder, out)


def reseal(content: bytes) -> bytes:
    """A manifest that was edited by someone who knows of its checksum."""
    body, ending, _ = content.rpartition(b',\n"checksum": "')
    return body + ending + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


# Again


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

    def find_and_remove(place: Path) -> object:
        found = walk(place)
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
    (tmp_path / "page" / MANIFEST).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    for out, message in (
        (folder, "lies in"),
        (folder / "sub" / "out", "lies in .*/in, whose images are read"),
        (tmp_path / "link" / "out", "lies in"),
        (tmp_path / "file", "cannot be made"),
        (tmp_path / "file" / "out", "cannot be made"),
        (tmp_path / "full", "is not empty and no prepared folder"),
        (tmp_path / "page", "is not empty and no prepared folder"),
        (tmp_path, "is not empty and no prepared folder"),
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
    with pytest.raises(UsageError, match="nowhere is no folder"):
        open_named(f"prepared:{tmp_path / 'nowhere'}")


# A draft that was left


def leave_draft(folder: Path, out: Path, count: int) -> None:
    """What a process leaves that was killed after `count` files."""
    out.mkdir()
    found = find_images(folder)
    draft = Draft(out, {"size": 16, "channels": "auto"}, found.images, 3 * 16 * 16)
    draft.append(decode_files(folder, found.images[:count], 16, 3))
    draft.close()


@pytest.mark.parametrize(
    ("file", "damage", "kept"),
    [
        (ENTRIES, lambda b: b, 9),
        (ENTRIES, lambda b: b[:-5], 8),
        (ENTRIES, lambda b: b + b"0000", 9),
        (ENTRIES, lambda b: b + b'00000000 {"path": "0.png"}\n', 9),
        (ENTRIES, lambda b: b.replace(b'"grey": false', b'"grey": fals!', 1), 0),
        (ENTRIES, lambda b: b.replace(b'"size": 16', b'"size": 17', 1), 0),
        (ENTRIES, lambda b: b"", 0),
        (ENTRIES, lambda b: bytes(len(b)), 0),  # what a power cut may leave
        (ROWS, lambda b: b[:-1], 8),
        (ROWS, lambda b: b + b"half a row", 9),
        (ROWS, lambda b: b[:1600] + bytes([b[1600] ^ 1]) + b[1601:], 2),
        (ROWS, lambda b: b"", 0),
    ],
)
def test_whatever_a_draft_lost_is_decoded_again(
    tmp_path: Path, file: str, damage: object, kept: int
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    save_images(folder, 12)
    leave_draft(folder, out, 9)
    (out / file).write_bytes(damage((out / file).read_bytes()))
    assert prepared(folder, out).decoded == 12 - kept
    prepared(folder, tmp_path / "fresh")
    assert result(out) == result(tmp_path / "fresh")


def test_draft_of_a_folder_that_changed_meanwhile_is_used_up_to_the_change(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    save_images(folder, 12)
    leave_draft(folder, out, 9)
    os.utime(folder / "2.png", ns=(1, 1))  # the fifth: 0, 1, 10, 11, 2
    assert prepared(folder, out).decoded == 8
    prepared(folder, tmp_path / "fresh")
    assert result(out) == result(tmp_path / "fresh")


def test_unfinished_folder_is_not_taken_for_data(tmp_path: Path) -> None:
    save_images(tmp_path / "in", 12)
    leave_draft(tmp_path / "in", tmp_path / "out", 9)
    with pytest.raises(UsageError, match="is no prepared folder"):
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
