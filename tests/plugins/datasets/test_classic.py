"""Data sets that are downloaded, MNIST, its relatives and CIFAR-10: no file is trusted by name."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle  # noqa: TID251 (CIFAR-10 is published as pickles: a tiny one is written here)
import struct
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from pictures import images, open_named

from genkit.errors import UsageError
from genkit_datasets import classic


def test_all_of_mnist_is_binarised_by_the_same_rules(tiny_mnist: Path) -> None:
    grey, data = open_named("mnist", tiny_mnist), open_named("mnist-binary", tiny_mnist)
    assert (data.train.intensities == grey.train.images).all()
    random = np.random.RandomState(0)
    for before, after in ((grey.train, data.train), (grey.test, data.test)):
        dice = random.randint(255, size=before.images.shape, dtype=np.uint8)
        assert (after.images == np.where(dice < before.images, 255, 0)).all()
    with pytest.raises(UsageError, match=r"binarisation.*'stochastic' or 'threshold'.*larochelle"):
        open_named("mnist-binary", tiny_mnist, binarisation="larochelle")


def write_idx(path: Path, array: np.ndarray) -> bytes:
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content += array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = gzip.compress(content) if path.suffix == ".gz" else content
    path.write_bytes(packed)
    return content


def make_tiny(root: Path, folder: str, hashes: dict[str, str], patch: pytest.MonkeyPatch) -> Path:
    """A tiny data set in MNIST's layout whose hashes are expected; training files are gzipped."""
    raw = root / folder / "raw"
    for part, count, ending in (("train", 12, ".gz"), ("t10k", 4, "")):
        for kind, array in (
            ("images-idx3", images(count, 1, 28, seed=count)[:, 0]),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            name = f"{part}-{kind}-ubyte"
            content = write_idx(raw / f"{name}{ending}", array)
            patch.setitem(hashes, name, hashlib.sha256(content).hexdigest())
    return raw


@pytest.fixture
def tiny_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_tiny(tmp_path, "MNIST", classic.MNIST_FILES, monkeypatch)
    return tmp_path


def no_network(*arguments: object, **options: object) -> None:
    raise urllib.error.URLError("no network in tests")


def test_idx_files_read_as_torchvision_reads_them(tiny_mnist: Path) -> None:
    from torchvision.datasets import MNIST

    data = open_named("mnist", tiny_mnist)
    for file in (tiny_mnist / "MNIST" / "raw").glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    for train, split in ((True, data.train), (False, data.test)):
        theirs = MNIST(tiny_mnist, train=train)
        assert (split.images[:, 0] == theirs.data.numpy()).all()
        assert (split.labels == theirs.targets.numpy()).all()
    assert open_named("mnist", tiny_mnist).fingerprint == data.fingerprint  # now without .gz


def test_another_file_under_a_right_name_is_refused(tmp_path: Path) -> None:
    for name in classic.MNIST_FILES:
        shape = (60, 28, 28) if "images" in name else (60,)
        write_idx(tmp_path / "MNIST" / "raw" / name, np.zeros(shape, np.uint8))
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte is .*instead of ba891046"):
        open_named("mnist", tmp_path)


def test_truncated_gzip_is_refused_by_name(tiny_mnist: Path) -> None:
    path = tiny_mnist / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        open_named("mnist", tiny_mnist)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x0d\1" + bytes(8),  # floats
        b"\0\0\x08\3\0\0\0\1",  # two of three sizes are missing
        b"\0\0\x08\1\0\0\0\3ab",  # one value too few
        b"\0\0\x08\1\0\0\0\1ab",  # one too many
    ],
)
def test_what_is_no_idx_file_of_bytes_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        classic.parse_idx(np.frombuffer(content, np.uint8))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_without_files_and_network_the_remedies_are_named(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(UsageError, match="no network in tests") as caught:
        open_named(name, tmp_path)
    for part in (str(tmp_path), "--data-root DIR", "--data mnist-mini"):
        assert part in str(caught.value)
    assert capsys.readouterr().out == ""


def swap(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


MNIST_DAMAGES = {
    "labels swapped for images": lambda raw: swap(
        raw / "t10k-labels-idx1-ubyte", raw / "t10k-images-idx3-ubyte"
    ),
    "one bit flipped": lambda raw: flip_last_bit(raw / "t10k-images-idx3-ubyte"),
    "cut": lambda raw: os.truncate(raw / "t10k-images-idx3-ubyte", 1000),
    "empty": lambda raw: os.truncate(raw / "t10k-labels-idx1-ubyte", 0),
    "longer": lambda raw: (raw / "t10k-labels-idx1-ubyte").write_bytes(bytes(13)),
    "training images as test images": lambda raw: (raw / "t10k-images-idx3-ubyte").write_bytes(
        gzip.decompress((raw / "train-images-idx3-ubyte.gz").read_bytes())
    ),
    "gzip swapped": lambda raw: swap(
        raw / "train-labels-idx1-ubyte.gz", raw / "train-images-idx3-ubyte.gz"
    ),
    "gzip cut": lambda raw: os.truncate(raw / "train-images-idx3-ubyte.gz", 500),
    "gzip empty": lambda raw: os.truncate(raw / "train-images-idx3-ubyte.gz", 0),
    "no gzip": lambda raw: (raw / "train-images-idx3-ubyte.gz").write_bytes(b"text"),
    "plain file beside the gzip": lambda raw: (raw / "train-labels-idx1-ubyte").write_bytes(b"x"),
}


@pytest.mark.parametrize("damage", MNIST_DAMAGES)
@pytest.mark.parametrize(
    ("name", "folder", "hashes"),
    [
        ("mnist", "MNIST", classic.MNIST_FILES),
        ("mnist-binary", "MNIST", classic.MNIST_FILES),
        ("fashion-mnist", "FashionMNIST", classic.FASHION_MNIST_FILES),
    ],
)
def test_no_file_of_mnists_layout_is_trusted_for_its_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    folder: str,
    hashes: dict[str, str],
    damage: str,
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    raw = make_tiny(tmp_path, folder, hashes, monkeypatch)
    assert len(open_named(name, tmp_path).train.images) == 12
    MNIST_DAMAGES[damage](raw)
    with pytest.raises(UsageError, match=r"ubyte(\.gz)? is damaged.*delete it") as caught:
        open_named(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_fashion_mnists_files_are_not_taken_for_mnists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny(tmp_path, "FashionMNIST", classic.FASHION_MNIST_FILES, monkeypatch)
    (tmp_path / "FashionMNIST").rename(tmp_path / "MNIST")
    with pytest.raises(UsageError, match="damaged or not the published file"):
        open_named("mnist", tmp_path)


class OldType:
    """As in CIFAR-10's published files, whose pickles numpy 2.4 and newer warns of."""

    def __reduce__(self) -> tuple[object, ...]:
        return np.dtype, ("u1", 0, 1)


class Flat:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self) -> tuple[object, ...]:
        return np.frombuffer, (self.array.tobytes(), OldType())


class OldArray(Flat):
    def __reduce__(self) -> tuple[object, ...]:
        return np.reshape, (Flat(self.array), self.array.shape)


CIFAR_PIXELS = [images(count, 3, 32).reshape(count, -1) for count in (5, 2)]


@pytest.fixture
def tiny_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a tiny CIFAR-10 whose hashes are expected; there is no network."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: dict[str, object]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    train, test = map(OldArray, CIFAR_PIXELS)
    lists = [
        [write("data_batch_1", {"data": train, "labels": [0, 1, 1, 0, 1]})],
        [write("test_batch", {"data": test, "labels": [1, 0]})],
    ]
    meta = write("batches.meta", {"label_names": ["cat", "ship"]})
    monkeypatch.setattr(CIFAR10, "train_list", lists[0])
    monkeypatch.setattr(CIFAR10, "test_list", lists[1])
    monkeypatch.setattr(
        CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]}
    )
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return folder


def test_cifar10_comes_as_torchvision_has_it(tiny_cifar10: Path) -> None:
    data = open_named("cifar10", tiny_cifar10.parent)
    assert (data.train.images == CIFAR_PIXELS[0].reshape(5, 3, 32, 32)).all()
    assert data.test.labels.tolist() == [1, 0] and data.classes == ("cat", "ship")


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


CIFAR_DAMAGES = {
    "swapped": lambda folder: swap(folder / "data_batch_1", folder / "test_batch"),
    "one bit flipped": lambda folder: flip_last_bit(folder / "data_batch_1"),
    "cut": lambda folder: os.truncate(folder / "test_batch", 100),
    "empty": lambda folder: os.truncate(folder / "test_batch", 0),
    "names of classes changed": lambda folder: flip_last_bit(folder / "batches.meta"),
    "code": lambda folder: (folder / "data_batch_1").write_bytes(
        pickle.dumps(Trap(folder / "canary"))
    ),
    "code for names": lambda folder: (folder / "batches.meta").write_bytes(
        pickle.dumps(Trap(folder / "canary"))
    ),
}


@pytest.mark.parametrize("damage", CIFAR_DAMAGES)
def test_no_file_of_cifar10_is_trusted_for_its_name(tiny_cifar10: Path, damage: str) -> None:
    CIFAR_DAMAGES[damage](tiny_cifar10)
    with pytest.raises(UsageError) as caught:
        open_named("cifar10", tiny_cifar10.parent)
    assert "\n" not in str(caught.value) and str(tiny_cifar10) in str(caught.value)
    assert not (tiny_cifar10 / "canary").exists()
