"""The digits that come with genkit, in grey and in black and white."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pictures import images, open_named, save_images

from genkit.errors import PluginError
from genkit.specs import ImageShape
from genkit_datasets import make_mnist_mini, mini


def test_mnist_mini_is_balanced_and_complete() -> None:
    data = open_named("mnist-mini")
    assert data.train.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(data.train.labels).tolist() == [1_000] * 10
    assert np.bincount(data.test.labels).tolist() == [200] * 10
    assert data.shape == ImageShape(1, 28, 28, 10) and data.classes == tuple("0123456789")
    assert (data.features, data.reference, data.held_out) == ("digits", "mnist-train", False)
    assert data.train.images.max() == 255 and data.train.images[:, :, :2, :2].max() == 0


def test_damaged_mnist_mini_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mini.npz").write_bytes(mini.PATH.read_bytes()[:-1])
    monkeypatch.setattr(mini, "PATH", tmp_path / "mini.npz")
    with pytest.raises(PluginError, match=f"is damaged.*{mini.SHA256[:8]}"):
        open_named("mnist-mini")


def test_making_mnist_mini_is_balanced_and_byte_reproducible() -> None:
    labels = np.random.default_rng(5).integers(0, 10, 400).astype(np.uint8)
    chosen = make_mnist_mini.choose(labels, 20)
    assert np.bincount(labels[chosen]).tolist() == [20] * 10
    assert (np.diff(chosen) > 0).all()
    packed = make_mnist_mini.pack({"a": labels, "b": images()})
    assert packed == make_mnist_mini.pack({"a": labels, "b": images()})
    with zipfile.ZipFile(mini.PATH) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_light_data_sets_open_without_torch(tmp_path: Path) -> None:
    save_images(tmp_path)
    code = (
        "import sys, genkit_datasets, genkit.data.datasets as d\n"
        "s = {s.name: s for s in genkit_datasets.register_datasets()}\n"
        "assert 'PIL' not in sys.modules\n"
        "d.open_data(s['mnist-mini'], 'mnist-mini')\n"
        f"d.open_data(s['folder'], 'folder', {str(tmp_path)!r})\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_threshold_of_128_divides_black_from_white() -> None:
    grey, data = open_named("mnist-mini"), open_named("mnist-mini-binary", binarisation="threshold")
    for before, after in ((grey.train, data.train), (grey.test, data.test)):
        assert set(np.unique(after.images[before.images >= 128])) == {255}
        assert set(np.unique(after.images[before.images < 128])) == {0}
        assert (after.labels == before.labels).all() and after.intensities is None


def test_random_binarisation_has_the_grey_images_as_its_probabilities() -> None:
    grey, data = open_named("mnist-mini"), open_named("mnist-mini-binary")
    assert (data.train.intensities == grey.train.images).all() and data.test.intensities is None
    for before, after in ((grey.train, data.train), (grey.test, data.test)):
        assert set(np.unique(after.images)) == {0, 255}
        assert (after.labels == before.labels).all()
        for low in range(0, 256, 32):
            some = (before.images >= low) & (before.images < low + 32)
            wanted = before.images[some] / 255
            deviation = np.sqrt((wanted * (1 - wanted)).sum())
            assert abs((after.images[some] / 255 - wanted).sum()) < 4 * deviation
        assert (after.images[before.images == 255] == 255).all()
        assert (after.images[before.images == 0] == 0).all()
    assert data.classes == grey.classes and (data.features, data.reference) == ("digits", None)


def test_the_draw_that_scores_refer_to_is_the_same_for_good() -> None:
    assert open_named("mnist-mini-binary").fingerprint.startswith("249aa123b3f69724")
    threshold = open_named("mnist-mini-binary", binarisation="threshold")
    assert threshold.fingerprint.startswith("095902bb11bd75e4")
