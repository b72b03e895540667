"""Progress: the share of the budget used before each step, the same again when a run resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from genkit.config.budget import Budget
from genkit.errors import WriteError, reason_of
from genkit.io.files import parse_json, read_file
from genkit.io.run_records import ClockMark

MOST_CLOCK_BYTES = 2**24
STRETCH = 0.01  # share of the budget after which time is measured again


class Pace:
    """The share of the budget used before each step, as losses and schedules see it.

    For budgets in steps, images and epochs it is a function of the step. For budgets in seconds,
    time is measured at some steps, each a mark: after steps 1, 2, 4, 8, ... and at least after
    each hundredth of the budget. Between two marks progress rises evenly, at the speed measured
    before. It never falls. So it is a function of the step and of the marks, which are recorded
    before they are used: a run that is killed and resumes finds the marks of the steps that it
    repeats, and these see the same values again.

    Args:
        marks: those recorded so far; only those of the same budget count.
        record: called with each new mark.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        images_per_step: int,
        images_per_epoch: int,
        marks: Iterable[ClockMark] = (),
        record: Callable[[ClockMark], object] = lambda mark: None,
    ) -> None:
        self.budget = budget
        self.images_per_step = images_per_step
        self.images_per_epoch = images_per_epoch
        self._known = {mark.step: mark for mark in marks if mark.budget == budget.amount}
        self._record = record
        self._mark: ClockMark | None = None

    def before(self, step: int, seconds: float) -> float:
        """Progress before a step, 0 to 1.

        Args:
            seconds: of training so far.
        """
        if self.budget.unit != "seconds":
            share = self.budget.spent(
                step=step,
                images=step * self.images_per_step,
                seconds=seconds,
                images_per_epoch=self.images_per_epoch,
            )
            return min(share, 1.0)
        if self._mark is None:  # the run starts or resumes here
            earlier = [known for known in self._known if known <= step]
            self._mark = self._known[max(earlier)] if earlier else None
        if self._mark is None or step >= self._mark.until:
            if step not in self._known:
                self._known[step] = self._measure(step, seconds)
                self._record(self._known[step])
            self._mark = self._known[step]
        return _share_at(self._mark, step)

    def _measure(self, step: int, seconds: float) -> ClockMark:
        """A new mark: from here on progress rises so that it is 1 when the budget is spent."""
        amount, share = self.budget.amount, min(seconds / self.budget.amount, 1.0)
        per_step, until = 0.0, step + 1  # at first nothing is known
        if step:
            last = self._mark if self._mark and self._mark.step else None
            steps = step - last.step if last else step
            took = max(seconds - (last.seconds if last else 0.0), 1e-9) / steps  # each step
            share = max(share, _share_at(self._mark, step) if self._mark else 0.0)
            if seconds < amount:
                per_step = (1 - share) * took / (amount - seconds)
            until = step + max(1, min(step, int(STRETCH * amount / took)))
        return ClockMark(
            budget=amount, step=step, seconds=seconds, share=share, per_step=per_step, until=until
        )


def _share_at(mark: ClockMark, step: int) -> float:
    return min(mark.share + (step - mark.step) * mark.per_step, 1.0)


def append_mark(path: Path, mark: ClockMark) -> None:
    """Add a line to clock.jsonl; WriteError if that is not possible."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(mark.model_dump_json() + "\n")
    except OSError as error:
        raise WriteError(f"{path} could not be written: {reason_of(error)}") from error


def parse_marks(text: str) -> list[ClockMark]:
    """The marks in the lines of clock.jsonl; lines that are damaged are left out."""
    marks = []
    for line in text.splitlines():
        with suppress(ValueError):
            marks.append(ClockMark.from_json(parse_json(line)))
    return marks


def read_clock(path: Path) -> str:
    """The text of clock.jsonl; nothing if there is none that can be read."""
    try:
        return read_file(path, MOST_CLOCK_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
