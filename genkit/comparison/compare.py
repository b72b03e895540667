"""Comparing models: trains them, each in a process of its own, scores all alike and ranks them.

This process never imports torch: it starts others, shows their progress and ranks their rows.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from genkit.comparison.averages import average
from genkit.comparison.candidates import (
    Candidate,
    announce,
    budgets_of,
    choose_candidates,
    choose_presets,
    fitted_options,
)
from genkit.comparison.montage import join_grids
from genkit.comparison.options import CompareOptions
from genkit.comparison.pool import ProcessPool
from genkit.comparison.work import KEPT_FEATURES, inspect_data, run_all
from genkit.config.budget import Budget
from genkit.config.sampler import split_target
from genkit.errors import UsageError, WriteError, printable, reason_of
from genkit.io.files import check_free, write_atomic
from genkit.io.forks import ForkServer, fork_server
from genkit.io.machine import count_cores
from genkit.io.progress import error_console
from genkit.io.run_directory import RunDir, new_run_path
from genkit.registry.catalogue import Registry
from genkit.report.data_facts import DataFacts
from genkit.report.footnotes import footnotes
from genkit.report.page import refresh_page
from genkit.report.ranking import Ranking, choose_column, rank, score_columns
from genkit.report.rows import (
    COMPARISON,
    ComparisonRecord,
    ScoreRow,
    write_evaluation,
)
from genkit.report.tables import print_ranking, to_markdown

Rows = list[ScoreRow]
REAL = "real.png"  # the grid of real images in a folder of results


@dataclass(frozen=True)
class Comparison:
    """The outcome: ranked rows and where everything was written."""

    path: Path
    ranking: Ranking
    features: str

    @property
    def rows(self) -> list[ScoreRow]:
        """A row for each model, in order of rank, and the calibration rows."""
        return self.ranking.rows

    def to_markdown(self) -> str:
        """The table as Markdown."""
        return to_markdown(self.ranking, self.features)

    def print(self) -> None:
        """Print the tables and what their numbers are of."""
        print_ranking(self.ranking, self.features, footnotes(self.ranking))


def compare(
    names: Sequence[str],
    options: CompareOptions,
    registry: Registry,
    out: Path | None = None,
    console: Console | None = None,
) -> Comparison:
    """Train, score and rank models under one budget and one protocol.

    Args:
        names: trainers' names, and paths of runs, which are scored as they are. Unless the options
            name the data, it is that of the first run, or the default data set.
        out: folder for run directories, compare.json, grid.png and report.html; must be new.

    Raises:
        UsageError: for input that cannot be used, before anything is trained. A model that fails
            later has a row that says why.
    """
    console = console or error_console()
    runs = [RunDir(Path(split_target(name)[0])) for name in names if name not in registry.trainers]
    recorded = next((run.record().run for run in runs if run.config_path.is_file()), None)
    options = options.with_data(recorded, registry)
    out = out or new_run_path("compare", str(options.data), options.seed)
    seeds = range(options.seed, options.seed + options.seeds)
    candidates = choose_candidates(names, registry, out, seeds)
    choose_column(score_columns(registry), [], options.rank_by)
    if options.budget:
        try:
            Budget.parse(options.budget)
        except ValueError as error:
            raise UsageError(f"--budget: {error}") from None
    check_free(out, "--out")
    with fork_server(own_metrics(registry)) as server:
        facts, real = look_at_data(options, server)
        preset = options.preset or ("quick" if facts.device == "cpu" else "full")
        candidates = choose_presets(candidates, options, registry, preset)
        make_folder(out)
        write_atomic(out / REAL, real)
        again = f"to see them: genkit report {out}; to continue one: genkit resume {out}/NAME"
        return carry_out(candidates, options, registry, out, facts, preset, again, console, server)


def own_metrics(registry: Registry) -> list[str]:
    """Modules of the metrics that come with genkit, to be imported once for all processes. What
    others do when they are imported is not known, so each process does it itself."""
    entries = registry.metrics.values()
    own = (entry.spec.target.partition(":")[0] for entry in entries if entry.plugin.built_in)
    return sorted(set(own))


def look_at_data(options: CompareOptions, server: ForkServer | None) -> tuple[DataFacts, bytes]:
    """The facts of the data, and a grid of real images as the content of a PNG."""
    with tempfile.TemporaryDirectory() as temporary:
        facts = inspect_data(options, Path(temporary), server)
        return facts, Path(temporary, "real.png").read_bytes()


def make_folder(out: Path) -> None:
    """Make the folder of results; UsageError if that is not possible."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{out} cannot be made: {reason_of(error)}; choose another --out"
        ) from None


def carry_out(
    candidates: Sequence[Candidate],
    options: CompareOptions,
    registry: Registry,
    out: Path,
    facts: DataFacts,
    preset: str,
    again: str,
    console: Console,
    server: ForkServer | None,
) -> Comparison:
    """Announce, train, score and rank candidates that were checked.

    Args:
        out: folder for all results, with the grid of real images.
        again: how to continue after an interruption.
        server: forks the processes.
    """
    # One training at a time on each device, or on each core.
    count = count_cores() if facts.device == "cpu" else max(1, len(facts.devices))
    workers = options.workers or count
    fitted = fitted_options(candidates, facts, registry)
    for line in announce(candidates, options, facts, preset, workers, out, fitted):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    processes = ProcessPool(console, facts.notes, facts.devices, server)
    rows, calibration, interruption = run_all(
        processes, candidates, options, registry, workers, out / KEPT_FEATURES
    )
    for candidate, row in zip(candidates, rows, strict=True):
        if not row.error and not candidate.sampler:
            with _failures_said(console):
                write_evaluation(RunDir(candidate.run).evaluation_path, [row, *calibration])
    columns = [] if facts.features == "none" else score_columns(registry)
    ranking = rank([*_one_for_each_model(rows), *calibration], columns, options.rank_by)
    with _failures_said(console):
        record = _record(options, candidates, preset, rows, ranking)
        timeline = sorted(processes.timeline, key=lambda span: span.start)
        record.model_copy(update={"timeline": tuple(timeline)}).write(out / COMPARISON)
    with _failures_said(console):
        _join_grids(candidates, out)
    for folder in [*(Path(str(row.run)) for row in rows if not row.error), out]:
        refresh_page(folder, registry)
    if interruption:
        scored = sum(not row.error for row in rows)
        console.print(
            f"Interrupted: {scored} of {len(rows)} trainings are scored and kept; {again}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise interruption
    return Comparison(out, ranking, facts.features)


@contextmanager
def _failures_said(console: Console) -> Iterator[None]:
    """What cannot be written is a warning: the table is shown all the same."""
    try:
        yield
    except WriteError as error:
        console.print(f"Warning: {printable(error)}", markup=False, soft_wrap=True)


def _one_for_each_model(rows: Rows) -> Rows:
    """The rows with the trainings of one model averaged, in the order of the models."""
    names = dict.fromkeys(row.name for row in rows)
    return [average([row for row in rows if row.name == name]) for name in names]


def _record(
    options: CompareOptions,
    candidates: Sequence[Candidate],
    preset: str,
    trainings: Rows,
    ranking: Ranking,
) -> ComparisonRecord:
    return ComparisonRecord(
        command=tuple(sys.argv),
        data=options.data,
        budget=budgets_of(candidates) or None,
        preset=preset,
        seed=options.seed,
        seeds=options.seeds,
        ranked_by=ranking.column.name if ranking.column else None,
        not_ranked_because=tuple(ranking.refusals),
        columns=tuple(ranking.columns),
        rows=tuple(ranking.rows),
        trainings=tuple(trainings),
    )


def _join_grids(candidates: Sequence[Candidate], out: Path) -> None:
    """Write grid.png: real images and the newest grid of each model's first seed."""
    pictures = {"real": out / REAL}
    for candidate in candidates:
        grids = RunDir(candidate.run).samples.glob("step-*.png")
        if newest := max(grids, default=None):
            pictures.setdefault(candidate.name, newest)
    join_grids(list(pictures.items()), out / "grid.png")
