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
from torch.nn import functional as F

from genkit.metrics import compute_statistics
from genkit.specs import Config
from genkit_fidelity.features import DIGITS_REFERENCE, DIGITS_WEIGHTS, Digits, DigitsNetwork

LICENCE = "MNIST by Yann LeCun and Corinna Cortes, CC BY-SA 3.0; this file is under the same"
LEAST_ACCURACY = 0.992
BATCH = 128


def read_idx(root: Path, stem: str) -> Tensor:
    """The uint8 array of an idx file named `stem`, anywhere below `root`."""
    found = sorted(root.rglob(stem))
    if not found:
        raise SystemExit(f"no {stem} below {root}: download and unpack MNIST's four files there")
    data = found[0].read_bytes()
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)  # byte 3: number of dimensions
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    return torch.from_numpy(values.reshape(shape.tolist()).copy())


def shift(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image moved by its own random offset, at most `pixels` in each direction."""
    count, _, height, width = images.shape
    padded = F.pad(images, [pixels] * 4)
    top, left = torch.randint(2 * pixels + 1, (2, count, 1), generator=generator)
    rows = (top + torch.arange(height))[:, :, None]
    columns = (left + torch.arange(width))[:, None, :]
    return padded[torch.arange(count)[:, None, None], 0, rows, columns].unsqueeze(1)


def train(images: Tensor, labels: Tensor, epochs: int, seed: int) -> DigitsNetwork:
    """Train the classifier with AdamW, one cycle of the learning rate and shifted images."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = DigitsNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for batch in order.split(BATCH)[: len(images) // BATCH]:
            _, logits = network(shift(images[batch], pixels=2, generator=generator))
            loss = F.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs}: loss of the last batch {loss.item():.4f}", flush=True)
    return network.eval()


@torch.inference_mode()
def scale_features(network: DigitsNetwork, images: Tensor) -> None:
    """Scale the features so that |features|^2 / 64 averages 1 over `images`; logits stay."""
    total = sum(network(batch)[0].double().square().sum() for batch in images.split(500))
    scale = (total / (64 * len(images))).rsqrt().float()
    linear = network.trunk[-2]  # ReLU follows, and relu(s x) = s relu(x) for s > 0
    linear.weight *= scale
    linear.bias *= scale
    network.head.weight /= scale


@torch.inference_mode()
def accuracy(network: DigitsNetwork, images: Tensor, labels: Tensor) -> float:
    hits = sum(
        (network(batch)[1].argmax(1) == expected).sum().item()
        for batch, expected in zip(images.split(500), labels.split(500), strict=True)
    )
    return hits / len(images)


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
    torch.set_num_threads(1)  # the weights depend on the number of threads in their last bits

    train_images = read_idx(options.data_root, "train-images-idx3-ubyte").unsqueeze(1)
    train_labels = read_idx(options.data_root, "train-labels-idx1-ubyte").long()
    test_images = read_idx(options.data_root, "t10k-images-idx3-ubyte").unsqueeze(1)
    test_labels = read_idx(options.data_root, "t10k-labels-idx1-ubyte").long()

    network = train(train_images, train_labels, options.epochs, options.seed)
    scale_features(network, train_images)
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
    statistics = compute_statistics(extractor, train_images)
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
