"""Make digits.safetensors and digits_reference.safetensors from MNIST's training split.

    python -m genkit_fidelity.train_digits --data-root DIR --out DIR

Kept so that anyone can see where the shipped weights come from; nothing in genkit runs it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from genkit.features import extract, statistics_of
from genkit.specs import Config
from genkit_fidelity.classifier import accuracy, train
from genkit_fidelity.features import DIGITS_REFERENCE, DIGITS_WEIGHTS, Digits

LICENCE = "MNIST by Yann LeCun and Corinna Cortes, CC BY-SA 3.0; this file is under the same"
LEAST_ACCURACY = 0.992


def read_idx(root: Path, stem: str) -> Tensor:
    """The uint8 array of an idx file named `stem`, anywhere below `root`."""
    found = sorted(root.rglob(stem))
    if not found:
        raise SystemExit(f"no {stem} below {root}: download and unpack MNIST's four files there")
    data = found[0].read_bytes()
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)  # byte 3: number of dimensions
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    return torch.from_numpy(values.reshape(shape.tolist()).copy())


def write(path: Path, tensors: dict[str, Tensor], card: dict[str, str | int | float]) -> None:
    # One key of metadata: safetensors writes several in random order, and the hash would change.
    path.write_bytes(save(tensors, {"genkit": json.dumps(card)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True, help="folder with the idx files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two files")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the images")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and shifts")
    options = parser.parse_args()
    torch.set_num_threads(1)  # features and accuracy are computed as the weights are: on one thread

    train_images = read_idx(options.data_root, "train-images-idx3-ubyte").unsqueeze(1)
    train_labels = read_idx(options.data_root, "train-labels-idx1-ubyte").long()
    test_images = read_idx(options.data_root, "t10k-images-idx3-ubyte").unsqueeze(1)
    test_labels = read_idx(options.data_root, "t10k-labels-idx1-ubyte").long()

    network = train(train_images, train_labels, 10, options.epochs, options.seed)
    reached = accuracy(network, test_images, test_labels)
    if reached < LEAST_ACCURACY:
        raise SystemExit(f"accuracy {reached:.2%} is below {LEAST_ACCURACY:.1%}: nothing written")

    weights = options.out / DIGITS_WEIGHTS.name
    write(
        weights,
        network.state_dict(),
        {
            "made_by": "genkit_fidelity.train_digits",
            "test_accuracy": reached,
            "epochs": options.epochs,
            "seed": options.seed,
            "torch": torch.__version__,
            "licence": LICENCE,
        },
    )
    extractor = Digits(Config(), weights)
    statistics = statistics_of(extract(extractor, train_images)[0])
    write(
        options.out / DIGITS_REFERENCE,
        {"mean": statistics.mean, "covariance": statistics.covariance},
        {
            "extractor": extractor.identity,
            "count": statistics.count,
            "images": "MNIST, training split",
            "images_sha256": hashlib.sha256(train_images.numpy().tobytes()).hexdigest(),
            "licence": LICENCE,
        },
    )
    print(f"{extractor.identity}: accuracy {reached:.2%} on {len(test_images):,} test images")


if __name__ == "__main__":
    main()
