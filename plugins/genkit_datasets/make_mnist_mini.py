"""Makes mnist_mini.npz, the balanced subset of MNIST that ships with genkit.

`python -m genkit_datasets.make_mnist_mini --data-root DIR`; the README beside it has the rule.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genkit_datasets.classic import MNIST_FILES, read_checked
from genkit_datasets.mini import PATH

PER_CLASS = {"train": 1_000, "test": 200}
SEED = 0


def choose(labels: NDArray[np.uint8], per_class: int) -> NDArray[np.int64]:
    """Sorted indices, (10 * per_class,), of the first images of each digit in a seeded order.

    `labels` are (N,), 0 to 9.
    """
    order = np.random.default_rng(SEED).permutation(len(labels))
    chosen = [order[labels[order] == digit][:per_class] for digit in range(10)]
    return np.sort(np.concatenate(chosen))


def pack(arrays: dict[str, NDArray[np.uint8]]) -> bytes:
    """An npz file of `arrays`: without times or owners, so that the same arrays and the same
    zlib give the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # as on Unix, wherever this runs
            archive.writestr(
                entry, content.getvalue(), compress_type=zipfile.ZIP_DEFLATED, compresslevel=9
            )
    return packed.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded subset of MNIST.")
    parser.add_argument(
        "--data-root", type=Path, required=True, help="folder in which MNIST/raw lies"
    )
    parser.add_argument("--output", type=Path, default=PATH, help="file to write")
    arguments = parser.parse_args()
    folder = arguments.data_root / "MNIST" / "raw"
    arrays = {}
    for split, part in (("train", "train"), ("test", "t10k")):
        images, labels = (
            read_checked(folder, name, MNIST_FILES[name])
            for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
        )
        indices = choose(labels, PER_CLASS[split])
        arrays[f"{split}_images"] = images[indices]
        arrays[f"{split}_labels"] = labels[indices]
    content = pack(arrays)
    arguments.output.write_bytes(content)
    print(f"{arguments.output}: {len(content):,} bytes")
    print(f"SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
