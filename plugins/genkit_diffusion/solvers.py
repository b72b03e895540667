"""Solvers of the path from noise to images. They know nothing of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]  # points, (N, ...), and a time, (): velocities, (N, ...)


def step(field: Field, x: Tensor, now: Tensor, then: Tensor, solver: str) -> Tensor:
    """Where the solution of dx/dt = field(x, t) through x, (N, ...), at `now` is at `then`.

    "euler" asks the field once, and its error falls with the number of steps; "heun" (at both ends
    of Euler's step) and "midpoint" (in its middle) ask twice, and theirs fall with its square.
    """
    slope = field(x, now)
    if solver == "heun":
        slope = (slope + field(x + (then - now) * slope, then)) / 2
    elif solver == "midpoint":
        middle = (then - now) / 2
        slope = field(x + middle * slope, now + middle)
    return x + (then - now) * slope


def follow(field: Field, x: Tensor, times: Tensor, solver: str) -> Iterator[Tensor]:
    """Points x, (N, ...), at times[0], and where they are at each of the other times, with a `step`
    between each two.

    Raises:
        FloatingPointError: after a step some value is not finite; names the step and the time.
    """
    watch = Watch(times)
    yield x
    for now, then in pairwise(times.unbind()):
        x = watch.see(step(field, x, now, then, solver))
        yield x
    watch.check()


def solve(field: Field, x: Tensor, times: Tensor, solver: str) -> Tensor:
    """Where points x, (N, ...), at times[0] are at times[-1]; as `follow`."""
    for now in follow(field, x, times, solver):
        x = now
    return x


def solve_data(denoise: Field, x: Tensor, times: Tensor, scales: Tensor, noises: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): a step asks once for the
    clean image that x looks like, and its error falls with the square of the steps.

    Args:
        denoise: points, (N, ...), and a time, (): clean images, (N, ...).
        times: (steps + 1,).
        scales, noises: alpha and sigma of x = alpha * image + sigma * noise at the times. The
            first steps from alpha = 0 and the one to sigma = 0 are of first order.
    """
    watch = Watch(times)
    logs = (scales / noises).log()  # lambda, from -infinity to infinity
    before: Tensor | None = None
    for i in range(len(times) - 1):
        clean = guess = denoise(x, times[i])
        if before is not None:
            ratio = (logs[i + 1] - logs[i]) / (logs[i] - logs[i - 1])  # 1 / r
            ratio = ratio if torch.isfinite(ratio) else torch.zeros_like(ratio)
            guess = clean + ratio / 2 * (clean - before)
        kept = scales[i] * noises[i + 1] / (noises[i] * scales[i + 1])  # exp(-h)
        x = noises[i + 1] / noises[i] * x + scales[i + 1] * (1 - kept) * guess
        before = clean
        watch.see(x)
    watch.check()
    return x


class Watch:
    """Looks for values that are not finite. It does so at the end, as a look waits for a GPU."""

    def __init__(self, times: Tensor) -> None:
        self.times = times
        self.broken: list[Tensor] = []

    def see(self, x: Tensor) -> Tensor:
        """x, which a step gave, as it is."""
        self.broken.append(~torch.isfinite(x).all())
        return x

    def check(self) -> None:
        """Raise FloatingPointError that names the first step that was not finite, if any."""
        broken = torch.stack(self.broken)
        if broken.any():
            first = int(broken.int().argmax())
            raise FloatingPointError(
                f"step {first + 1} of {len(broken)}, from time {self.times[first]:.4g} to "
                f"{self.times[first + 1]:.4g}, gave values that are not finite"
            )
