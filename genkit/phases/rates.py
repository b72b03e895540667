"""Learning rates and other options of optimizers: schedules, and the cooldown at the end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor

from genkit.model import Phase


def schedule_of(phase: Phase) -> Callable[[int, float], float | Mapping[str, Any]] | None:
    """A phase's schedule as a function of step and progress.

    Progress is given to what has a second parameter without a default, or one named so.
    """
    schedule = phase.schedule
    if schedule is None:
        return None
    parameters: Mapping[str, inspect.Parameter] = {}
    with suppress(TypeError, ValueError):  # some functions written in C have no signature
        parameters = inspect.signature(schedule).parameters
    if "progress" in parameters:
        return lambda step, progress: schedule(step, progress=progress)
    places = [
        each
        for each in parameters.values()
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        and each.default is each.empty
    ]
    if len(places) == 2:
        return schedule
    return lambda step, progress: schedule(step)


class Rates:
    """The learning rates, and other options, that schedules and the cooldown set.

    Args:
        cooldown: share of the budget at its end in which learning rates fall to zero linearly; 0
            for none.
    """

    def __init__(self, phases: Sequence[Phase], cooldown: float = 0.0) -> None:
        self.cooldown = cooldown
        self._schedules = {phase.name: schedule_of(phase) for phase in phases}
        self._scheduled = {id(phase.optimizer) for phase in phases if phase.schedule}
        self._initial: list[tuple[Phase, list[float | Tensor | None]]] = []
        for phase in phases:
            groups = phase.optimizer.param_groups
            self._initial.append((phase, [g.get("initial_lr", g.get("lr")) for g in groups]))
        self.note_initial()

    def note_initial(self) -> None:
        """Note each group's first learning rate in the group, as torch's own schedulers do; again
        after an optimizer has loaded a state that lacks it."""
        for phase, rates in self._initial:
            for group, rate in zip(phase.optimizer.param_groups, rates, strict=True):
                if rate is not None:
                    group.setdefault("initial_lr", rate)

    def set(self, phase: Phase, step: int, progress: float) -> dict[str, float]:
        """Set a phase's options for an iteration; returns the learning rates, to be logged, if
        something sets them."""
        schedule, groups = self._schedules[phase.name], phase.optimizer.param_groups
        found: float | Mapping[str, Any] = 1.0
        if schedule is not None:
            found = schedule(step, progress)
        elif not self.cooldown or id(phase.optimizer) in self._scheduled:
            return {}
        factor = min(1.0, (1 - progress) / self.cooldown) if self.cooldown else 1.0
        if isinstance(found, Mapping):
            for name in found:
                if any(name not in group or name == "params" for group in groups):
                    raise ValueError(f"its schedule sets {name!r}, which is not one of its options")
            for group in groups:
                group.update(found)
                if self.cooldown:
                    group["lr"] = found.get("lr", group["initial_lr"]) * factor
        else:
            for group in groups:
                group["lr"] = group["initial_lr"] * (found * factor if self.cooldown else found)
        rates = [float(group["lr"]) for group in groups]
        names = ["learning_rate", *(f"learning_rate_{i + 1}" for i in range(1, len(rates)))]
        return {f"{phase.name}/{name}": rate for name, rate in zip(names, rates, strict=True)}
