"""Folders of images: which files, splits and classes, what is left out and why."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from pictures import open_named, save_images
from PIL import Image

from genkit.data.walk import find_images
from genkit.errors import UsageError
from genkit.specs import ImageShape
from genkit_datasets import FolderConfig, folder


def test_folder_gives_all_images_in_the_order_of_their_paths(tmp_path: Path) -> None:
    pixels = save_images(tmp_path / "b", 12)
    data = open_named(f"folder:{tmp_path}")
    assert data.name == f"folder:{tmp_path}" and data.shape == ImageShape(3, 32, 32, 0)
    order = sorted(range(12), key=str)
    splits = folder.load(FolderConfig(), str(tmp_path), tmp_path)
    assert (splits.train.images == pixels[order]).all()
    assert splits.train.labels is None  # one sub-folder makes no classes
    assert open_named(f"folder:{tmp_path}").fingerprint == data.fingerprint


def test_first_level_sub_folders_are_classes_if_every_image_lies_in_one(tmp_path: Path) -> None:
    save_images(tmp_path / "dog", 3)
    save_images(tmp_path / "cat" / "black", 2)
    splits = folder.load(FolderConfig(), str(tmp_path), tmp_path)
    assert splits.classes == ("cat", "dog") and splits.train.labels.tolist() == [0, 0, 1, 1, 1]
    save_images(tmp_path, 1)
    assert folder.load(FolderConfig(), str(tmp_path), tmp_path).classes == ()


def test_folders_train_and_test_are_the_splits(tmp_path: Path) -> None:
    pixels = save_images(tmp_path / "train" / "cat", 3)
    save_images(tmp_path / "train" / "dog", 1)
    save_images(tmp_path / "test" / "dog", 2)
    save_images(tmp_path / "other", 2)
    data = open_named(f"folder:{tmp_path}")
    assert data.classes == ("cat", "dog") and not data.held_out
    assert data.train.labels.tolist() == [0, 0, 0, 1] and data.test.labels.tolist() == [1, 1]
    assert (data.train.images[:3] == pixels).all()
    assert data.notes == ("images outside train and test, left out: 2",)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("train", "val"),
        ("training", "testing"),
        ("TRAIN", "Validation"),
        ("shapes/Training", "shapes/test"),
        ("train_images", "test_images"),
    ],
)
def test_other_spellings_of_train_and_test_are_the_splits(
    tmp_path: Path, train: str, test: str
) -> None:
    for place, count in ((train, 3), (test, 2)):
        for name in ("cat", "dog"):
            save_images(tmp_path / place / name, count)
    save_images(tmp_path / "__MACOSX", 1)
    data = open_named(f"folder:{tmp_path}")
    assert (data.classes, data.held_out) == (("cat", "dog"), False)
    assert (len(data.train.images), len(data.test.images)) == (6, 4)
    assert data.notes[0] == f"training images are those in {train}, test images those in {test}"


def test_beside_test_images_those_for_validation_are_left_out(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        save_images(tmp_path / name, 2)
    data = open_named(f"folder:{tmp_path}")
    assert (len(data.train.images), len(data.test.images)) == (2, 2)
    assert data.notes == ("images outside train and test, left out: 2",)


@pytest.mark.parametrize(
    "names", [("train", "cats"), ("Train", "training", "test"), ("val", "test"), ("test", "dogs")]
)
def test_where_splits_are_unclear_the_user_is_asked(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        save_images(tmp_path / name, 2)
    with pytest.raises(UsageError, match=r"which images of .* are for training"):
        open_named(f"folder:{tmp_path}")
    data = open_named(f"folder:{tmp_path}", splits="none")
    assert data.held_out and data.classes == tuple(sorted(names))


def test_values_of_16_bit_images_pass_the_window_that_is_given(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 64  # 12 bits, as of a microscope
    for number in range(3):
        Image.fromarray(values).save(tmp_path / f"{number}.tif")
    full = open_named(f"folder:{tmp_path}", size=8)
    assert full.train.images.max() == 16 and full.shape.channels == 1
    assert "16-bit images: 3, their values 0 to 65535 scaled to 0 to 255" in full.notes
    data = open_named(f"folder:{tmp_path}", size=8, window="1024-3072")
    expected = np.rint((values.astype(float).clip(1024, 3072) - 1024) / 2048 * 255)
    assert (data.train.images[0, 0] == expected).all()
    assert "16-bit images: 3, their values 1024 to 3072 scaled to 0 to 255" in data.notes
    for window in ("9-1", "0-70000", "all"):
        with pytest.raises(UsageError, match="window"):
            open_named(f"folder:{tmp_path}", window=window)


def test_bad_files_are_left_out_with_their_reasons(tmp_path: Path) -> None:
    save_images(tmp_path)
    good = (tmp_path / "0.png").read_bytes()
    (tmp_path / "text.png").write_text("a text file under a picture's name")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "readme.txt").write_text("of another kind")
    (tmp_path / ".hidden.png").write_bytes(good)
    Image.new("L", (8, 8)).save(tmp_path / "postscript.png", "EPS")
    notes = open_named(f"folder:{tmp_path}").notes
    assert len(notes) == 6 and notes[0] == "skipped other files: 1 (.txt)"
    assert notes[1].startswith("skipped cut.png: is damaged: ")
    assert notes[2:5] == tuple(
        f"skipped {name}.png: is not a PNG, JPEG, WebP, BMP, GIF or TIFF image"
        for name in ("empty", "postscript", "text")
    )


def test_notes_on_skipped_files_end_after_ten(tmp_path: Path) -> None:
    save_images(tmp_path)
    for number in range(25):
        (tmp_path / f"bad{number}.png").touch()
    splits = folder.load(FolderConfig(), str(tmp_path), tmp_path)
    assert len(splits.notes) == 11 and splits.notes[-1] == "and 15 more skipped"


def test_links_and_pipes_neither_loop_nor_leave_nor_block(tmp_path: Path) -> None:
    save_images(tmp_path / "outside", 3)
    inside = tmp_path / "inside"
    save_images(inside / "deep", 4)
    (inside / "deep" / "up").symlink_to(inside)
    (inside / "self.png").symlink_to(inside / "self.png")
    (inside / "away").symlink_to(tmp_path / "outside")
    (inside / "away.png").symlink_to(tmp_path / "outside" / "0.png")
    os.mkfifo(inside / "pipe.png")
    splits = folder.load(FolderConfig(), str(inside), tmp_path)
    assert len(splits.train.images) == 4
    assert "skipped pipe.png: is not a regular file" in splits.notes
    for name in ("deep/up", "self.png", "away", "away.png"):
        assert f"skipped {name}: is a symbolic link, which is not followed" in splits.notes
    (tmp_path / "link").symlink_to(inside)  # the folder itself may be a link: the user typed it
    assert len(find_images(tmp_path / "link").images) == 4


def test_names_of_any_script_work_and_notes_stay_printable(tmp_path: Path) -> None:
    save_images(tmp_path / "猫 naïve", 2)
    save_images(tmp_path / "собака", 2)
    (tmp_path / os.fsdecode(b"bad\xff\n\x1b[31m.png")).touch()
    splits = folder.load(FolderConfig(), str(tmp_path), tmp_path)
    assert splits.classes == ("собака", "猫 naïve")
    assert splits.notes[0].isprintable() and splits.notes[0].encode()


def test_one_colour_image_among_greys_makes_the_set_colour(tmp_path: Path) -> None:
    for number, mode in enumerate(("L", "RGB", "1", "LA")):
        Image.new("L", (32, 32), 255 * (number % 2)).convert(mode).save(tmp_path / f"{number}.png")
    assert open_named(f"folder:{tmp_path}").shape.channels == 1  # grey by content, not by mode
    assert open_named(f"folder:{tmp_path}", channels="3").shape.channels == 3
    Image.new("RGB", (32, 32), (9, 8, 7)).save(tmp_path / "colour.webp", lossless=True)
    assert open_named(f"folder:{tmp_path}").shape.channels == 3
    data = open_named(f"folder:{tmp_path}", channels="1", size="40")
    assert data.shape == ImageShape(1, 40, 40, 0)


def test_missing_or_useless_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere does not exist"):
        open_named(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file, not a folder"):
        open_named(f"folder:{tmp_path / 'file'}")
    with pytest.raises(UsageError, match=r"holds no image .*png.*other files: 1 \(no extension\)"):
        open_named(f"folder:{tmp_path}")
    with pytest.raises(UsageError, match="does not exist"):
        open_named("folder:" + "x" * 5_000)
    save_images(tmp_path / "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(UsageError, match="test holds no image"):
        open_named(f"folder:{tmp_path}")
