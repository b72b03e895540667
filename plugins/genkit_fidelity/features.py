"""What scores look at: a digit classifier that ships with genkit, and the canonical Inception.

Loading and running them, no more: scores are computed in `genkit_fidelity.scores`.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from genkit.errors import CheckpointError, UsageError
from genkit.metrics import FeatureExtractor, Statistics
from genkit.specs import Config, ImageShape
from genkit_fidelity import InceptionConfig

DIGITS_WEIGHTS = Path(__file__).with_name("digits.safetensors")
DIGITS_REFERENCE = "digits_reference.safetensors"  # beside the weights

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/" + INCEPTION_FILE
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_BYTES = 95_628_359


class DigitsNetwork(nn.Module):
    """The convolutional classifier behind `Digits`: 61,242 parameters, 64 features, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *_block(1, 16, kernel_size=5),  # (N, 16, 14, 14)
            *_block(16, 32, kernel_size=3),  # (N, 32, 7, 7)
            *_block(32, 64, kernel_size=3),  # (N, 64, 3, 3)
            nn.Flatten(),
            nn.Linear(576, 64),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images, (N, 1, 28, 28), to features, (N, 64), and logits, (N, 10)."""
        features = self.trunk((images.float() - 127.5) / 127.5)
        return features, self.head(self.dropout(features))


def _block(channels_in: int, channels_out: int, kernel_size: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2),
        nn.BatchNorm2d(channels_out),
        nn.MaxPool2d(2),
        nn.ReLU(),
    ]


class Digits(FeatureExtractor):
    """64 features of a classifier trained on MNIST's training split, and its logits.

    They are scaled so that |features|^2 / 64 averages 1 over that split. Distances between such
    features compare with each other only, never with those from Inception.
    """

    def __init__(self, config: Config, weights: Path = DIGITS_WEIGHTS) -> None:
        super().__init__(config)
        data = weights.read_bytes()
        self.reference = weights.with_name(DIGITS_REFERENCE)
        self.identity = f"digits-{hashlib.sha256(data).hexdigest()[:8]}"
        # Built without values: random initial weights would advance torch's global generator.
        with torch.device("meta"):
            self.network = DigitsNetwork()
        self.network.load_state_dict(safetensors.torch.load(data), assign=True)
        self.requires_grad_(False).eval()

    def check_shape(self, shape: ImageShape) -> None:
        if (shape.channels, shape.height, shape.width) != (1, 28, 28):
            raise UsageError(
                f"the features 'digits' take images of 1 x 28 x 28, not {shape}: "
                "use --features inception"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(images)

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
                    f"are {self.identity}: install genkit again, or make both files anew with "
                    "python -m genkit_fidelity.train_digits"
                )
            return Statistics(
                mean=file.get_tensor("mean"),
                covariance=file.get_tensor("covariance"),
                count=card["count"],
            )


class Inception(FeatureExtractor):
    """The Inception network of the published scores.

    Those are the FID of Heusel et al. 2017 and the Inception Score of Salimans et al. 2016.
    torch-fidelity's own port: 2048 pooled features, and 1008 logits without the bias, as in the
    original code. Images are resized to 299 x 299 as TensorFlow 1 does; grey ones are repeated
    over the three channels.

    Raises:
        UsageError: no weights, or a file that is not exactly the published one.
    """

    def __init__(self, config: InceptionConfig) -> None:
        super().__init__(config)
        weights = _find_inception(config)
        # Hashed before it is opened: torch-fidelity unpickles the file, which can run code.
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != INCEPTION_SHA256:
            raise UsageError(
                f"{weights} is not the Inception of the published scores: its SHA-256 is {found}, "
                f"not {INCEPTION_SHA256}. Remove it or replace it with {INCEPTION_URL}"
            )
        self.identity = f"inception-{INCEPTION_SHA256[:8]}"

        from torch_fidelity import FeatureExtractorInceptionV3  # takes seconds to import

        with torch.random.fork_rng(devices=[]):  # it initialises at random before it loads
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048", "logits_unbiased"],
                feature_extractor_weights_path=str(weights),
            )
        self.requires_grad_(False).eval()

    def check_shape(self, shape: ImageShape) -> None:
        if shape.channels not in (1, 3):
            raise UsageError(
                f"the features 'inception' take images of 1 or 3 channels, not {shape}: "
                "convert the images to grey or RGB"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(images.expand(-1, 3, -1, -1))


def _find_inception(config: InceptionConfig) -> Path:
    """The file of weights: the user's, else the one in torch's hub cache, downloaded if absent."""
    for given, source in (
        (config.weights, "--inception-weights"),
        (os.environ.get("GENKIT_INCEPTION_WEIGHTS"), "GENKIT_INCEPTION_WEIGHTS"),
    ):
        if given:
            path = Path(given).expanduser()
            if not path.is_file():
                raise UsageError(
                    f"{source} names {given}, which is not a file: correct the path, or leave it "
                    f"out to download {INCEPTION_FILE}"
                )
            return path

    cached = Path(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE)
    if not cached.is_file():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                INCEPTION_URL, str(cached), INCEPTION_SHA256, progress=False
            )
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a bad hash, RuntimeError
            raise UsageError(
                f"the weights of the features 'inception' are missing, and {INCEPTION_URL} "
                f"could not be downloaded ({error}). On a machine with a network fetch that file "
                f"({INCEPTION_BYTES:,} bytes, SHA-256 {INCEPTION_SHA256}) and put it at {cached}, "
                "or name it with --inception-weights PATH or GENKIT_INCEPTION_WEIGHTS=PATH. "
                "Without it, --features digits scores handwritten digits of 1 x 28 x 28, and "
                "--features none leaves out all scores that need features"
            ) from error
    return cached
