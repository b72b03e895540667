"""The log of a run: what was measured and warned of. A full disk only delays its lines.

Training continues while its disk is full; what could not be written is written later.
"""

from __future__ import annotations

from collections.abc import Callable

from genkit.errors import WriteError
from genkit.io.progress import Reporter
from genkit.io.run_directory import MetricsRow, RunDir

KEPT = 100  # values of each name that `history` holds


class MetricsLog:
    """Lines of metrics.jsonl, with the latest values and all warnings at hand."""

    def __init__(self, directory: RunDir, reporter: Reporter) -> None:
        self.directory = directory
        self.reporter = reporter
        self.history: dict[str, list[float]] = {}
        self.warnings: list[str] = []
        self._pending: list[MetricsRow] = []
        self._failing: set[str] = set()

    def restore(self, step: int, on_row: Callable[[MetricsRow], None]) -> None:
        """Read the log of a run that resumes after `step`, and drop later lines: they will be
        written again. `on_row` gets each line when `history` has just taken it."""
        self.directory.cut_metrics(step)
        for row in self.directory.read_metrics():
            self._remember(row)
            on_row(row)

    def _remember(self, row: MetricsRow) -> None:
        if isinstance(row.get("warning"), str):
            self.warnings.append(row["warning"])
        for name, value in row.items():
            if "/" in name and isinstance(value, float):  # a value of a phase, not a count
                values = self.history.setdefault(name, [])
                values.append(value)
                del values[:-KEPT]

    def add(self, row: MetricsRow) -> None:
        """Write a line, now or as soon as the disk allows it."""
        self._remember(row)
        self._pending.append(row)
        self.attempt("log", self.flush)

    def flush(self, sync: bool = False) -> None:
        """Write the lines that are waiting; `sync` makes the whole log survive a power cut.

        Raises:
            WriteError: they could not be written; they are still waiting.
        """
        if self._pending or sync:
            self.directory.append_metrics(self._pending, sync)
            self._pending = []

    def warn(self, step: int, message: str) -> None:
        """Warn on the screen and in the log."""
        self.reporter.say(f"Warning: {self.directory.name}, step {step}: {message}")
        self.add({"step": step, "warning": message})

    def attempt(self, what: str, write: Callable[[], object]) -> None:
        """Write something if that is possible now. A failure is reported once, and again only after
        all that failed has been written.

        Raises:
            WriteError: the run directory is gone.
        """
        try:
            write()
        except WriteError as error:
            if not self.directory.config_path.exists():
                raise
            if not self._failing:
                self.reporter.say(f"Warning: {error}; training continues and tries again")
            self._failing.add(what)
        else:
            self._failing.discard(what)
