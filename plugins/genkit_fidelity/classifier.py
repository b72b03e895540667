"""A small convolutional classifier of a labelled data set, trained once, and its features.

`genkit_fidelity.features` has the one for digits, whose weights come with genkit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genkit.data import ImageData
from genkit.errors import TrainingError, UsageError
from genkit.features import (
    FeatureExtractor,
    Reporter,
    cache_folder,
    cpu_threads,
    hash_tensors,
    read_cached,
    write_cached,
)
from genkit.specs import Config, ImageShape
from genkit_fidelity import ClassifierConfig
from genkit_fidelity.network import FEATURES, ClassifierNetwork, blank_network, load_network

BATCH = 128
LEAST_PASSES = 3  # over the training images
LEAST_IMAGES = 40_000  # seen in training, so that small data sets get enough steps

Tick = Callable[[int], None]  # called with a number of images when they are done


def shift(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Images, (N, C, H, W), each moved by its own random offset, at most `pixels` in each
    direction; zeros move in. Same shape and dtype."""
    count, _, height, width = images.shape
    padded = F.pad(images, [pixels] * 4)
    offsets = torch.randint(2 * pixels + 1, (2, count), generator=generator).T.tolist()
    return torch.stack(
        [
            image[:, top : top + height, left : left + width]
            for image, (top, left) in zip(padded, offsets, strict=True)
        ]
    )


def train(
    images: Tensor,
    labels: Tensor,
    classes: int,
    passes: int,
    seed: int,
    tick: Tick = lambda _: None,
) -> ClassifierNetwork:
    """Train a classifier with AdamW, one cycle of the learning rate and shifted images.

    No flips: letters and digits are not their mirror images. On one thread, since the weights
    depend on their number in the last bits; torch's random numbers are left as they were.

    Args:
        images: uint8, (N, C, H, W), N at least 2.
        labels: int64, (N,), below `classes`.
        tick: called with numbers of images that add up to `passes + 1` times all images: in the
            last pass the features are scaled.

    Raises:
        TrainingError: the weights did not stay finite.
    """
    channels, height, width = images.shape[1:]
    shape = ImageShape(channels, height, width, classes)
    with cpu_threads(1), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach other devices
        network = ClassifierNetwork(shape)
        _fit(network, images, labels, passes, torch.Generator().manual_seed(seed), tick)
        _scale_features(network.eval(), images, tick)
    if not all(weights.isfinite().all() for weights in network.parameters()):
        raise TrainingError(
            "training the classifier failed: its weights are not finite; score with "
            "--features inception, or with --features none"
        )
    return network


def _fit(
    network: ClassifierNetwork,
    images: Tensor,
    labels: Tensor,
    passes: int,
    generator: torch.Generator,
    tick: Tick,
) -> None:
    """Minimise the cross entropy of labels, (N,), given images, uint8 (N, C, H, W)."""
    batch_size = min(BATCH, len(images))
    per_pass = len(images) // batch_size
    pixels = round(max(images.shape[2:]) / 14)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=6e-3, total_steps=passes * per_pass
    )
    for _ in range(passes):
        order = torch.randperm(len(images), generator=generator)
        for batch in order.split(batch_size)[:per_pass]:
            _, logits = network(shift(images[batch], pixels, generator))
            loss = F.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            tick(len(batch))
        tick(len(images) - per_pass * batch_size)


@torch.inference_mode()
def _scale_features(network: ClassifierNetwork, images: Tensor, tick: Tick) -> None:
    """Scale the features so that |features|^2 / 64 averages 1 over `images`, uint8 (N, C, H, W).
    The logits stay the same."""
    total = torch.zeros((), dtype=torch.float64)
    for batch in images.split(500):
        total += network(batch)[0].double().square().sum()
        tick(len(batch))
    scale = (total / (FEATURES * len(images))).rsqrt().float()
    linear = network.trunk[-2]  # ReLU follows, and relu(s x) = s relu(x) for s > 0
    assert isinstance(linear, nn.Linear)
    linear.weight.mul_(scale)
    linear.bias.mul_(scale)
    network.head.weight.div_(scale)


@torch.inference_mode()
def accuracy(network: ClassifierNetwork, images: Tensor, labels: Tensor) -> float:
    """Share of images, uint8 (N, C, H, W), whose label, int64 (N,), has the greatest logit."""
    hits: float = sum(
        (network(batch)[1].argmax(1) == expected).sum().item()
        for batch, expected in zip(images.split(500), labels.split(500), strict=True)
    )
    return hits / len(images)


class Classifier(FeatureExtractor):
    """64 features and the logits of a classifier trained on the data set's own training split.

    It is trained when it is opened for the first time, and then read from the user's cache, where
    its file is named by the data's fingerprint; or it is read from a file that was trained
    elsewhere, since the last bits of weights depend on the CPU's instructions. The features are
    scaled so that |features|^2 / 64 averages 1 over the training split. Distances between them
    compare only with others of the same identity, never with FID.
    """

    def __init__(self, config: Config, data: ImageData, tensors: dict[str, Tensor]) -> None:
        super().__init__(config)
        weights = dict(tensors)
        reached = weights.pop("test_accuracy").item()
        self.network = load_network(data.shape, weights)
        self.shape = data.shape
        self.identity = f"classifier-{hash_tensors(tensors)[:8]}"
        self.classes = len(data.classes)
        count = len(data.test.images)
        self.note = f"accuracy {reached:.1%} of {count:,} held-out images of {data.name}"
        assert data.test.labels is not None  # `check` refuses such data
        # The accuracy of naming the most common class each time.
        chance = float(np.bincount(data.test.labels).max() / count)
        self.poor = reached < (1 + chance) / 2

    @classmethod
    def check(cls, config: Config, data: ImageData) -> None:
        if data.train.labels is None or len(data.classes) < 2:
            raise UsageError(
                "--features classifier needs labels of at least 2 classes, and "
                f"{data.name} has {'no labels' if data.train.labels is None else 'one class'}: "
                "put the images of each class into a sub-folder of its own, add labels to the npz "
                "file, or choose --features inception or --features none"
            )
        given = config.weights if isinstance(config, ClassifierConfig) else None
        if given and _read(Path(os.path.expanduser(given)), data.shape) is None:
            raise _refusal(given, data)

    @classmethod
    def open(cls, config: Config, data: ImageData, reporter: Reporter | None = None) -> Self:
        reporter = reporter or Reporter()
        given = config.weights if isinstance(config, ClassifierConfig) else None
        kept = cache_folder("classifiers") / f"{data.fingerprint[:32]}.safetensors"
        path = Path(os.path.expanduser(given)) if given else kept
        tensors = _read(path, data.shape)
        if given and tensors is None:
            raise _refusal(given, data)
        if trained := tensors is None:
            tensors = _train_for(data, reporter)
            write_cached(path, tensors)
        extractor = cls(config, data, tensors)
        extractor.file = path
        if trained:
            reporter.say(f"trained a classifier for the features: {extractor.note}")
        if extractor.poor:
            reporter.say(
                f"{extractor.identity} classifies poorly ({extractor.note}): distances between its "
                "features say little; --features inception is the alternative"
            )
        return extractor

    def check_shape(self, shape: ImageShape) -> None:
        if str(shape) != str(self.shape):
            raise UsageError(
                f"{self.identity} was trained on images of {self.shape}, not {shape}: "
                "score images of the data set's own shape"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images, (N, C, H, W), to features, (N, 64), and logits, (N, classes): float32."""
        features, logits = self.network(images)
        return features, logits


def _refusal(given: str, data: ImageData) -> UsageError:
    return UsageError(
        f"--feature-weights names {given}, which holds no whole classifier of "
        f"{data.shape.classes} classes of images of {data.shape}: correct the path, or leave it "
        "out to train one"
    )


def _train_for(data: ImageData, reporter: Reporter) -> dict[str, Tensor]:
    """Weights of a classifier of a data set, with the held-out accuracy as "test_accuracy"."""
    count, done = len(data.train.images), 0
    passes = max(LEAST_PASSES, math.ceil(LEAST_IMAGES / count))
    progress = reporter.counter("training the classifier")

    def tick(images: int) -> None:
        nonlocal done
        done += images
        progress(done, (passes + 1) * count)

    labels = torch.from_numpy(data.train.labels)
    images = torch.from_numpy(data.train.images)
    network = train(images, labels, len(data.classes), passes, seed=0, tick=tick)
    with cpu_threads(1):
        reached = accuracy(
            network, torch.from_numpy(data.test.images), torch.from_numpy(data.test.labels)
        )
    return {**network.state_dict(), "test_accuracy": torch.tensor(reached, dtype=torch.float64)}


def _read(path: Path, shape: ImageShape) -> dict[str, Tensor] | None:
    """Weights and accuracy from the cache; None if they are not there, are damaged or do not fit
    images of this shape."""
    wanted = {name: weights.shape for name, weights in blank_network(shape).state_dict().items()}
    wanted["test_accuracy"] = torch.Size([])
    found = read_cached(path)
    if found is None or {name: tensor.shape for name, tensor in found.items()} != wanted:
        return None
    return found
