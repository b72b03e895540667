"""EfficientNet-Lite0 as features: images enlarged, seen over backgrounds, pooled."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from genkit.features import FeatureExtractor
from genkit.specs import Config
from genkit_efficientnet.network import EfficientNetLite0, fold
from genkit_efficientnet.weights import SHA256, parse_weights, read_weights

SIDE = 96  # pixels that images are scaled to
CHUNK = 16  # images at a time: their activations stay in a core's cache


class EfficientNet(FeatureExtractor):
    """320 pooled features of the last block of EfficientNet-Lite0 (Tan and Le 2019), of one length.

    Images are scaled to 96 x 96 pixels, smoothed where that makes them smaller. Distances between
    such features compare with each other only, never with those from Inception.
    """

    note = "EfficientNet-Lite0 at 96 x 96 pixels, trained on ImageNet"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        with torch.device("meta"):  # random initial weights would advance torch's global generator
            self.network = EfficientNetLite0()
        self.network.load(parse_weights(read_weights()))
        self.requires_grad_(False).eval()
        fold(self.network)
        self.network.to(memory_format=torch.channels_last)
        self.identity = f"efficientnet-{SHA256[:8]}"

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        """uint8 images, (N, 1 or 3, H, W), to features, (N, 320) float32."""
        chunks = torch.split(images, CHUNK)
        pooled = torch.cat([self.network(enlarge(chunk))[0] for chunk in chunks])
        return to_unit_length(pooled), None


def to_unit_length(features: Tensor) -> Tensor:
    """Vectors, (N, D), scaled so that |x|^2 / D = 1 for each: only directions are compared.

    Unscaled, the vectors of noise are short, hence close to everything: among emoji noise had a
    precision of 1, and a smaller kernel distance than the blurred samples of a VAE.
    """
    directions: Tensor = F.normalize(features)
    return directions.mul(math.sqrt(features.shape[1]))


def enlarge(images: Tensor) -> Tensor:
    """uint8 images, (N, 1 or 3, H, W), as the network takes them: (N, 3, 96, 96), 0 to 255."""
    pixels = F.interpolate(
        images.float(), (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True
    )
    return pixels.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
