"""Features of RGB images made by hand: colours, coarse layout and edges. No network, no weights."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from genkit.errors import UsageError
from genkit.features import FeatureExtractor
from genkit.specs import Config, ImageShape

BINS = 8  # of each colour's histogram
BLOCKS = 4  # a side, of mean colours and of edge directions
DIRECTIONS = 8
SMALLEST = 8
DEFINITION = (
    f"1: {BINS}-bin linear histograms of R, G and B; {BLOCKS} x {BLOCKS} mean colours; "
    f"{BLOCKS} x {BLOCKS} histograms of {DIRECTIONS} edge directions, weighted by strength"
)


class SpriteFeatures(FeatureExtractor):
    """200 features of an RGB image: 24 of its colours, 48 of its layout, 128 of its edges.

    The edges are histograms of gradient directions as in HOG (Dalal and Triggs 2005, section 6),
    without normalisation of blocks. `identity` carries a hash of the definition, which has to
    change with the arithmetic.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.identity = f"sprite-features-{hashlib.sha256(DEFINITION.encode()).hexdigest()[:8]}"
        self.note = "colours, layout and edges, made by hand"

    def check_shape(self, shape: ImageShape) -> None:
        if shape.channels != 3 or min(shape.height, shape.width) < SMALLEST:
            raise UsageError(
                f"the features 'sprite-features' take RGB images of at least {SMALLEST} pixels a "
                f"side, not {shape}: use --features classifier if the images have labels"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        colours = images.float() / 255
        parts = (
            colour_histograms(colours),
            F.adaptive_avg_pool2d(colours, BLOCKS).flatten(1),
            edge_directions(colours),
        )
        return torch.cat(parts, 1), None


def colour_histograms(images: Tensor) -> Tensor:
    """Histograms of each channel of images in [0, 1], (N, C, H, W): (N, C * BINS), the square
    roots of shares of the pixels, whose Euclidean distance is Hellinger's.

    A value counts for its two nearest bins, in proportion, so that it matters little on which
    side of an edge it lies.
    """
    places = (images * BINS - 0.5).clamp(0, BINS - 1)[:, :, None]
    centres = torch.arange(BINS, device=images.device)[:, None, None]
    shares = (1 - (places - centres).abs()).clamp(min=0).mean((3, 4))  # (N, C, BINS)
    return shares.sqrt().flatten(1)


def edge_directions(images: Tensor) -> Tensor:
    """Mean strength of the edges of images in [0, 1], (N, C, H, W), in each block and each of
    DIRECTIONS directions from dark to bright: (N, DIRECTIONS * BLOCKS^2)."""
    grey = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = grey[:, 0, 1:-1, 2:] - grey[:, 0, 1:-1, :-2]
    down = grey[:, 0, 2:, 1:-1] - grey[:, 0, :-2, 1:-1]
    strength = torch.hypot(across, down)  # (N, H, W)
    turns = torch.atan2(down, across) / (2 * math.pi)
    nearest = (turns * DIRECTIONS).round().long() % DIRECTIONS
    maps = F.one_hot(nearest, DIRECTIONS).movedim(3, 1) * strength[:, None]
    return F.adaptive_avg_pool2d(maps, BLOCKS).flatten(1)
