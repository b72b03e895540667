"""Data sets: names and options, what a loader may return, files and folders good and bad."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle  # noqa: TID251 (CIFAR-10 is published as pickles: a tiny one is written here)
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import genkit_datasets
from genkit.data import ImageData, Split, Splits, data_root, open_data, parse_data_name
from genkit.errors import PluginError, UsageError
from genkit.specs import DatasetSpec, ImageShape
from genkit_datasets import arrays, classic, decode, folder, make_mnist_mini, mini

SPECS = {spec.name: spec for spec in genkit_datasets.register_datasets()}


def open_named(text: str, root: Path | None = None, **options: object) -> ImageData:
    name, source = parse_data_name(text)
    return open_data(SPECS[name], text, source, options, root)


def open_splits(monkeypatch: pytest.MonkeyPatch, splits: object) -> ImageData:
    """What `open_data` makes of a loader's answer."""
    monkeypatch.setattr(mini, "load", lambda config, source, root: splits)
    return open_named("mnist-mini")


def images(count: int = 8, channels: int = 1, side: int = 4, seed: int = 0) -> np.ndarray:
    shape = (count, channels, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_images(place: Path, count: int = 4, side: int = 32) -> np.ndarray:
    """Random colour PNGs 0.png, 1.png, ... in `place`; returns them as (N, 3, side, side)."""
    place.mkdir(parents=True, exist_ok=True)
    pixels = images(count, 3, side)
    for number, image in enumerate(pixels):
        Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{number}.png")
    return pixels


def all_images(data: ImageData) -> np.ndarray:
    return np.concatenate([data.train.images, data.test.images])


# Names, roots and options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mnist-mini", ("mnist-mini", None)),
        ("folder:sprites/small", ("folder", "sprites/small")),
        ("folder:C:\\sprites", ("folder", "C:\\sprites")),
        ("folder:", ("folder", None)),
    ],
)
def test_data_name_splits_at_first_colon(text: str, expected: tuple[str, str | None]) -> None:
    assert parse_data_name(text) == expected


@pytest.mark.parametrize("text", ["", ":x", "./sprites", "sprites/small", ".."])
def test_a_path_or_nothing_is_no_data_name(text: str) -> None:
    with pytest.raises(UsageError, match="write --data"):
        parse_data_name(text)


def test_data_root_is_option_then_variable_then_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("GENKIT_DATA", "/variable")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_root(Path("~/option")) == Path("/home/someone/option")
    assert data_root(None) == Path("/variable")
    monkeypatch.delenv("GENKIT_DATA")
    assert data_root(None) == Path("/cache/genkit/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert data_root(None) == Path("/home/someone/.cache/genkit/data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root(None) == Path("/home/someone/.cache/genkit/data")


def test_source_is_demanded_or_refused_as_the_spec_says() -> None:
    with pytest.raises(UsageError, match="folder needs a path: --data folder:PATH"):
        open_named("folder")
    with pytest.raises(UsageError, match="mnist-mini takes nothing after its name"):
        open_named("mnist-mini:x")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("folder:x", {"sise": "64"}, "no data option 'sise'.* Did you mean 'size'"),
        ("folder:x", {"size": "300"}, "size.*less than or equal to 256.*300"),
        ("folder:x", {"size": "large"}, "size.*integer.*large"),
        ("folder:x", {"channels": "2"}, "channels.*'auto', '1' or '3'.*2"),
        ("mnist-mini", {"size": "28"}, "mnist-mini has no data option 'size'"),
    ],
)
def test_wrong_option_is_named_with_what_is_allowed(
    name: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_named(name, **options)


# What loaders return


def test_held_out_images_and_training_images_are_a_partition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = np.arange(55, dtype=np.uint8).reshape(55, 1, 1, 1)
    labels = np.arange(55, dtype=np.int64) % 3
    splits = Splits(Split(pixels, labels), classes=("a", "b", "c"), notes=("first",))
    data = open_splits(monkeypatch, splits)
    assert data.held_out and len(data.test.images) == 5
    assert sorted(all_images(data).ravel()) == list(range(55))
    for split in (data.train, data.test):
        assert (split.labels == split.images.ravel() % 3).all()
        assert (np.diff(split.images.ravel().astype(int)) > 0).all()
    assert data.notes[0] == "first" and "held out 5 of 55" in data.notes[1]
    assert open_splits(monkeypatch, splits).fingerprint == data.fingerprint


def test_at_least_one_and_at_most_ten_thousand_images_are_held_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for count, expected in [(3, 1), (19, 1), (20, 2), (200_000, 10_000)]:
        pixels = np.zeros((count, 1, 1, 1), np.uint8)
        assert len(open_splits(monkeypatch, Splits(Split(pixels))).test.images) == expected


def test_a_test_split_that_came_along_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_splits(monkeypatch, Splits(Split(images(2)), Split(images(1, seed=1))))
    assert not data.held_out and not data.notes
    assert (data.test.images == images(1, seed=1)).all()
    assert data.shape == ImageShape(1, 4, 4, 0)


def test_arrays_are_contiguous_and_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = images(6, 3).transpose(0, 1, 3, 2)
    frozen.flags.writeable = False
    data = open_splits(monkeypatch, Splits(Split(frozen), Split(frozen)))
    assert data.train.images.flags.c_contiguous and data.train.images.flags.writeable


def test_fingerprints_are_those_recorded_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is resumed only on data of the recorded fingerprint."""
    assert open_named("mnist-mini").fingerprint.startswith("729184e96f73eb71")
    pixels = (np.arange(128) % 251).astype(np.uint8).reshape(8, 1, 4, 4)
    labels = np.arange(8) % 2
    unlabelled = Splits(Split(pixels), Split(pixels[:2]))
    labelled = Splits(Split(pixels, labels), Split(pixels[:2], labels[:2]), ("a", "b"))
    assert open_splits(monkeypatch, unlabelled).fingerprint.startswith("b17fef7cd0072d36")
    assert open_splits(monkeypatch, labelled).fingerprint.startswith("e5e09243e28cf822")


def test_fingerprint_changes_with_the_intensities(monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint(intensities: np.ndarray | None) -> str:
        train = Split(images() // 255 * 255, None, intensities)
        return open_splits(monkeypatch, Splits(train, Split(images(2)))).fingerprint

    changed = images()
    changed[3, 0, 2, 1] ^= 1
    assert len({fingerprint(None), fingerprint(images()), fingerprint(changed)}) == 3
    assert fingerprint(images()) == fingerprint(images())


def test_intensities_stay_with_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.arange(40, dtype=np.uint8)
    binary = np.where(numbers % 3, np.uint8(255), np.uint8(0))
    frozen = np.asfortranarray(numbers[:, None, None, None].repeat(6, 3))
    frozen.flags.writeable = False
    labels = (numbers % 3).astype(np.int64)
    split = Split(binary[:, None, None, None].repeat(6, 3), labels, frozen)
    data = open_splits(monkeypatch, Splits(split, classes=("a", "b", "c")))
    assert data.held_out and len(data.test.intensities) == 4
    for part in (data.train, data.test):
        assert (part.intensities % 3 == part.labels[:, None, None, None]).all()
        assert ((part.intensities % 3 > 0) * 255 == part.images).all()
        assert part.intensities.flags.c_contiguous and part.intensities.flags.writeable


def test_fingerprint_changes_with_one_pixel_one_label_or_the_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fingerprint(pixels: np.ndarray, labels: np.ndarray | None) -> str:
        classes = () if labels is None else ("a", "b")
        test = Split(pixels[:2], None if labels is None else labels[:2])
        return open_splits(monkeypatch, Splits(Split(pixels, labels), test, classes)).fingerprint

    labels = np.zeros(8, np.int64)
    changed_pixel, changed_label = images(), labels.copy()
    changed_pixel[7, 0, 3, 3] ^= 1
    changed_label[7] = 1
    seen = [
        fingerprint(images(), labels),
        fingerprint(changed_pixel, labels),
        fingerprint(images(), changed_label),
        fingerprint(images(), None),
        fingerprint(images().reshape(8, 1, 2, 8), labels),
    ]
    assert len(set(seen)) == len(seen)
    assert fingerprint(images(), labels) == seen[0] and len(seen[0]) == 64


LABELS = np.zeros(8, np.int64)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([images()], "returned list"),
        (Splits(images()), "gave ndarray as train"),
        (Splits(Split(images().tolist())), "no numpy array"),
        (Splits(Split(images().astype(np.float32))), "float32, not uint8"),
        (Splits(Split(images()[:, 0])), r"shape \(8, 4, 4\)"),
        (Splits(Split(images(channels=2))), r"shape \(8, 2, 4, 4\)"),
        (Splits(Split(images()), Split(images(side=5))), "different shapes"),
        (Splits(Split(images(), LABELS)), "names 0 classes, but its train split has labels"),
        (Splits(Split(images()), classes=("a",)), "train split has no labels"),
        (Splits(Split(images(), LABELS), Split(images()), ("a",)), "test split has no labels"),
        (Splits(Split(images(), LABELS.astype(np.uint8)), classes=("a",)), "uint8, not int64"),
        (Splits(Split(images(), LABELS[:7]), classes=("a",)), r"\(7,\) for 8 images"),
        (Splits(Split(images(), LABELS + 1), classes=("a",)), "from 1 to 1 for 1 classes"),
        (Splits(Split(images(), LABELS - 1), classes=("a",)), "from -1 to -1"),
        (Splits(Split(images(), None, images() / 255)), "intensities that are no uint8 array"),
        (Splits(Split(images(), None, images(7))), r"intensities .* shape \(8, 1, 4, 4\)"),
        (Splits(Split(images(), None, [0])), "intensities that are no uint8 array"),
        (Splits(Split(images(), None, images())), "images of other values than 0 and 255"),
    ],
)
def test_loader_that_breaks_its_contract_is_named(
    monkeypatch: pytest.MonkeyPatch, splits: object, message: str
) -> None:
    with pytest.raises(PluginError, match=f"'mnist-mini' .*{message}"):
        open_splits(monkeypatch, splits)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (Splits(Split(images(0))), "holds no train images"),
        (Splits(Split(images()), Split(images(0))), "holds no test images"),
        (Splits(Split(images(1))), "holds 1 image; the fewest .* are 3"),
        (Splits(Split(images(2))), "holds 2 images; the fewest .* are 3"),
        (Splits(Split(images(1)), Split(images(1))), "single training image"),
    ],
)
def test_too_few_images_are_the_users_to_change(
    monkeypatch: pytest.MonkeyPatch, splits: Splits, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_splits(monkeypatch, splits)


# Embedded MNIST


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
        "import sys, genkit_datasets, genkit.data as d\n"
        "s = {s.name: s for s in genkit_datasets.register_datasets()}\n"
        "assert 'PIL' not in sys.modules\n"
        "d.open_data(s['mnist-mini'], 'mnist-mini')\n"
        f"d.open_data(s['folder'], 'folder', {str(tmp_path)!r})\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Black and white


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


def test_all_of_mnist_is_binarised_by_the_same_rules(tiny_mnist: Path) -> None:
    grey, data = open_named("mnist", tiny_mnist), open_named("mnist-binary", tiny_mnist)
    assert (data.train.intensities == grey.train.images).all()
    random = np.random.RandomState(0)
    for before, after in ((grey.train, data.train), (grey.test, data.test)):
        dice = random.randint(255, size=before.images.shape, dtype=np.uint8)
        assert (after.images == np.where(dice < before.images, 255, 0)).all()
    with pytest.raises(UsageError, match=r"binarisation.*'stochastic' or 'threshold'.*larochelle"):
        open_named("mnist-binary", tiny_mnist, binarisation="larochelle")


# Published files


def write_idx(path: Path, array: np.ndarray) -> bytes:
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content += array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = gzip.compress(content) if path.suffix == ".gz" else content
    path.write_bytes(packed)
    return content


@pytest.fixture
def tiny_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a tiny MNIST whose hashes are expected; the training files are gzipped."""
    raw = tmp_path / "MNIST" / "raw"
    for part, count, ending in (("train", 12, ".gz"), ("t10k", 4, "")):
        for kind, array in (
            ("images-idx3", images(count, 1, 28, seed=count)[:, 0]),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            name = f"{part}-{kind}-ubyte"
            content = write_idx(raw / f"{name}{ending}", array)
            digest = hashlib.sha256(content).hexdigest()
            monkeypatch.setitem(classic.MNIST_FILES, name, digest)
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


def test_cifar10_comes_as_torchvision_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    class OldType:  # as in the published files, whose pickles numpy 2.4 and newer warns of
        def __reduce__(self) -> tuple[object, ...]:
            return np.dtype, ("u1", 0, 1)

    class OldArray:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __reduce__(self) -> tuple[object, ...]:
            flat = Flat(self.array)
            return np.reshape, (flat, self.array.shape)

    class Flat(OldArray):
        def __reduce__(self) -> tuple[object, ...]:
            return np.frombuffer, (self.array.tobytes(), OldType())

    def write(name: str, content: dict[str, object]) -> list[str]:
        path = tmp_path / "cifar-10-batches-py" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(content))
        return [name, hashlib.md5(path.read_bytes()).hexdigest()]

    train, test = (images(count, 3, 32).reshape(count, -1) for count in (5, 2))
    lists = [
        [write("data_batch_1", {"data": OldArray(train), "labels": [0, 1, 1, 0, 1]})],
        [write("test_batch", {"data": OldArray(test), "labels": [1, 0]})],
    ]
    meta = write("batches.meta", {"label_names": ["cat", "ship"]})
    monkeypatch.setattr(CIFAR10, "train_list", lists[0])
    monkeypatch.setattr(CIFAR10, "test_list", lists[1])
    monkeypatch.setattr(
        CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]}
    )
    data = open_named("cifar10", tmp_path)
    assert (data.train.images == train.reshape(5, 3, 32, 32)).all()
    assert data.test.labels.tolist() == [1, 0] and data.classes == ("cat", "ship")


# Folders


def test_folder_gives_all_images_in_the_order_of_their_paths(tmp_path: Path) -> None:
    pixels = save_images(tmp_path / "b", 12)
    data = open_named(f"folder:{tmp_path}")
    assert data.name == f"folder:{tmp_path}" and data.shape == ImageShape(3, 32, 32, 0)
    order = sorted(range(12), key=str)
    splits = folder.load(genkit_datasets.FolderConfig(), str(tmp_path), tmp_path)
    assert (splits.train.images == pixels[order]).all()
    assert splits.train.labels is None  # one sub-folder makes no classes
    assert open_named(f"folder:{tmp_path}").fingerprint == data.fingerprint


def test_first_level_sub_folders_are_classes_if_every_image_lies_in_one(tmp_path: Path) -> None:
    save_images(tmp_path / "dog", 3)
    save_images(tmp_path / "cat" / "black", 2)
    splits = folder.load(genkit_datasets.FolderConfig(), str(tmp_path), tmp_path)
    assert splits.classes == ("cat", "dog") and splits.train.labels.tolist() == [0, 0, 1, 1, 1]
    save_images(tmp_path, 1)
    assert folder.load(genkit_datasets.FolderConfig(), str(tmp_path), tmp_path).classes == ()


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
        f"skipped {name}.png: is no PNG, JPEG, WebP or BMP image"
        for name in ("empty", "postscript", "text")
    )


def test_notes_on_skipped_files_end_after_ten(tmp_path: Path) -> None:
    save_images(tmp_path)
    for number in range(25):
        (tmp_path / f"bad{number}.png").touch()
    splits = folder.load(genkit_datasets.FolderConfig(), str(tmp_path), tmp_path)
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
    splits = folder.load(genkit_datasets.FolderConfig(), str(inside), tmp_path)
    assert len(splits.train.images) == 4
    assert "skipped pipe.png: is no regular file" in splits.notes
    for name in ("deep/up", "self.png", "away", "away.png"):
        assert f"skipped {name}: is a symbolic link, which is not followed" in splits.notes
    (tmp_path / "link").symlink_to(inside)  # the folder itself may be a link: the user typed it
    assert len(folder.find_images(tmp_path / "link")[0]) == 4


def write_huge_png(path: Path, side: int) -> None:
    """A PNG that says it has side x side pixels of one bit, though hardly any follow."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + end)


@pytest.mark.parametrize("side", [8_100, 10_000, 20_000])
def test_huge_images_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    write_huge_png(tmp_path / "huge.png", side)
    with decode.pillow_warnings(), pytest.raises(decode.BadImage, match="64,000,000 pixels"):
        decode.read_image(tmp_path / "huge.png", 32, 3)


def test_names_of_any_script_work_and_notes_stay_printable(tmp_path: Path) -> None:
    save_images(tmp_path / "猫 naïve", 2)
    save_images(tmp_path / "собака", 2)
    (tmp_path / os.fsdecode(b"bad\xff\n\x1b[31m.png")).touch()
    splits = folder.load(genkit_datasets.FolderConfig(), str(tmp_path), tmp_path)
    assert splits.classes == ("собака", "猫 naïve")
    assert splits.notes[0].isprintable() and splits.notes[0].encode()


def read(path: Path, size: int = 32, channels: int = 3) -> np.ndarray:
    """The image as (size, size) or (size, size, 3)."""
    with decode.pillow_warnings():
        return decode.read_image(path, size, channels)[0].transpose(1, 2, 0).squeeze()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(images(1, 3, 32)[0].transpose(1, 2, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        upright = np.asarray(ImageOps.exif_transpose(turned))
    assert (read(tmp_path / "turned.png") == upright).all()


def test_sixteen_bit_greys_are_scaled_not_clipped(tmp_path: Path) -> None:
    greys = images(1, 1, 32)[0, 0]
    Image.fromarray(greys.astype(np.uint16) * 257).save(tmp_path / "a.png")
    save_images(tmp_path)
    assert (read(tmp_path / "a.png", channels=1) == greys).all()
    assert open_named(f"folder:{tmp_path}").notes[0].startswith("16-bit images: 1")


def test_palettes_with_and_without_transparency_become_their_colours(tmp_path: Path) -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(1, (0, 0, 32, 16))
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=bytes([255, 0]))  # colour 1 is see-through
    plain, clear = read(tmp_path / "plain.png"), read(tmp_path / "clear.png")
    assert (plain[:16] == [40, 50, 60]).all() and (plain[16:] == [10, 20, 30]).all()
    assert (clear[:16] == 255).all() and (clear[16:] == [10, 20, 30]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., 3] = np.arange(32) * 8
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    expected = 255 - np.arange(32) * 8  # alpha of black over white
    assert (abs(read(tmp_path / "a.png", channels=1).astype(int) - expected) <= 1).all()


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (40, 40), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    assert (abs(read(tmp_path / "red.jpg").astype(int) - [255, 0, 0]) <= 4).all()


def test_short_side_is_fitted_and_the_centre_kept(tmp_path: Path) -> None:
    wide = Image.new("RGB", (96, 32), "red")
    wide.paste((0, 255, 0), (32, 0, 64, 32))
    wide.save(tmp_path / "wide.png")
    assert (read(tmp_path / "wide.png") == [0, 255, 0]).all()
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "dot.bmp")
    assert (read(tmp_path / "dot.bmp") == [1, 2, 3]).all()


def test_scaling_down_averages(tmp_path: Path) -> None:
    board = (np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    assert (abs(read(tmp_path / "board.png", channels=1).astype(int) - 127.5) < 4).all()


def test_large_jpeg_decodes_to_about_what_its_png_does(tmp_path: Path) -> None:
    smooth = Image.linear_gradient("L").resize((1200, 900)).convert("RGB")
    smooth.save(tmp_path / "a.jpg", quality=95)
    smooth.save(tmp_path / "a.png")
    difference = read(tmp_path / "a.jpg").astype(int) - read(tmp_path / "a.png")
    assert abs(difference).max() <= 3


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


# npz files


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
    splits = arrays.load(None, text.removeprefix("npz:"), tmp_path)
    assert (splits.train.images == expected).all()
    assert open_named(text).held_out


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
        ({"images": images(channels=2)}, r"\(8, 2, 4, 4\); expected is the shape"),
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
    with pytest.raises(UsageError, match="is no file"):
        open_named(f"npz:{tmp_path}")
    text = save_npz(path, images=images(50))
    whole = path.read_bytes()
    for content in (b"", b"some text", whole[: len(whole) // 2], pickle.dumps(images())):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"is no \.npz file"):
            open_named(text)
    damaged = bytearray(whole)
    damaged[400] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match="cannot be read as arrays"):
        open_named(text)


def test_all_specs_have_targets_that_load() -> None:
    assert list(SPECS) == [
        *("mnist-mini", "mnist", "mnist-mini-binary", "mnist-binary"),
        *("fashion-mnist", "cifar10", "folder", "npz"),
    ]
    for spec in SPECS.values():
        assert isinstance(spec, DatasetSpec) and callable(spec.load())
