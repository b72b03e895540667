"""Learning rates and other options of optimizers: schedules, and the cooldown at the end."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
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
        self._held: dict[int, tuple[Tensor, float]] = {}  # rates in tensors, by a group's id
        self._made_capturable: set[int] = set()  # ids of groups
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
        groups = phase.optimizer.param_groups
        for group in groups:
            if id(group) in self._held:
                group["lr"] = self._held[id(group)][1]
        try:
            return self._set(phase, groups, step, progress)
        finally:
            for group in groups:
                self._hold_again(group)

    def _set(
        self, phase: Phase, groups: Sequence[dict[str, Any]], step: int, progress: float
    ) -> dict[str, float]:
        schedule = self._schedules[phase.name]
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

    def _hold_again(self, group: dict[str, Any]) -> None:
        """Put a group's rate back into its tensor, which is written only if the rate is another."""
        if id(group) not in self._held:
            return
        tensor, number = self._held[id(group)]
        if (rate := float(group["lr"])) != number:
            tensor.fill_(rate)
            self._held[id(group)] = (tensor, rate)
        group["lr"] = tensor

    def hold(self, device: torch.device) -> None:
        """Keep the rates that something sets in tensors, (), from now on, and all that optimizers
        count on the device, so that recorded steps read them; again after an optimizer has loaded a
        state."""
        # CUDA's fused kernels read rates in float32; elsewhere they are as precise as Python's.
        kind = torch.float32 if device.type == "cuda" else torch.float64
        self._held.clear()
        self._made_capturable.clear()
        for phase, _ in self._initial:
            for group in phase.optimizer.param_groups:
                if id(group) in self._held:
                    continue
                if device.type == "cuda" and group.get("capturable") is False:
                    group["capturable"] = True
                    self._made_capturable.add(id(group))
                    for state in map(phase.optimizer.state.get, group["params"]):
                        if state and isinstance(count := state.get("step"), Tensor):
                            state["step"] = count.to(device, torch.float32)
                if self._schedules[phase.name] is None and not self.cooldown:
                    continue
                rate = float(group["lr"])
                tensor = torch.full((), rate, dtype=kind, device=device)
                self._held[id(group)] = (tensor, rate)
                group["lr"] = tensor

    def options(self, phases: Sequence[Phase]) -> str:
        """The options of the phases' optimizers but the rates that are held in tensors."""
        return repr(
            [
                {
                    name: value
                    for name, value in group.items()
                    if name != "params" and not (name == "lr" and id(group) in self._held)
                }
                for phase in phases
                for group in phase.optimizer.param_groups
            ]
        )

    def state_of(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """An optimizer's state with its rates as numbers, as it would be if none was held."""
        groups = optimizer.param_groups
        for group in groups:
            if id(group) in self._held:
                group["lr"] = self._held[id(group)][1]
            if id(group) in self._made_capturable:
                group["capturable"] = False
        try:
            return optimizer.state_dict()
        finally:
            for group in groups:
                self._hold_again(group)
                if id(group) in self._made_capturable:
                    group["capturable"] = True
