"""Features of the digit classifier that comes with genkit. `genkit_fidelity.train_digits` made its
weights; here they are loaded and used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Self

import safetensors
import safetensors.torch
from torch import Tensor

from genkit.data import ImageData
from genkit.errors import CheckpointError, UsageError
from genkit.features import FeatureExtractor, Reporter, Statistics
from genkit.specs import Config, ImageShape
from genkit_fidelity.network import load_network

DIGITS_WEIGHTS = Path(__file__).with_name("digits.safetensors")
DIGITS_REFERENCE = "digits_reference.safetensors"  # beside the weights
DIGITS = tuple("0123456789")
DIGITS_SHAPE = ImageShape(1, 28, 28, classes=len(DIGITS))


class Digits(FeatureExtractor):
    """64 features of a classifier trained on MNIST's training split, and its logits.

    They are scaled so that |features|^2 / 64 averages 1 over that split. Distances between such
    features compare with each other only, never with those from Inception.
    """

    def __init__(self, config: Config, weights: Path = DIGITS_WEIGHTS) -> None:
        super().__init__(config)
        content = weights.read_bytes()
        with safetensors.safe_open(weights, framework="pt") as file:
            card = json.loads(file.metadata()["genkit"])
        self.reference = weights.with_name(DIGITS_REFERENCE)
        self.identity = f"digits-{hashlib.sha256(content).hexdigest()[:8]}"
        self.classes = len(DIGITS)
        self.note = f"accuracy {card['test_accuracy']:.2%} of MNIST's test images"
        self.network = load_network(DIGITS_SHAPE, safetensors.torch.load(content))

    @classmethod
    def check(cls, config: Config, data: ImageData) -> None:
        cls.check_shape(data.shape)

    @classmethod
    def open(cls, config: Config, data: ImageData, reporter: Reporter | None = None) -> Self:
        extractor = cls(config)
        if data.classes != DIGITS:  # letters, say: the logits are not of their classes
            extractor.classes = 0
        return extractor

    @staticmethod
    def check_shape(shape: ImageShape) -> None:
        if str(shape) != str(DIGITS_SHAPE):
            raise UsageError(
                f"the features 'digits' take images of {DIGITS_SHAPE}, not {shape}: use "
                "--features classifier if the images have labels, else --features inception"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images, (N, 1, 28, 28), to features, (N, 64), and logits, (N, 10): float32."""
        features, logits = self.network(images)
        return features, logits

    def shipped_statistics(self, reference: str) -> Statistics | None:
        """Statistics of MNIST's 60,000 training images for "mnist-train".

        Raises:
            CheckpointError: the file of statistics was made with other weights.
        """
        if reference != "mnist-train":
            return None
        with safetensors.safe_open(self.reference, framework="pt") as file:
            card = json.loads(file.metadata()["genkit"])
            if card["extractor"] != self.identity:
                raise CheckpointError(
                    f"{self.reference} belongs to {card['extractor']}, but the weights beside it "
                    f"are {self.identity}: install genkit again, or make both files with "
                    "python -m genkit_fidelity.train_digits"
                )
            return Statistics(
                mean=file.get_tensor("mean"),
                covariance=file.get_tensor("covariance"),
                count=card["count"],
            )
