"""KID over all pairs of images, and its standard deviation."""

from __future__ import annotations

import torch
from torch import Tensor

from genkit.features import ImageSet
from genkit.metrics import Estimate, Reference, blocks_of, choice, jackknife
from genkit.specs import Config

KERNEL_IMAGES = 10_000  # at most, of the samples and of the reference: the work is their product
ROWS = 100  # of a kernel matrix at a time: what fits into a core's cache


def kernel(config: Config, samples: ImageSet, reference: Reference) -> dict[str, Estimate]:
    """Kernel distance of features (Binkowski et al. 2018, arXiv 1801.01401, section 4): the
    unbiased squared MMD (Gretton et al. 2012, JMLR 13, lemma 6) with the cubic kernel
    (x.y / D + 1)^3.

    Over all pairs of up to 10,000 samples and 10,000 reference images. The mean over random
    subsets, as published and as torch-fidelity has it, estimates the same number with the error of
    their draw. The deviation is a jackknife over 20 blocks of samples.
    """
    real = reference.choose(KERNEL_IMAGES)
    within = reference.compute_once("cubic", KERNEL_IMAGES, _mean_within)
    few = samples.take(choice(len(samples), KERNEL_IMAGES, 0))
    whole, left_out = _distances(few.features, real.features)
    return {"kid": Estimate(whole + float(within), jackknife(left_out))}


def _mean_within(features: Tensor) -> Tensor:
    """The mean of k(y, y') over all pairs of different vectors, (M, D): float64, (1,)."""
    count, total = len(features), torch.zeros(1, dtype=torch.float64)
    for start in range(0, count, ROWS):
        values = _cubic(features[start : start + ROWS], features[start:])
        diagonal = values.diagonal().sum(dtype=torch.float64)
        own = _sum(values[:, : len(values)])  # both (y, y') and (y', y), unlike what follows
        total += 2 * _sum(values) - own - diagonal
    return total / max(count * (count - 1), 1)


def _sum(values: Tensor) -> Tensor:
    """Sum of all values, (N, M): rows in float32, their sums in float64."""
    return values.sum(1).sum(dtype=torch.float64)


def _distances(samples: Tensor, real: Tensor) -> tuple[float, Tensor]:
    """Squared MMD of samples, (N, D), to real images, (M, D), and without each block of samples,
    (B,) float64: both up to the constant that the real images add."""
    blocks, number = blocks_of(len(samples))
    member = torch.nn.functional.one_hot(blocks, number).float()  # (N, B)
    within = torch.zeros(number, number, dtype=torch.float64)  # sums of k(x, x'), x not x'
    across = torch.zeros(number, dtype=torch.float64)  # sums of k(x, y)
    for rows in torch.arange(len(samples)).split(ROWS):
        later = slice(int(rows[0]), None)  # each pair once
        values = _cubic(samples[rows], samples[later]).triu_(1)
        within += member[rows].T @ (values @ member[later])
        across += member[rows].T @ _cubic(samples[rows], real).sum(1)
    within += within.T.clone()
    counts = len(samples) - torch.bincount(blocks, minlength=number)
    left_within = within.sum() - within.sum(0) - within.sum(1) + within.diagonal()
    pairs = (counts * (counts - 1)).clamp(min=1)
    left_out = left_within / pairs - 2 * (across.sum() - across) / (counts * len(real))
    all_pairs = max(len(samples) * (len(samples) - 1), 1)
    whole = within.sum() / all_pairs - 2 * across.sum() / (len(samples) * len(real))
    return float(whole), left_out


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    """The kernel (x.y / D + 1)^3 of x, (N, D), and y, (M, D): (N, M) float32."""
    base = torch.addmm(torch.ones(()), x, y.T, alpha=1 / x.shape[1])
    return base.pow_(3)
