"""MNIST, Fashion-MNIST and CIFAR-10 from the files that their authors publish.

MNIST's files are read here, each checked by its hash; torchvision only downloads what is missing.
"""

from __future__ import annotations

import gzip
import hashlib
import warnings
import zlib
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genkit.data import Split, Splits, downloading
from genkit.errors import UsageError
from genkit.specs import Config

DIGITS = tuple("0123456789")
GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

# SHA-256 of the decompressed files: gzip headers differ between copies, the content does not.
MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

REMEDY = (
    "Give --data-root DIR where the files lie, or use --data mnist-mini, which needs no download"
)


def load_mnist(config: Config, source: str | None, root: Path) -> Splits:
    """60,000 + 10,000 handwritten digits, 1 x 28 x 28, from `root/MNIST/raw`."""
    return _load_idx_files("MNIST", "MNIST", MNIST_FILES, DIGITS, root)


def load_fashion_mnist(config: Config, source: str | None, root: Path) -> Splits:
    """60,000 + 10,000 photos of clothes, 1 x 28 x 28, from `root/FashionMNIST/raw`."""
    return _load_idx_files("Fashion-MNIST", "FashionMNIST", FASHION_MNIST_FILES, GARMENTS, root)


def load_cifar10(config: Config, source: str | None, root: Path) -> Splits:
    """50,000 + 10,000 photos, 3 x 32 x 32, from `root/cifar-10-batches-py`.

    torchvision reads the files, after it has compared each with its MD5.
    """
    from torchvision.datasets import CIFAR10

    folder = root / "cifar-10-batches-py"
    with _download("CIFAR-10", folder), warnings.catch_warnings():
        # The files' pickles are older than numpy's rule that this argument is a bool.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        parts = [CIFAR10(root, train=train, download=True) for train in (True, False)]
    train, test = (
        Split(
            np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)),  # (N, H, W, C) -> (N, C, H, W)
            np.asarray(part.targets, dtype=np.int64),
        )
        for part in parts
    )
    return Splits(train, test, tuple(parts[0].classes))


def parse_idx(content: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The array, uint8, of any shape, in the bytes, uint8, (N,), of an idx file: two zeros, type 8,
    number of axes, sizes, values.

    Raises:
        ValueError: `content` is not such a file, or is longer or shorter than it says.
    """
    if len(content) < 4 or bytes(content[:3]) != b"\x00\x00\x08":
        raise ValueError(f"not an idx file of bytes: it begins with {bytes(content[:4])!r}")
    header_bytes = 4 + 4 * int(content[3])
    shape = tuple(int(size) for size in content[4:header_bytes].view(">u4"))
    values = content[header_bytes:]
    if len(shape) != content[3] or values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{values.size} values instead of those of an array {shape}")
    return values.reshape(shape)


def read_checked(folder: Path, name: str, sha256: str) -> NDArray[np.uint8]:
    """The array, uint8, in the idx file `name`, or `name.gz`, in `folder`, after comparing its
    content's SHA-256: images, (N, 28, 28), or labels, (N,).

    Raises:
        UsageError: the file is damaged, or is another one under this name.
    """
    path = folder / name
    remedy = "delete it to have it downloaded again, or give another --data-root DIR"
    try:
        if path.is_file():
            content = np.fromfile(path, dtype=np.uint8)
        else:
            path = folder / f"{name}.gz"
            content = np.frombuffer(bytearray(gzip.decompress(path.read_bytes())), dtype=np.uint8)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is damaged ({error}); {remedy}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    found = hashlib.sha256(content.data).hexdigest()
    if found != sha256:
        raise UsageError(
            f"{path} is damaged or not the published file: the SHA-256 of its content begins with "
            f"{found[:8]} instead of {sha256[:8]}; {remedy}"
        )
    return parse_idx(content)


def _load_idx_files(
    title: str, folder_name: str, hashes: dict[str, str], classes: tuple[str, ...], root: Path
) -> Splits:
    """Splits of a data set in MNIST's layout; `folder_name` is also torchvision's class."""
    folder = root / folder_name / "raw"
    if _missing(folder, hashes):
        from torchvision import datasets

        with _download(title, folder):
            getattr(datasets, folder_name)(root, download=True)
            if missing := _missing(folder, hashes):
                raise FileNotFoundError(f"{', '.join(missing)} did not arrive")
    arrays = {name: read_checked(folder, name, sha256) for name, sha256 in hashes.items()}
    train, test = (
        Split(
            arrays[f"{part}-images-idx3-ubyte"][:, None],  # (N, 28, 28) -> (N, 1, 28, 28)
            arrays[f"{part}-labels-idx1-ubyte"].astype(np.int64),
        )
        for part in ("train", "t10k")
    )
    return Splits(train, test, classes)


def _missing(folder: Path, names: dict[str, str]) -> list[str]:
    """Those of `names` that are neither in `folder` nor there with .gz appended."""
    return [n for n in names if not any((folder / f"{n}{end}").is_file() for end in ("", ".gz"))]


def _download(title: str, folder: Path) -> AbstractContextManager[None]:
    """Let torchvision download a data set into a folder."""
    return downloading(f"{title} is missing or damaged in {folder} and", REMEDY)
