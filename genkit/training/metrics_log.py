"""The log of a run: what was measured and warned of, and writes that a full disk only delays.

Training goes on while its disk is full; what could not be written is written when it can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from genkit.errors import WriteError
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir

KEPT = 100  # values of each name that `history` holds


class Journal:
    """Lines of metrics.jsonl, with the values and warnings of the latest ones at hand."""

    def __init__(self, directory: RunDir, reporter: Reporter) -> None:
        self.directory = directory
        self.reporter = reporter
        self.history: dict[str, list[float]] = {}
        self.warnings: list[str] = []
        self._pending: list[dict[str, Any]] = []
        self._failing: set[str] = set()

    def restore(self, step: int) -> Iterator[dict[str, Any]]:
        """Take up the log of a run that goes on after `step`, line by line: it is as it was after
        each line that is given. Later lines will come again and are dropped."""
        self.directory.cut_metrics(step)
        for row in self.directory.read_metrics():
            self._remember(row)
            yield row

    def _remember(self, row: Mapping[str, Any]) -> None:
        if isinstance(row.get("warning"), str):
            self.warnings.append(row["warning"])
        for name, value in row.items():
            if "/" in name and isinstance(value, float):  # a phase's, not a count
                values = self.history.setdefault(name, [])
                values.append(value)
                del values[:-KEPT]

    def add(self, row: dict[str, Any]) -> None:
        """Write a line, now or as soon as the disk lets it."""
        self._remember(row)
        self._pending.append(row)
        self.attempt("log", self.flush)

    def flush(self, sync: bool = False) -> None:
        """Write the lines that are still to be written; `sync` brings all to the disk itself."""
        if self._pending or sync:
            self.directory.append_metrics(self._pending, sync)
            self._pending = []

    def warn(self, step: int, message: str) -> None:
        """Warn on the screen and in the log."""
        self.reporter.say(f"Warning: {self.directory.name}, step {step}: {message}")
        self.add({"step": step, "warning": message})

    def attempt(self, what: str, write: Callable[[], object]) -> None:
        """Write something, if that is possible now. That it is not is said once, until all that
        failed since then has been written.

        Raises:
            WriteError: the run directory is gone.
        """
        try:
            write()
        except WriteError as error:
            if not self.directory.config_path.exists():
                raise
            if not self._failing:
                self.reporter.say(f"Warning: {error}; training goes on and tries again")
            self._failing.add(what)
        else:
            self._failing.discard(what)
