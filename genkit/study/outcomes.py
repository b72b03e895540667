"""How the trainings of a study ended: how many failed, with an interval, and what was warned of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genkit.comparison.work import UNSCORED
from genkit.report.rows import ScoreRow
from genkit.report.run_view import RunView, read_run

NORMAL_QUANTILE = 1.959963984540054  # |z| exceeds it in 5% of cases


@dataclass(frozen=True)
class Outcome:
    """The trainings of one case.

    Args:
        views: of the runs of the trainings that ended.
        failed: how many of them ended by an error, or had a warning of the watcher.
        warnings: one for each of these, with its step.
    """

    label: str
    views: tuple[RunView, ...]
    failed: int
    warnings: tuple[str, ...]

    @property
    def trainings(self) -> int:
        return len(self.views)

    @property
    def rate(self) -> str:
        """How many failed: "3 of 10"."""
        return f"{self.failed} of {self.trainings}" if self.trainings else "-"

    @property
    def interval(self) -> tuple[float, float]:
        """Between what the probability of failing lies, at 95%."""
        return wilson(self.failed, self.trainings)


def outcome_of(label: str, rows: Sequence[ScoreRow], folder: Path) -> Outcome:
    """The outcome of a case, given the rows of its trainings, whose runs lie in the study's folder,
    wherever that is now; those that an interruption left without a score are not counted."""
    ended = [row for row in rows if row.error != UNSCORED and row.run]
    views = [read_run(folder / Path(str(row.run)).name, label) for row in ended]
    said = [
        next(iter(view.warnings()), f"failed: {row.error}" if row.error else None)
        for row, view in zip(ended, views, strict=True)
    ]
    warnings = tuple(text for text in said if text)
    return Outcome(label, tuple(views), len(warnings), warnings)


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95% score interval of a probability, of `count` successes in `of` trials (Wilson 1927,
    J. Am. Stat. Assoc. 22); 0 to 1 without trials."""
    if not of:
        return 0.0, 1.0
    share, z = count / of, NORMAL_QUANTILE
    scale = 1 + z**2 / of
    middle = (share + z**2 / (2 * of)) / scale
    half = z * math.sqrt(share * (1 - share) / of + z**2 / (4 * of**2)) / scale
    low = 0.0 if count == 0 else middle - half
    return low, 1.0 if count == of else middle + half
