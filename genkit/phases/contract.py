"""What the loop asks of a model's phases before it follows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from genkit.errors import PluginError
from genkit.model import Phase

NAMED = 3  # parameters that an error message names


def check_phases(model: nn.Module, phases: object) -> list[Phase]:
    """The phases, or PluginError for a list that the loop cannot follow."""
    if not isinstance(phases, list) or not all(isinstance(phase, Phase) for phase in phases):
        raise PluginError(f"phases() must return a list of Phase, got {phases!r:.80}")
    names = [phase.name for phase in phases]
    if not phases or len(set(names)) != len(names):
        raise PluginError(f"phases() must return phases with names of their own, got {names}")
    for phase in phases:
        if phase.repeats < 1 or phase.every < 1:
            raise PluginError(f"phase {phase.name!r}: repeats and every start at 1")
        if phase.precision not in (None, "fp32", "bf16"):
            raise PluginError(f"phase {phase.name!r}: precision is fp32, bf16 or None")
        if not 0 <= phase.active[0] < phase.active[1] <= 1:
            raise PluginError(
                f"phase {phase.name!r}: active is {phase.active}, not two rising shares of the "
                "budget, 0 to 1"
            )
    _check_cover(phases)
    _check_optimizers(model, phases)
    return phases


def _check_cover(phases: Sequence[Phase]) -> None:
    """Raise PluginError if there is a part of the budget in which no phase runs."""
    bounds = sorted({0.0, 1.0, *(share for phase in phases for share in phase.active)})
    for start, stop in pairwise(bounds):
        if not any(is_active(phase, start) for phase in phases):
            raise PluginError(f"no phase is active from {start:g} to {stop:g} of the budget")


def _check_optimizers(model: nn.Module, phases: Sequence[Phase]) -> None:
    """Raise PluginError for a parameter that two optimizers would move, or none."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    holders: dict[int, list[Phase]] = {}
    for phase in phases:
        for parameter in parameters_of(phase):
            holders.setdefault(id(parameter), []).append(phase)
    for key, found in holders.items():
        for first, second in ((a, b) for a in found for b in found):
            apart = first.active[1] <= second.active[0] or second.active[1] <= first.active[0]
            if first.optimizer is not second.optimizer and not apart:
                raise PluginError(
                    f"{names.get(key, 'a parameter')!r} is in the optimizers of phases "
                    f"{first.name!r} and {second.name!r}: an optimizer holds only what its phase "
                    "trains; two phases may share one optimizer"
                )
    left_out = [
        repr(name)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in holders
    ]
    if left_out:
        more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
        raise PluginError(
            f"no phase's optimizer holds {', '.join(left_out[:NAMED])}{more}: give them to one, or "
            "freeze what is not to be trained by requires_grad_(False)"
        )


def parameters_of(phase: Phase) -> list[Tensor]:
    """The parameters that a phase's optimizer holds."""
    return [p for group in phase.optimizer.param_groups for p in group["params"]]


def is_active(phase: Phase, progress: float) -> bool:
    """Whether a phase runs when this share of the budget is used."""
    start, stop = phase.active
    return start <= progress < stop or (stop == 1 and progress >= 1)


def check_answer(answer: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
    """What a loss returned; TypeError or ValueError for what the loop cannot use."""
    if not (isinstance(answer, (tuple, list)) and len(answer) == 2):
        raise TypeError(f"it must return (loss, values to log), not a {type(answer).__name__}")
    loss, extras = answer
    if not isinstance(extras, Mapping):
        raise TypeError(f"its values to log must be a mapping, not a {type(extras).__name__}")
    for name, value in {"loss": loss, **extras}.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name!r} must be a scalar tensor, not a {type(value).__name__}")
        if value.numel() != 1:
            raise ValueError(f"{name!r} is not a scalar: {tuple(value.shape)}")
    if loss.ndim:
        raise ValueError(f"it is not a scalar: {tuple(loss.shape)}")
    if not loss.requires_grad:
        raise ValueError(
            "it has no gradient for its optimizer's parameters; what an earlier phase left in "
            "batch.shared has none"
        )
    return loss, extras
