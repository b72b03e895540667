"""What is due when: log lines by steps, grids by the budget, checkpoints by the clock."""

from __future__ import annotations

import math
import statistics
import time

from genkit.config.budget import Budget
from genkit.training.context import Moment

SLOWER = 1.2  # an iteration that takes this many times longer than before is reported
SLOWED = (  # by other work on the machine
    "an iteration took {:.1f} times longer at the end than at first, and a budget in seconds buys "
    "less training then; one in kimg or tflop does not"
)
FEWEST_LINES = 4  # of the log, in each of the two parts that are compared
WATCHING_SHARE = 0.2  # of the time trained goes into samples at most
AHEAD = 0.1  # of the budget, by which they may be ahead of that
FREE_SECONDS, FREE_SHARE = 30.0, 0.05  # which they may take in any case, or of a budget in seconds


class LogCadence:
    """A line of the log each `every` steps, counted from the run's first step."""

    def __init__(self, every: int, now: Moment) -> None:
        self.every = every
        self._last = now
        self._rates: list[float] = []

    def due(self, step: int) -> bool:
        """Whether a line is due after that many steps."""
        return step % self.every == 0

    def rate(self, now: Moment) -> float:
        """Images per second of training since this was last asked."""
        seconds = max(now.seconds - self._last.seconds, 1e-9)
        rate = (now.images - self._last.images) / seconds
        self._last = now
        self._rates.append(rate)
        return rate

    def slowdown(self) -> str | None:
        """A sentence if iterations took much longer in the last third of the lines than in the
        first, by their medians; None while there are few."""
        third = len(self._rates) // 3
        if third < FEWEST_LINES:
            return None
        longer = statistics.median(self._rates[:third]) / statistics.median(self._rates[-third:])
        return SLOWED.format(longer) if longer > SLOWER else None


class GridCadence:
    """`count` grids over the budget: one before the first step, one at the end, the others evenly
    between them. A single grid comes at the end."""

    def __init__(self, count: int, now: Moment) -> None:
        self.count = count
        self._done = 0 if now.step == 0 else self._reached(now.spent)

    def due(self, spent: float) -> bool:
        """Whether a grid is due at this share of the budget; True once for each."""
        reached = self._reached(spent)
        due, self._done = reached > self._done, reached
        return due

    def _reached(self, spent: float) -> int:
        """How many grids should be there by now."""
        if spent >= 1 or self.count == 0:
            return self.count
        return int(spent * (self.count - 1) + 1e-9) + (self.count > 1)


class CheckpointCadence:
    """A checkpoint once `every` seconds have passed since the last one was written."""

    def __init__(self, every: float) -> None:
        self.every = every
        self.restart()

    def due(self) -> bool:
        return time.monotonic() - self._last > self.every

    def restart(self) -> None:
        """Count from now on."""
        self._last = time.monotonic()


class WatchingTime:
    """Holds what samples cost while a model trains to a share of the time trained: first fewer are
    drawn, then none."""

    def __init__(self, budget: Budget) -> None:
        seconds = budget.amount if budget.unit == "seconds" else math.inf
        self._free = min(FREE_SECONDS, FREE_SHARE * seconds)
        self._spent = 0.0
        self._each = 0.0  # seconds for an image, when samples were drawn last

    def affordable(self, wanted: int, fewest: int, now: Moment) -> int:
        """How many of the images wanted can be drawn now: at least the fewest, or 0."""
        whole = now.seconds / now.spent if now.spent else 0.0  # seconds of the whole training
        share = WATCHING_SHARE * min(now.spent + AHEAD, 1.0)
        left = max(share * whole, self._free) - self._spent
        half = left / 2  # the rest is for later
        count = wanted if self._each * wanted <= half else int(half / self._each)
        return max(count, fewest) if self._each * fewest <= left else 0

    def add(self, count: int, seconds: float) -> None:
        """Note what it cost to draw images and to look at them."""
        self._spent += seconds
        self._each = seconds / count
