"""Train on synthetic, test on real: are samples by class of use to a classifier?

The classification accuracy score of Ravuri and Vinyals (2019, arXiv 1905.10887, section 3), with a
small network in place of a ResNet, beside the same for real images and for both together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genkit.compute.cache import cache_folder, hash_tensors, read_cached, write_cached
from genkit.compute.device import choose_device, cpu_threads
from genkit.compute.seeds import derive_seed, seed_generators
from genkit.data import ImageData
from genkit.io.progress import Reporter
from genkit.metrics import choice
from genkit.model import to_unit_range
from genkit.report.utility import Utility
from genkit.runs.run import Run
from genkit.sampling.draw import draw
from genkit.sampling.labels import choose_labels

VERSION = "utility-1"  # of the classifier and of its training: another one, other accuracies
MOST_IMAGES = 10_000  # samples, and real training images
STEPS, BATCH = 1500, 64
RATE = 2e-3  # Adam's, at first; it ends at zero


def measure_utility(
    run: Run, data: ImageData, *, seed: int, device: str, reporter: Reporter
) -> Utility | None:
    """What a classifier learns from a run's samples; None for a model without labels, or data whose
    classes are others."""
    if not (run.model.conditional and run.model.image_shape.classes == len(data.classes)):
        reporter.say(f"{run.path} is not of a model by class, so it has no --utility")
        return None
    images, labels = (torch.from_numpy(each) for each in (data.train.images, data.train.labels))
    places = choice(len(images), MOST_IMAGES, 0)
    real, real_labels = images[places], labels[places]
    count = len(real)
    drawn_labels = choose_labels(run.model, count, seed)
    assert drawn_labels is not None
    counter = reporter.counter("samples to learn from")
    drawn = draw(run.model, count, seed, counter, labels=drawn_labels)
    trainer = ClassifierTraining(data, choose_device(device), reporter)
    sets = {
        "synthetic": (drawn, drawn_labels.cpu()),
        "real": (real, real_labels),
        "both": (torch.cat([real, drawn]), torch.cat([real_labels, drawn_labels.cpu()])),
    }
    found = {name: trainer.accuracy(name, *each) for name, each in sets.items()}
    tested = len(data.test.images)
    return Utility(
        **found,
        deviations={name: math.sqrt(p * (1 - p) / tested) for name, p in found.items()},
        images=count,
        test_images=tested,
    )


class ClassifierTraining:
    """Trains the classifier on labelled images and tests it on the real ones of a data set."""

    def __init__(self, data: ImageData, device: torch.device, reporter: Reporter) -> None:
        self.data = data
        self.device = device
        self.reporter = reporter

    def accuracy(self, name: str, images: Tensor, labels: Tensor) -> float:
        """The share of test images that it classifies rightly after training on images, uint8,
        (N, C, H, W), with labels, int64 (N,). What was measured once is in the cache."""
        identity = hash_tensors({"images": images, "labels": labels})[:32]
        path = cache_folder(VERSION) / f"{self.data.fingerprint[:32]}-{identity}.safetensors"
        kept = read_cached(path)
        if kept is None or "accuracy" not in kept:
            kept = {"accuracy": torch.tensor(self._train(name, images, labels))}
            write_cached(path, kept)
        return min(max(float(kept["accuracy"]), 0.0), 1.0)

    def _train(self, name: str, images: Tensor, labels: Tensor) -> float:
        progress = self.reporter.counter(f"classifier of {name} images")
        images, labels = images.to(self.device), labels.to(self.device)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), cpu_threads(1):
            seed_generators(self.device, derive_seed(VERSION))
            network = classifier(images.shape[1], len(self.data.classes)).to(self.device)
            optimizer = torch.optim.Adam(network.parameters(), RATE)
            for step in range(STEPS):
                for group in optimizer.param_groups:
                    group["lr"] = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
                chosen = torch.randint(len(images), (BATCH,), device=self.device)
                loss = F.cross_entropy(network(to_unit_range(images[chosen])), labels[chosen])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                if step % 50 == 49:
                    progress(step + 1, STEPS)
            return self._test(network.eval())

    @torch.no_grad()
    def _test(self, network: nn.Module) -> float:
        images, labels = self.data.test.images, self.data.test.labels
        parts = torch.split(torch.from_numpy(images), 500)
        answers = [network(to_unit_range(part.to(self.device))).argmax(1).cpu() for part in parts]
        return float((torch.cat(answers) == torch.from_numpy(labels)).double().mean())


def classifier(channels: int, classes: int) -> nn.Module:
    """Three convolutions with batch norm, of images of any size."""
    sizes = [(channels, 32), (32, 64), (64, 128)]
    layers: list[nn.Module] = []
    for inputs, outputs in sizes:
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2, ceil_mode=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, classes))
