"""The palette distance: do samples use the colours of the training images, and as often?"""

from __future__ import annotations

import torch
from torch import Tensor

from genkit.features import ImageSet
from genkit.metrics import Estimate, Reference, blocks_of, jackknife
from genkit.specs import Config

LEVELS = 8  # of each channel


def score(config: Config, samples: ImageSet, reference: Reference) -> dict[str, Estimate]:
    """Total variation distance between the colour histograms of samples and training images.

    0 for the same palette, 1 for none in common; blind to where the colours are. Biased upwards
    for few samples. The deviation is a jackknife over blocks of samples. Grey images have
    histograms of grey levels.
    """
    real = histogram(reference.train.images)
    blocks, number = blocks_of(len(samples))
    counts = torch.stack(
        [colour_counts(samples.images[blocks == block]) for block in range(number)]
    )
    total = counts.sum(0)
    left_out = total - counts if number > 1 else counts
    value = (normalised(total) - real).abs().sum() / 2
    deviations = (normalised(left_out) - real).abs().sum(1) / 2
    return {"palette_distance": Estimate(float(value), jackknife(deviations))}


def histogram(images: Tensor) -> Tensor:
    """Shares of the colours among the pixels of uint8 images, (N, C, H, W): (LEVELS^C,)."""
    return normalised(colour_counts(images))


def normalised(counts: Tensor) -> Tensor:
    return counts / counts.sum(-1, keepdim=True)


def colour_counts(images: Tensor) -> Tensor:
    """How many pixels of uint8 images, (N, C, H, W), have each colour: (LEVELS^C,) float64."""
    channels = images.shape[1]
    weights = LEVELS ** torch.arange(channels)
    colours = (images // (256 // LEVELS) * weights[:, None, None]).sum(1)
    return torch.bincount(colours.flatten(), minlength=LEVELS**channels).double()
