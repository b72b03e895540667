"""Solvers of dx/dt = v(x, t). They know nothing of networks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]  # points, (N, ...), and a time, (): velocities, (N, ...)


def solve(field: Field, x: Tensor, times: Tensor, solver: str) -> Tensor:
    """Where points x, (N, ...), at times[0] are at times[-1], with a step between each two times.

    Args:
        solver: "euler" asks the field once a step, and its error falls with the steps; "heun" (at
            both ends of Euler's step) and "midpoint" (in its middle) ask twice, and their errors
            fall with the square of the steps.

    Raises:
        FloatingPointError: after a step some value is not finite; names the step and the time.
    """
    broken = []  # looked at in the end, as each look would wait for a GPU
    for now, then in pairwise(times.unbind()):
        step = then - now
        slope = field(x, now)
        if solver == "heun":
            slope = (slope + field(x + step * slope, then)) / 2
        elif solver == "midpoint":
            slope = field(x + step / 2 * slope, now + step / 2)
        x = x + step * slope
        broken.append(~torch.isfinite(x).all())
    if not torch.compiler.is_compiling():
        check_finite(torch.stack(broken), times)
    return x


def check_finite(broken: Tensor, times: Tensor) -> None:
    """Raise FloatingPointError if a step, bool (steps,), is broken; times are (steps + 1,)."""
    if broken.any():
        first = int(broken.int().argmax())
        raise FloatingPointError(
            f"step {first + 1} of {len(broken)}, from time {times[first]:.4g} to "
            f"{times[first + 1]:.4g}, gave values that are not finite"
        )
