"""What to say of a loss or a weight that is not finite: which phase it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from genkit.errors import TrainingError

REMEDY = "try a smaller learning rate, a smaller clip or --precision fp32"


def bad_loss(
    model: nn.Module, held: Mapping[str, Sequence[Tensor]], phase: str, loss: Tensor, step: int
) -> TrainingError:
    """The error for a phase's loss that is not finite. If weights were not finite before, their
    phase is the cause.

    Args:
        held: the parameters that each phase updates, by its name.
    """
    found = f"the loss of phase {phase!r} became {loss.item()} in step {step}"
    name, phases = _first_bad(model, held)
    # On a GPU this is noticed late, when the bad loss has reached its own weights.
    if name and (loss.device.type == "cpu" or phase not in phases):
        found = f"{_of_weight(name, phases)}, and then {found}"
    return TrainingError(f"{found}; {REMEDY}")


def bad_weights(model: nn.Module, held: Mapping[str, Sequence[Tensor]], step: int) -> TrainingError:
    """The error for weights that are not finite after a step."""
    return TrainingError(f"{_of_weight(*_first_bad(model, held))} after step {step}; {REMEDY}")


def _first_bad(
    model: nn.Module, held: Mapping[str, Sequence[Tensor]]
) -> tuple[str | None, list[str]]:
    """The name of the first weight that is not finite, and the phases that update it."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name, [phase for phase, own in held.items() if any(p is tensor for p in own)]
    return None, []


def _of_weight(name: str | None, phases: Sequence[str]) -> str:
    by = f" of phase {phases[0]!r}" if phases else ""
    return f"{name!r}{by} is no longer finite"
