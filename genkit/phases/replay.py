"""Iterations that are recorded once and replayed, so that a GPU does not wait for the host.

A kind of iteration is the list of the phases that are due in it. Its first iterations run as they
are; then one is recorded, with all its phases, optimizers and averages, and replayed from there on.
What changes from step to step is written into tensors before: images, labels, learning rates,
weights of averages, and the seed of the generator. Whether iterations can be recorded is found out
by trying; if not, all run as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from genkit.compute.graphs import Recorder, Recording
from genkit.errors import GenkitError, one_line
from genkit.model import Batch, Phase
from genkit.phases.states import changed, copies, difference, facts_of, restore

WARM = 3  # iterations of a kind that run as they are before one is recorded
MOST_KINDS = 4  # that are recorded, each with memory of its own
TOLERANCE = 0.05  # largest difference of a step's change when replayed, as a share of the change

Logs = dict[str, Tensor | float]


class NotRecordable(GenkitError):
    """A replay would not do what the iteration does."""


class Iterations(Protocol):
    """What is asked of the loop."""

    model: Any
    unchecked: list[tuple[int, str, Tensor]]
    step: int

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Of all phases."""

    def run(self, due: Sequence[Phase], batches: Sequence[Batch]) -> Logs:
        """All of an iteration but its seed and its batches."""

    def reseed(self) -> None:
        """Seed the generators for this iteration."""

    def prepare(self, due: Sequence[Phase]) -> dict[str, float]:
        """Write learning rates and weights of averages into their tensors; returns the rates, to
        be logged. NotRecordable if one tensor would need two values in an iteration."""

    def options(self, due: Sequence[Phase]) -> str:
        """What else optimizers go by: numbers that a recording keeps as they are."""

    def tensors(self) -> list[list[Tensor]]:
        """All tensors that an iteration changes, in groups."""


class StaticBatch(Batch):
    """A batch whose tensors stay in place. Numbers that differ in each step cannot be read."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("step", "images_seen", "progress"):
            raise NotRecordable(f"a loss reads batch.{name}, a number that differs in each step")
        return super().__getattribute__(name)


@dataclass
class _Recorded:
    """A recorded iteration.

    Args:
        batches: its inputs.
        values: its outputs, (len(names) + len(losses),): what it logs, and the losses of all
            updates in turn.
        options: those of the optimizers, which must not change.
    """

    work: Recording
    batches: list[tuple[Tensor, Tensor | None]]
    names: list[str]
    losses: list[str]
    values: Tensor
    options: str


@dataclass
class _Kind:
    seen: int = 0
    replayed: int = 0
    recorded: _Recorded | None = field(default=None, repr=False)


class Replays:
    """Runs a loop's iterations, those that are known by replaying them.

    Each recording's first replay is compared with the iteration itself from the same state, and so
    are its 10th, 100th, ...: if weights, averages or optimizers then move by other amounts, nothing
    is replayed any more.

    Args:
        say: called at most once, with why iterations are not recorded.
    """

    def __init__(
        self, recorder: Recorder, say: Callable[[str], object] = lambda note: None
    ) -> None:
        self._recorder = recorder
        self._say = say
        self._kinds: dict[tuple[str, ...], _Kind] = {}
        self._given_up = False
        self.count = 0  # steps that were replayed and not compared

    def forget(self) -> None:
        """Record again from the start: tensors have been exchanged."""
        self._kinds.clear()

    def iterate(self, loop: Iterations, due: Sequence[Phase], batches: Sequence[Batch]) -> Logs:
        """An iteration, generators seeded and batches drawn; returns what it logs."""
        names = tuple(phase.name for phase in due)
        if not self._given_up and len(self._kinds) < MOST_KINDS:
            self._kinds.setdefault(names, _Kind())
        kind = self._kinds.get(names)
        if kind is None:
            return self._run(loop, due, batches)
        if kind.seen < WARM:
            kind.seen += 1
            before = self._facts(loop)
            logs = self._run(loop, due, batches)
            if kind.seen == WARM and (what := changed(before, self._facts(loop))):
                self._give_up(f"{what} changes in a step, which a replay would not do")
            return logs
        rates = {}
        try:
            rates = loop.prepare(due)
            if kind.recorded is None:
                kind.recorded = self._record(loop, due, batches)
            elif kind.recorded.options != loop.options(due):
                raise NotRecordable("a schedule changes other options than the learning rate")
            before_step = None
            if str(kind.replayed + 1).strip("0") == "1":
                before_step = copies(loop.tensors())
        except Exception as error:  # whatever a plugin, an optimizer or CUDA has against it
            self._give_up(str(error) if isinstance(error, GenkitError) else one_line(error))
            loop.reseed()
            return self._run(loop, due, batches)
        kind.replayed += 1
        logs = self._replay(loop, kind.recorded, batches, rates, keep=before_step is None)
        if before_step is None:
            return logs
        replayed = copies(loop.tensors())
        restore(loop.tensors(), before_step)
        loop.reseed()
        logs = self._run(loop, due, batches)
        off = difference(before_step, replayed, loop.tensors())
        if not off <= TOLERANCE:
            self._give_up(f"a replay changes what a step changes by {off:.0%} of it")
        return logs

    def _run(self, loop: Iterations, due: Sequence[Phase], batches: Sequence[Batch]) -> Logs:
        if self._given_up:
            return loop.run(due, batches)
        return self._recorder.run(lambda: loop.run(due, batches))

    @staticmethod
    def _facts(loop: Iterations) -> dict[str, object]:
        tensors = [tensor for group in loop.tensors() for tensor in group]
        return facts_of(loop.model, loop.optimizers, tensors)

    def _give_up(self, reason: str) -> None:
        self._given_up = True
        self._kinds.clear()
        self._say(
            f"steps are not replayed as CUDA graphs: {reason}. Each operation is launched by "
            "itself, which gives the same results and may be slower"
        )

    def _record(
        self, loop: Iterations, due: Sequence[Phase], batches: Sequence[Batch]
    ) -> _Recorded:
        """Record an iteration; what it changes on the way, if anything, is put back."""
        known = len(loop.unchecked)
        before = copies(loop.tensors())
        inputs = [
            (each.images.clone(), None if each.labels is None else each.labels.clone())
            for each in batches
        ]
        found: list[tuple[list[str], list[str], Tensor]] = []

        def work() -> None:
            logs = loop.run(due, [_static(*each) for each in inputs])
            losses = loop.unchecked[known:]
            logged = {name: value for name, value in logs.items() if isinstance(value, Tensor)}
            values = [*logged.values(), *(loss for _, _, loss in losses)]
            stacked = torch.stack([value.detach().reshape(()).double() for value in values])
            found.append((list(logged), [phase for _, phase, _ in losses], stacked))

        try:
            recording = self._recorder.record(work)
        finally:
            del loop.unchecked[known:]
            restore(loop.tensors(), before)
        return _Recorded(recording, inputs, *found[-1], loop.options(due))

    def _replay(
        self,
        loop: Iterations,
        recorded: _Recorded,
        batches: Sequence[Batch],
        rates: Mapping[str, float],
        *,
        keep: bool,
    ) -> Logs:
        """Replay an iteration. Values are copied: the next replay writes to the same places.

        Args:
            keep: whether this was the step; else its losses are not noted.
        """
        with torch.no_grad():
            for (images, labels), batch in zip(recorded.batches, batches, strict=True):
                images.copy_(batch.images)
                if labels is not None and batch.labels is not None:
                    labels.copy_(batch.labels)
            loop.reseed()
            recorded.work.replay()
            values = recorded.values.clone().unbind()
        count = len(recorded.names)
        if keep:
            self.count += 1
            losses = zip(recorded.losses, values[count:], strict=True)
            loop.unchecked.extend((loop.step + 1, phase, loss) for phase, loss in losses)
        return {**dict(zip(recorded.names, values[:count], strict=True)), **rates}


def _static(images: Tensor, labels: Tensor | None) -> StaticBatch:
    """A batch in the same memory, of which a loss may ask gradients."""
    return StaticBatch(images.detach(), None if labels is None else labels.detach())
