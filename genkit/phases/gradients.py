"""The gradient of one phase's loss, while all parameters but its own are frozen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from genkit.compute.device import autocast
from genkit.model import Batch, Loss
from genkit.phases.contract import check_answer


@contextmanager
def frozen(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Freeze parameters that can be trained; afterwards they can be trained again."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def add_gradient(
    phase: str,
    loss_of: Loss,
    part: Batch,
    share: float,
    before: Mapping[str, Tensor],
    precision: str,
) -> dict[str, Tensor]:
    """Add the gradient of a part, `share` of the batch, to that of the parameters; returns scalars
    to log, by names that begin with the phase's, added to those of the parts `before`."""
    logs: dict[str, Tensor] = {}
    with autocast(part.images.device, precision):
        loss, extras = check_answer(loss_of(part))
    for name, value in {"loss": loss, **extras}.items():
        key, value = f"{phase}/{name}", value.detach()
        if share < 1:
            value = value.float() * share + before.get(key, 0)
        logs[key] = value
    torch.autograd.backward(loss * share if share < 1 else loss)
    return logs
