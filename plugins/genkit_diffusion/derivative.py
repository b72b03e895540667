"""Forward derivatives, which neither types nor warnings of torch.func.jvp get in the way of."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor


def along(
    function: Callable[..., Tensor], points: tuple[Tensor, ...], directions: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """What a function gives at points and its derivative along directions, of the same shapes as
    the points: two tensors of the shape of its answer."""
    with warnings.catch_warnings():
        # On its first use torch compiles some formulas by torch.jit, which it deprecates itself.
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        value, derivative = torch.func.jvp(function, points, directions)  # type: ignore[misc]
    return value, derivative
