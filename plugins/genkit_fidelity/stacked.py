"""Features of Stacked MNIST, by the classifier of digits, and how many of its modes are there."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from genkit.data import ImageData
from genkit.errors import UsageError
from genkit.features import FeatureExtractor, ImageSet, Reporter
from genkit.metrics import Estimate, Reference, blocks_of, jackknife
from genkit.specs import Config, ImageShape
from genkit_fidelity.features import Digits

SHAPE = ImageShape(3, 28, 28)
MANY = 100  # classes from which on it is worth while to count them


class StackedDigits(FeatureExtractor):
    """The features of `digits` of each of three colours, 192, and logits of the 1,000 numbers that
    three digits make."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.digits = Digits(config)
        self.identity = f"stacked-{self.digits.identity}"
        self.note = f"each colour by a classifier with an {self.digits.note}"

    @classmethod
    def check(cls, config: Config, data: ImageData) -> None:
        cls.check_shape(data.shape)

    @classmethod
    def open(cls, config: Config, data: ImageData, reporter: Reporter | None = None) -> Self:
        extractor = cls(config)
        if data.classes == tuple(f"{number:03}" for number in range(1000)):
            extractor.classes = 1000
        return extractor

    @staticmethod
    def check_shape(shape: ImageShape) -> None:
        if str(shape) != str(SHAPE):
            raise UsageError(
                f"the features 'stacked-digits' take images of {SHAPE}, not {shape}: they are for "
                "--data stacked-mnist and stacked-mnist-mini"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images, (N, 3, 28, 28), to features, (N, 192), and logits, (N, 1000): float32.

        The probability of a number is the product of those of its digits."""
        features, logits = self.digits(images.flatten(0, 1)[:, None])
        first, second, third = logits.log_softmax(1).unflatten(0, (-1, 3)).unbind(1)
        numbers = first[:, :, None, None] + second[:, None, :, None] + third[:, None, None, :]
        return features.unflatten(0, (-1, 3)).flatten(1), numbers.flatten(1)


def modes(config: Config, samples: ImageSet, reference: Reference) -> dict[str, Estimate]:
    """How many classes the classifier finds among the samples, and the Kullback-Leibler divergence
    of their shares from equal ones, sum over classes of q ln(K q), in nats; nothing for data of
    fewer than 100 classes.

    (Metz et al. 2017, arXiv 1611.02163, section 3.3.1, over 26,000 samples; both depend on their
    number. Equal shares are those of Stacked MNIST's 1,000 numbers only nearly.)
    """
    classes, found = samples.extractor.classes, samples.probabilities
    if found is None or classes < MANY:
        return {}
    labels = found.argmax(1)

    def seen(labels: Tensor) -> Tensor:
        return (torch.bincount(labels, minlength=classes) > 0).double().sum()

    def divergence(labels: Tensor) -> Tensor:
        shares = torch.bincount(labels, minlength=classes).double() / len(labels)
        terms: Tensor = torch.special.xlogy(shares, classes * shares)
        return terms.sum()

    blocks, number = blocks_of(len(samples))
    kept = [labels[blocks != block] for block in range(number)]
    return {
        name: Estimate(float(of(labels)), jackknife(torch.stack([of(each) for each in kept])))
        for name, of in (("modes", seen), ("modes_kl", divergence))
    }
