"""What an iteration changes: copies of it, the difference of two, and what must not change."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn


def copies(groups: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Groups of tensors as they are now."""
    return [[tensor.detach().clone() for tensor in group] for group in groups]


@torch.no_grad()
def restore(groups: Sequence[Sequence[Tensor]], kept: Sequence[Sequence[Tensor]]) -> None:
    """Write what was copied back into the same tensors."""
    for group, copied in zip(groups, kept, strict=True):
        for tensor, content in zip(group, copied, strict=True):
            tensor.detach().copy_(content)


@torch.no_grad()
def difference(
    before: Sequence[Sequence[Tensor]],
    replayed: Sequence[Sequence[Tensor]],
    after: Sequence[Sequence[Tensor]],
) -> float:
    """The largest difference of a group's change in a replay to its change in the step, as a share
    of the latter, both by their Euclidean norm over all tensors; infinite if it is no number."""
    shares = [0.0]
    for old, first, second in zip(before, replayed, after, strict=True):
        if off := _distance(first, second):
            shares.append(off / max(_distance(old, second), 1e-30))
    return max(share if math.isfinite(share) else math.inf for share in shares)


def _distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    squares = [(x.double() - y.double()).square().sum() for x, y in zip(a, b, strict=True)]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def facts_of(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], tensors: Sequence[Tensor]
) -> dict[str, object]:
    """What an iteration must leave as it is to be replayed: numbers and lists that modules keep in
    Python, the generators of the host, and where tensors lie in memory."""
    facts: dict[str, object] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            what = f"{path or type(model).__name__}.{name}"
            if isinstance(value, (bool, int, float, str)):
                facts[what] = value
            elif isinstance(value, (list, dict, set)):
                facts[what] = len(value)
    facts["a number in an optimizer's state"] = [
        (name, value)
        for optimizer in optimizers
        for state in optimizer.state.values()
        for name, value in state.items()
        if not isinstance(value, Tensor)
    ]
    facts["the place of a weight or of an optimizer's state"] = [t.data_ptr() for t in tensors]
    facts["Python's random numbers"] = random.getstate()
    facts["NumPy's random numbers"] = np.random.get_state()[1:3]  # type: ignore[index]
    if tensors[0].device.type != "cpu":
        facts["the CPU's random numbers"] = torch.default_generator.get_state().tolist()
    return facts


def changed(before: Mapping[str, object], after: Mapping[str, object]) -> str | None:
    """The first fact that is not as it was."""
    for name, value in after.items():
        if repr(before.get(name)) != repr(value):
            return name
    return None
