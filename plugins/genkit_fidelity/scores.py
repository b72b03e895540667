"""FID, the Inception Score and manifold scores, each with its deviation over other samples.

Equal to torch-fidelity's to rounding (tests), without its import: that brings torchvision, which
takes seconds and is of use to networks only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkit.errors import GenkitError, UsageError
from genkit.features import ImageSet, Statistics
from genkit.metrics import Estimate, Reference, blocks_of, choice, jackknife
from genkit.specs import Config
from genkit_fidelity.manifold import distances_within, manifold_scores

SPLITS = 10  # parts of the samples over which the Inception Score is averaged, as published
SEED = 2020  # of torch-fidelity's order of samples
MANIFOLD_IMAGES = 10_000
NEIGHBOURS = 5  # of a real image's ball for density and coverage, as published
ENOUGH = 5  # samples for each feature: with fewer the bias of FID does not fall as 1 / N


def frechet(config: Config, samples: ImageSet, reference: Reference) -> dict[str, Estimate]:
    """Fréchet distance of Gaussians fitted to features (Heusel et al. 2017, equation 6).

    Biased upwards by about 1 / N for N samples, more for models of more variety. The deviation is
    a jackknife over 20 blocks of samples. Its estimate of the bias (Efron and Tibshirani 1993,
    equation 10.23, for blocks) is subtracted for "fid_corrected". That takes a bias of 1 / N, so it
    is left out below 5 samples for each feature; the deviation is the same.

    Raises:
        UsageError: the reference has too few images for a covariance.
    """
    statistics = reference.statistics
    if statistics.count < 2:
        raise UsageError(
            f"the reference {reference.name!r} holds {statistics.count} images: a covariance needs "
            "at least 2"
        )
    whole, left_out = _frechet_left_out(samples.features, statistics)
    deviation = jackknife(left_out)
    estimates = {"fid": Estimate(float(whole), deviation)}
    count, dimensions = samples.features.shape
    if count >= ENOUGH * dimensions:
        bias = (len(left_out) - 1) * (left_out.mean() - whole)
        estimates["fid_corrected"] = Estimate(float(whole - bias), deviation)
    return estimates


def _frechet_left_out(features: Tensor, reference: Statistics) -> tuple[Tensor, Tensor]:
    """Fréchet distance of features, (N, D), and without each block of samples: scalar and (B,),
    float64.

    The trace of (S R)^(1/2) is that of (T S T)^(1/2) with T = R^(1/2), which is symmetric and has
    the root T in common for all blocks.
    """
    values, vectors = torch.linalg.eigh(reference.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    blocks, number = blocks_of(len(features))
    centred = features.double() - reference.mean.double()
    total, outer = centred.sum(0), centred.T @ centred
    distances = []
    for block in range(-1, number):  # no sample is of block -1
        own = centred[blocks == block]
        count = len(features) - len(own)
        mean = (total - own.sum(0)) / count
        covariance = (outer - own.T @ own - count * torch.outer(mean, mean)) / max(count - 1, 1)
        product = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0).sqrt().sum()
        trace = covariance.trace() + reference.covariance.trace()
        distances.append(mean.square().sum() + trace - 2 * product)
    return distances[0], torch.stack(distances[1:])


def manifold(config: Config, samples: ImageSet, reference: Reference) -> dict[str, Estimate]:
    """Precision, recall, density and coverage, see `genkit_fidelity.manifold`: of as many samples
    as training images, at most 10,000 each, since coverage and recall depend on both numbers."""
    count = min(len(samples), len(reference.train), MANIFOLD_IMAGES)
    chosen = samples.take(choice(len(samples), count, 0))
    nearest = reference.compute_once(
        f"nearest{NEIGHBOURS}", count, lambda features: distances_within(features, NEIGHBOURS)
    )
    found = manifold_scores(
        chosen.features,
        reference.choose(count).features,
        *blocks_of(len(chosen)),
        coverage_neighbours=NEIGHBOURS,
        nearest_reals=nearest,
    )
    return {name: Estimate(value, jackknife(left_out)) for name, (value, left_out) in found.items()}


def inception(config: Config, samples: ImageSet, reference: Reference) -> dict[str, Any]:
    """Inception Score (Salimans et al. 2016, section 4): how sure and how varied a classifier's
    answers are. Nothing for features without a classifier.

    Mean and standard deviation over ten parts of the samples in random order. It compares with no
    real image: neither collapse within a class nor distance to the data moves it much.

    Raises:
        UsageError: fewer samples than parts, of which one would be empty.
    """
    if samples.logits is None:
        return {}
    if len(samples) < SPLITS:
        raise UsageError(
            f"{len(samples)} samples are too few for the Inception Score over {SPLITS} parts: "
            f"give at least {SPLITS}, and 2,000 or more for a score that means something"
        )
    value, parts = _inception_of_parts(samples.logits)
    probabilities = samples.logits.double().softmax(1)  # (N, K)
    blocks, number = blocks_of(len(samples))
    # exp(mean of KL(p || marginal)), with every block left out in turn
    negentropy = torch.special.entr(probabilities).sum(1).neg()
    left_out = []
    for block in range(number):
        kept = blocks != block
        marginal = torch.special.entr(probabilities[kept].mean(0)).sum()
        left_out.append((negentropy[kept].mean() + marginal).exp())
    deviation = jackknife(torch.stack(left_out))
    if not torch.isfinite(torch.tensor([value, parts, deviation])).all():
        raise GenkitError(f"the logits of {samples.extractor.identity} are not finite")
    return {"is": Estimate(value, deviation), "is_std": parts}


def _inception_of_parts(logits: Tensor) -> tuple[float, float]:
    """Mean and standard deviation, as of a population, of the Inception Score over parts of
    samples in torch-fidelity's order, from logits, (N, K)."""
    order = np.random.RandomState(SEED).permutation(len(logits))
    logarithms = logits[torch.from_numpy(order)].double().log_softmax(1)
    scores = []
    for part in range(SPLITS):
        own = logarithms[part * len(order) // SPLITS : (part + 1) * len(order) // SPLITS]
        divergence = own.exp() * (own - own.exp().mean(0).log())
        scores.append(divergence.sum(1).mean().exp())
    over_parts = torch.stack(scores)
    return float(over_parts.mean()), float(over_parts.std(correction=0))
