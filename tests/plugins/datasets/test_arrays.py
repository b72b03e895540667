"""Images from .npz files: layouts, labels, and what is refused."""

from __future__ import annotations

import pickle  # noqa: TID251 (CIFAR-10 is published as pickles: a tiny one is written here)
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pictures import images, open_named

from genkit.data.alpha import premultiply, straighten
from genkit.data.walk import hold_out
from genkit.errors import UsageError

LABELS = np.zeros(8, np.int64)


def save_npz(path: Path, **content: np.ndarray) -> str:
    np.savez(path, **content)
    return f"npz:{path}"


@pytest.mark.parametrize("key", ["images", "arr_0", "anything"])
@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW"])
def test_npz_images_of_any_layout_come_out_alike(tmp_path: Path, key: str, layout: str) -> None:
    channels = 1 if layout == "NHW" else 3
    expected = images(5, channels)
    given = {"NHW": expected[:, 0], "NHWC": expected.transpose(0, 2, 3, 1), "NCHW": expected}
    text = save_npz(tmp_path / "a.npz", **{key: given[layout]})
    data, (train, test) = open_named(text), hold_out(5, text)
    assert np.array_equal(data.train.images, expected[train]) and data.held_out
    assert np.array_equal(data.test.images, expected[test])


def test_npz_splits_and_labels_are_used_and_others_named(tmp_path: Path) -> None:
    text = save_npz(
        tmp_path / "a.npz",
        train_images=images(4),
        test_images=images(2),
        train_labels=np.array([[7], [3], [7], [9]], np.uint8),
        test_labels=np.array([9, 3]),
        val_images=images(1),
    )
    data = open_named(text)
    assert data.classes == ("3", "7", "9") and not data.held_out
    assert data.train.labels.tolist() == [1, 0, 1, 2] and data.test.labels.tolist() == [2, 0]
    assert data.notes == ("a.npz: not used: val_images",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": images().astype(np.float32)}, "float32.*expected are uint8"),
        ({"images": np.array([{}, {}])}, "cannot be read as arrays of numbers"),
        ({"images": images()[0, 0]}, r"\(4, 4\); expected is the shape"),
        ({"images": images(channels=5, side=6)}, r"\(8, 5, 6, 6\); expected is the shape"),
        ({"images": images(side=0)}, "no pixels"),
        ({"images": images(0)}, "holds no train images"),
        ({"images": images(0), "labels": LABELS[:0]}, "holds no train images"),
        ({"train_images": images(), "test_images": images(side=5)}, "differ in shape"),
        ({"a": images(), "b": images()}, "holds a, b; expected are 'images'"),
        ({}, "holds no arrays"),
        ({"images": images(), "labels": LABELS[:3]}, "expected are 8 integers"),
        ({"images": images(), "labels": LABELS / 2}, "float64.*expected are 8 integers"),
    ],
)
def test_npz_with_other_content_is_refused_with_what_was_found(
    tmp_path: Path, content: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_named(save_npz(tmp_path / "a.npz", **content))


def test_what_is_no_npz_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(UsageError, match="does not exist"):
        open_named(f"npz:{path}")
    with pytest.raises(UsageError, match="is not a file"):
        open_named(f"npz:{tmp_path}")
    text = save_npz(path, images=images(50))
    whole = path.read_bytes()
    for content in (b"", b"some text", whole[: len(whole) // 2], pickle.dumps(images())):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"is not an \.npz file"):
            open_named(text)
    damaged = bytearray(whole)
    damaged[400] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match="cannot be read as arrays"):
        open_named(text)


@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_npz_images_are_in_memory_once(tmp_path: Path, layout: tuple[int, ...]) -> None:
    train, test = images(6000, 3, 32), images(100, 3, 32)
    arrays = {"train_images": train.transpose(layout), "test_images": test.transpose(layout)}
    np.savez(tmp_path / "a.npz", **arrays)
    tracemalloc.start()
    try:
        data = open_named(f"npz:{tmp_path / 'a.npz'}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (data.train.images == train).all() and (data.test.images == test).all()
    assert peak < 1.15 * (train.nbytes + test.nbytes)  # with two parts being moved


@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 2, 3, 1)])
@pytest.mark.parametrize("channels", [3, 4])
def test_npz_images_are_in_memory_once_while_some_are_held_out(
    tmp_path: Path, channels: int, layout: tuple[int, ...]
) -> None:
    every, labels = premultiply(images(6000, channels, 32)), np.arange(6000) % 7
    train, test = hold_out(6000, "a.npz")
    np.savez(tmp_path / "a.npz", images=straighten(every).transpose(layout), labels=labels)
    tracemalloc.start()
    try:
        data = open_named(f"npz:{tmp_path / 'a.npz'}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(data.train.images, every[train]) and data.held_out
    assert np.array_equal(data.test.images, every[test])
    assert np.array_equal(data.train.labels, labels[train])
    assert np.array_equal(data.test.labels, labels[test])
    assert peak < 1.1 * every.nbytes
