"""Comparing models: trains them, each in a process of its own, scores all alike and ranks them.

This process never imports torch: it starts others, shows their progress and ranks their rows.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from genkit.comparison.averages import average
from genkit.comparison.candidates import (
    Candidate,
    announce,
    choose_candidates,
    choose_presets,
)
from genkit.comparison.montage import join_grids
from genkit.comparison.options import CompareOptions
from genkit.comparison.pool import ProcessPool
from genkit.config.budget import Budget
from genkit.errors import GenkitError, PluginError, UsageError
from genkit.io.files import check_free, write_atomic
from genkit.io.machine import count_cores
from genkit.io.processes import genkit_command, last_words
from genkit.io.progress import error_console
from genkit.io.run_directory import RunDir, new_run_path
from genkit.io.signals import signals_raised
from genkit.registry.catalogue import Registry
from genkit.report.footnotes import footnotes
from genkit.report.page import refresh_page
from genkit.report.ranking import Ranking, choose_column, fewest_levels, rank, score_columns
from genkit.report.rows import (
    CALIBRATION,
    COMPARISON,
    ComparisonRecord,
    DataFacts,
    ScoreRow,
    read_evaluation,
    write_evaluation,
)
from genkit.report.tables import print_ranking, to_markdown

Rows = list[ScoreRow]
CALIBRATED = "real, copy and noise"  # title of their scoring


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
    runs = [RunDir(Path(name)) for name in names if name not in registry.trainers]
    recorded = next((run.record().run for run in runs if run.config_path.is_file()), None)
    options = options.with_data(recorded, registry)
    out = out or new_run_path("compare", str(options.data), options.seed)
    seeds = range(options.seed, options.seed + options.seeds)
    candidates = choose_candidates(names, registry, out, seeds)
    choose_column(score_columns(registry), [], options.rank_by)
    try:
        Budget.parse(options.budget)
    except ValueError as error:
        raise UsageError(f"--budget: {error}") from None
    check_free(out, "--out")
    with tempfile.TemporaryDirectory() as temporary:
        facts = _inspect(options, Path(temporary))
        real = Path(temporary, "real.png").read_bytes()
    preset = options.preset or ("quick" if facts.device == "cpu" else "full")
    candidates = choose_presets(candidates, options, registry, preset)
    # One training at a time on each device, or on each core.
    count = count_cores() if facts.device == "cpu" else max(1, len(facts.devices))
    workers = options.workers or count
    for line in announce(candidates, options, facts, preset, workers, out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "real.png", real)
    processes = ProcessPool(console, facts.notes, facts.devices)
    rows, calibration = _run_all(processes, candidates, options, workers)
    for candidate, row in zip(candidates, rows, strict=True):
        if not row.error:
            write_evaluation(RunDir(candidate.run).evaluation_path, [row, *calibration])
    columns = [] if facts.features == "none" else score_columns(registry)
    ranking = rank([*_one_for_each_model(rows), *calibration], columns, options.rank_by)
    _record(options, preset, rows, ranking).write(out / COMPARISON)
    _join_grids(candidates, out)
    for folder in [*(Path(str(row.run)) for row in rows if not row.error), out]:
        refresh_page(folder, registry)
    return Comparison(out, ranking, facts.features)


def _inspect(options: CompareOptions, folder: Path) -> DataFacts:
    """The facts of data, features and device, found by another process before any work is done."""
    path = folder / "facts.json"
    command = ["inspect", *options.feature_arguments(), "--json", str(path)]
    command += ["--grid", str(folder / "real.png")]
    done = subprocess.run(genkit_command(command), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return DataFacts.read(path)
    kind = {2: UsageError, 3: PluginError}.get(done.returncode, GenkitError)
    raise kind(last_words(done.stderr))


def _run_all(
    processes: ProcessPool, candidates: Sequence[Candidate], options: CompareOptions, workers: int
) -> tuple[Rows, Rows]:
    """Train and score all candidates, some at a time: their rows and the calibration rows."""
    with processes, signals_raised(), ThreadPoolExecutor(workers) as threads:
        calibration = [] if options.features == "none" else [CALIBRATED]
        processes.expect([*calibration, *(candidate.title for candidate in candidates)])
        # First of all, since it also makes what every scoring needs: reference, classifier.
        calibrated = threads.submit(_calibrate, processes, options)
        futures = [
            threads.submit(_train_and_score, processes, candidate, options, calibrated)
            for candidate in candidates
        ]
        try:
            rows = [future.result() for future in futures]
            others = calibrated.result()
            return _at_fewest_levels(processes, threads, candidates, options, rows, others)
        except BaseException:
            processes.end()
            threads.shutdown(wait=True, cancel_futures=True)
            raise


def _calibrate(processes: ProcessPool, options: CompareOptions) -> Rows:
    """The calibration rows: what the best and the worst score would be."""
    if options.features == "none":
        return []
    try:
        return _score(processes, list(CALIBRATION), CALIBRATED, options)
    except GenkitError as error:
        return [ScoreRow(name=name, error=str(error)) for name in CALIBRATION]


def _train_and_score(
    processes: ProcessPool,
    candidate: Candidate,
    options: CompareOptions,
    calibrated: Future[Rows],
) -> ScoreRow:
    """Train and score one candidate. A failure is noted in its row and ends no other."""
    try:
        if not candidate.trained:
            command = ["train", candidate.name, *options.data_arguments()]
            command += ["--preset", candidate.preset, "--budget", options.budget]
            command += ["--seed", str(candidate.seed), "--device", options.device]
            command += ["--run-dir", str(candidate.run)]
            for option, value in options.given(candidate.name).items():
                command.append(f"--{option.replace('_', '-')}={value}")
            processes.run(command, candidate.title, "training")
        calibrated.result()
        row = _score(processes, [str(candidate.run)], candidate.title, options)[0]
    except GenkitError as error:
        return ScoreRow(name=candidate.name, run=str(candidate.run), error=str(error))
    return row.model_copy(update={"name": candidate.name, "run": str(candidate.run)})


def _at_fewest_levels(
    processes: ProcessPool,
    threads: ThreadPoolExecutor,
    candidates: Sequence[Candidate],
    options: CompareOptions,
    rows: Rows,
    calibration: Rows,
) -> tuple[Rows, Rows]:
    """The rows of models and of calibration, where samples have different numbers of levels with
    their scores at the fewest of these."""
    levels = fewest_levels(rows)
    if not levels or options.features == "none":
        return rows, calibration
    more = ["--levels", str(levels), "--draws", "1", "--likelihood-images", "1"]

    def at_levels(row: ScoreRow, candidate: Candidate) -> ScoreRow:
        if row.error:
            return row
        try:
            found = _score(processes, [str(candidate.run)], candidate.title, options, more)[0]
        except GenkitError as error:
            return row.model_copy(update={"problems": (*row.problems, str(error))})
        changes = {"scores": found.scores, "deviations": found.deviations}
        return row.model_copy(update=changes)

    targets = list(CALIBRATION)
    calibrated = threads.submit(_score, processes, targets, CALIBRATED, options, more)
    rounded = list(threads.map(at_levels, rows, candidates))
    try:
        return rounded, calibrated.result()
    except GenkitError:
        return rounded, calibration


def _score(
    processes: ProcessPool,
    targets: list[str],
    title: str,
    options: CompareOptions,
    more: Sequence[str] = (),
) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        command = ["evaluate", *targets, "--alone", *options.feature_arguments()]
        command += ["-n", str(options.samples), "--threads", "1", "--json", str(path), *more]
        processes.run(command, title, "scoring")
        return read_evaluation(path)


def _one_for_each_model(rows: Rows) -> Rows:
    """The rows with the trainings of one model averaged, in the order of the models."""
    names = dict.fromkeys(row.name for row in rows)
    return [average([row for row in rows if row.name == name]) for name in names]


def _record(
    options: CompareOptions, preset: str, trainings: Rows, ranking: Ranking
) -> ComparisonRecord:
    return ComparisonRecord(
        command=tuple(sys.argv),
        data=options.data,
        budget=options.budget,
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
    pictures = {"real": out / "real.png"}
    for candidate in candidates:
        grids = RunDir(candidate.run).samples.glob("step-*.png")
        if newest := max(grids, default=None):
            pictures.setdefault(candidate.name, newest)
    join_grids(list(pictures.items()), out / "grid.png")
