"""Scores by a classifier of the data's own classes: are all classes there, is it confident?"""

from __future__ import annotations

import torch
from torch import Tensor

from genkit.features import ImageSet
from genkit.metrics import Estimate, Reference, blocks_of, jackknife
from genkit.specs import Config

CONFIDENT = 0.9  # probability of a class above which a sample counts as readable


def score(config: Config, samples: ImageSet, reference: Reference) -> dict[str, Estimate]:
    """Class coverage and the share of confident samples; nothing if the features are not those of
    a classifier of this data's classes.

    Class coverage is the overlap of two histograms, of the classes that the classifier gives to
    samples and to training images: the sum over classes of the smaller share, 1 minus the total
    variation distance. It is 1 for samples balanced as the data, and falls by the share of every
    class that is missing.
    """
    classes = samples.extractor.classes
    found, real = samples.probabilities, reference.train.logits
    if not classes or found is None or real is None:
        return {}

    def shares(labels: Tensor) -> Tensor:
        return torch.bincount(labels, minlength=classes).double() / len(labels)

    wanted = shares(real.argmax(1))
    sure, labels = found.max(1)

    def coverage(labels: Tensor) -> Tensor:
        return torch.minimum(shares(labels), wanted).sum()

    def confident(sure: Tensor) -> Tensor:
        return (sure > CONFIDENT).double().mean()

    blocks, number = blocks_of(len(samples))
    kept = [blocks != block for block in range(number)]
    return {
        "class_coverage": Estimate(
            float(coverage(labels)), jackknife(torch.stack([coverage(labels[k]) for k in kept]))
        ),
        "confident": Estimate(
            float(confident(sure)), jackknife(torch.stack([confident(sure[k]) for k in kept]))
        ),
    }
