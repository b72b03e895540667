"""`zip:` against `folder:` of the same files, StyleGAN's labels, and hostile files."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pictures import all_images, open_named, save_images

from genkit.errors import UsageError


def pack(folder: Path, more: dict[str, bytes] | None = None) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder))
        for name, content in (more or {}).items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("places", [[""], ["b", "a"], ["train/x", "train/y", "test/x", "test/y"]])
@pytest.mark.parametrize("top", ["", "all-of-it"])
def test_a_zip_file_is_the_data_of_its_folder(tmp_path: Path, places: list[str], top: str) -> None:
    for place in places:
        save_images(tmp_path / "in" / top / place)
    (tmp_path / "in" / "notes.txt").write_text("text")
    (tmp_path / "in" / "text.png").write_text("text") if places == [""] else None
    folder = open_named(f"folder:{tmp_path / 'in'}")
    data = open_named(f"zip:{pack(tmp_path / 'in', {'__MACOSX/._0.png': b'x'})}")
    assert data.fingerprint == folder.fingerprint and data.classes == folder.classes
    assert data.notes[:-1] == folder.notes[:-1] or not folder.held_out


def test_labels_of_stylegans_layout_are_the_classes(tmp_path: Path) -> None:
    save_images(tmp_path / "in" / "00000", 4)
    save_images(tmp_path / "in" / "00001", 4)
    names = [f"{place}/{number}.png" for place in ("00000", "00001") for number in range(4)]
    labels = [7, 3, 3, 7, 7, 7, 3, 7]
    more = {"dataset.json": json.dumps({"labels": list(zip(names, labels, strict=True))}).encode()}
    data = open_named(f"zip:{pack(tmp_path / 'in', more)}")
    assert data.classes == ("3", "7")
    counts = np.bincount(data.train.labels) + np.bincount(data.test.labels, minlength=2)
    assert counts.tolist() == [3, 5]
    more = {"dataset.json": b'{"labels": null}'}
    plain = open_named(f"zip:{pack(tmp_path / 'in', more)}")
    assert plain.classes == () and (all_images(plain) == all_images(data)).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (b"{", "cannot be used"),
        (b"[]", "cannot be used"),
        (b'{"labels": [["0.png", 1]]}', "no label for 1.png and 2 others"),
        (b'{"labels": [["0.png", 1], ["1.png", 1], ["2.png", 1], ["3.png", [1]]]}', "whole num"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, labels: bytes, message: str) -> None:
    save_images(tmp_path / "in")
    with pytest.raises(UsageError, match=f"dataset.json in .*{message}"):
        open_named(f"zip:{pack(tmp_path / 'in', {'dataset.json': labels})}")


def test_damaged_and_oversized_entries_are_left_out_and_names_lead_nowhere(tmp_path: Path) -> None:
    save_images(tmp_path / "in", 5)
    path = pack(tmp_path / "in", {"../../up.png": b"x", "/root.png": b"x"})
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first, second = archive.infolist()[:2]
    content[first.header_offset + 60] ^= 255  # packed pixels
    at = content.rindex(second.filename.encode()) - 46 + 24  # its size in the directory
    struct.pack_into("<I", content, at, 2**31)
    path.write_bytes(content)
    data = open_named(f"zip:{path}")
    assert len(all_images(data)) == 3
    skipped = {note.split()[1]: note for note in data.notes if note.startswith("skipped")}
    bad = {f"{first.filename}:", f"{second.filename}:"}
    assert set(skipped) == {*bad, "/root.png:"}  # what leads upwards is hidden
    assert "cannot be unpacked" in skipped[f"{first.filename}:"]
    assert "has more than 268,435,456 bytes" in skipped[f"{second.filename}:"]


def test_what_is_not_a_zip_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 or not")
    for name in ("a.zip", "nowhere.zip", "."):
        with pytest.raises(UsageError, match="cannot be read as a zip file"):
            open_named(f"zip:{tmp_path / name}")
