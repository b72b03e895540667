"""The density of a flow: the instantaneous change of variables along its path."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from genkit_diffusion.derivative import along
from genkit_diffusion.solvers import Field

TOLERANCE = 0.01  # of the mean, in bits per dimension
FEWEST, MOST = 16, 256  # steps
SMALL = 12  # dimensions up to which the divergence is computed, not estimated


def log_density(field: Field, points: Tensor) -> Tensor:
    """ln p of points, (N, ...), which a flow dx/dt = field(x, t) carries standard normal noise at
    t = 0 to at t = 1: (N,), in nats.

    By the change of variables (Chen et al. 2018, arXiv 1806.07366, theorem 1), with the midpoint
    rule and steps that are doubled until the mean changes by less than `TOLERANCE`; they shorten
    towards the image, where the field is steep. The
    divergence is estimated by Hutchinson's trace with one draw of signs (Grathwohl et al. 2019,
    arXiv 1810.01367, section 3.1), the same on the whole path: without bias for ln p, so that the
    mean over images is right. Of few dimensions it is the sum of all derivatives.
    """
    size = points[0].numel()
    if size <= SMALL:
        probes = torch.eye(size, device=points.device).view(size, 1, *points.shape[1:])
    else:
        probes = torch.randint_like(points, 2).mul_(2).sub_(1)[None]
    steps, found = FEWEST, integrate(field, points, probes, FEWEST)
    while steps < MOST:
        before, steps = found, 2 * steps
        found = integrate(field, points, probes, steps)
        if (found - before).mean().abs() < TOLERANCE * size * math.log(2):
            break
    return found


def integrate(field: Field, points: Tensor, probes: Tensor, steps: int) -> Tensor:
    """ln p, (N,), of points, (N, ...), with that many steps and probes, (K, 1 or N, ...), of the
    divergence, whose answers are summed."""
    x, change = points, points.new_zeros(len(points))
    times = 1 - torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=points.device) ** 2
    for end, start in pairwise(times.to(points).unbind()):
        length = end - start
        half = x - length / 2 * field(x, end)
        slope, divergence = with_divergence(field, half, end - length / 2, probes)
        x, change = x - length * slope, change + length * divergence
    flat = x.flatten(1)
    return -0.5 * (flat**2 + math.log(2 * math.pi)).sum(1) - change


def with_divergence(field: Field, x: Tensor, time: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """The field at points x, (N, ...), and the sum over probes e of e . (d field / dx) e, (N,)."""
    divergence = x.new_zeros(len(x))
    for probe in probes:
        probe = probe.expand_as(x)
        slope, change = along(lambda x: field(x, time), (x,), (probe,))
        divergence = divergence + (probe * change).flatten(1).sum(1)
    return slope, divergence
