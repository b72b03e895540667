"""Comparing models: trains what is missing, each in a process of its own, and scores all alike.

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
from typing import Any

from rich.console import Console

from genkit.comparison.candidates import Entrant, announce, choose_entrants, choose_presets
from genkit.comparison.montage import join_grids
from genkit.comparison.options import Options
from genkit.comparison.pool import Crew
from genkit.config.budget import Budget
from genkit.errors import GenkitError, PluginError, UsageError
from genkit.io.files import check_free, read_json, write_atomic, write_json
from genkit.io.machine import count_cores
from genkit.io.processes import genkit_command, last_words
from genkit.io.progress import error_console
from genkit.io.run_directory import RunDir, new_run_path
from genkit.io.signals import signals_raised
from genkit.registry.catalogue import Registry
from genkit.report.page import refresh_page
from genkit.report.ranking import (
    CALIBRATION,
    Ranking,
    average,
    choose_column,
    footnotes,
    rank,
    score_columns,
)
from genkit.report.tables import print_ranking, to_markdown

Rows = list[dict[str, Any]]
CALIBRATED = "real, copy and noise"  # title of their scoring


@dataclass(frozen=True)
class Comparison:
    """The outcome: ranked rows and where everything was written."""

    path: Path
    ranking: Ranking
    features: str

    @property
    def rows(self) -> Rows:
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
    options: Options,
    registry: Registry,
    out: Path | None = None,
    console: Console | None = None,
) -> Comparison:
    """Train, score and rank models under one budget and one protocol.

    Args:
        names: trainers' names, and paths of runs, which are scored as they are. Unless the options
            name the data, it is that of the first run, or mnist-mini.
        out: folder for run directories, compare.json, grid.png and report.html; must be new.

    Raises:
        UsageError: for input that cannot be used, before anything is trained. A model that fails
            later is a row that says why.
    """
    console = console or error_console()
    runs = [RunDir(Path(name)) for name in names if name not in registry.trainers]
    recorded = next((run.record().run for run in runs if run.config_path.is_file()), None)
    options = options.with_data(recorded)
    out = out or new_run_path("compare", str(options.data), options.seed)
    seeds = range(options.seed, options.seed + options.seeds)
    entrants = choose_entrants(names, registry, out, seeds)
    choose_column(score_columns(registry), [], options.rank_by)
    try:
        Budget.parse(options.budget)
    except ValueError as error:
        raise UsageError(f"--budget: {error}") from None
    check_free(out, "--out")
    with tempfile.TemporaryDirectory() as folder:
        facts = _inspect(options, Path(folder))
        real = Path(folder, "real.png").read_bytes()
    preset = options.preset or ("quick" if facts["device"] == "cpu" else "full")
    choose_presets(entrants, options, registry, preset)
    devices = facts["devices"]  # one training at a time on each, or on each core
    workers = options.workers or (
        count_cores() if facts["device"] == "cpu" else max(1, len(devices))
    )
    for line in announce(entrants, options, facts, preset, workers, out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "real.png", real)
    crew = Crew(console, facts["notes"], devices)
    calibration = _run_all(crew, entrants, options, workers)
    return _conclude(entrants, calibration, options, registry, facts, preset, out)


def _inspect(options: Options, folder: Path) -> dict[str, Any]:
    """Look at data, features and device in another process, before any work is done."""
    path = folder / "facts.json"
    command = ["inspect", *options.feature_arguments(), "--json", str(path)]
    command += ["--grid", str(folder / "real.png")]
    done = subprocess.run(genkit_command(command), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return dict(read_json(path))
    kind = {2: UsageError, 3: PluginError}.get(done.returncode, GenkitError)
    raise kind(last_words(done.stderr))


def _run_all(crew: Crew, entrants: Sequence[Entrant], options: Options, workers: int) -> Rows:
    """Train and score all entrants, some at a time; returns the calibration rows."""
    with crew, signals_raised(), ThreadPoolExecutor(workers) as pool:
        calibration = [] if options.features == "none" else [CALIBRATED]
        crew.expect([*calibration, *(entrant.title for entrant in entrants)])
        # First of all, since it also makes what every scoring needs: reference, classifier.
        calibrated = pool.submit(_calibrate, crew, options)
        futures: list[Future[Any]] = [calibrated]
        for entrant in entrants:
            futures.append(pool.submit(_train_and_score, crew, entrant, options, calibrated))
        try:
            for future in futures:
                future.result()
        except BaseException:
            crew.end()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return calibrated.result()


def _calibrate(crew: Crew, options: Options) -> Rows:
    """The rows that say what the best and the worst score would be."""
    if options.features == "none":
        return []
    try:
        return _score(crew, list(CALIBRATION), CALIBRATED, options)
    except GenkitError as error:
        return [{"name": name, "error": str(error)} for name in CALIBRATION]


def _train_and_score(
    crew: Crew, entrant: Entrant, options: Options, calibrated: Future[Rows]
) -> None:
    """One entrant from nothing to its row; a failure is noted in it and hurts nobody else."""
    try:
        if not entrant.trained:
            command = ["train", entrant.name, *options.data_arguments()]
            command += ["--preset", entrant.preset, "--budget", options.budget]
            command += ["--seed", str(entrant.seed), "--device", options.device]
            command += ["--run-dir", str(entrant.run)]
            for option, value in options.given(entrant.name).items():
                command.append(f"--{option.replace('_', '-')}={value}")
            crew.run(command, entrant.title, "training")
        calibrated.result()
        entrant.row = _score(crew, [str(entrant.run)], entrant.title, options)[0]
    except GenkitError as error:
        entrant.error = str(error)


def _score(crew: Crew, targets: list[str], title: str, options: Options) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        command = ["evaluate", *targets, "--alone", *options.feature_arguments()]
        command += ["-n", str(options.samples), "--threads", "1", "--json", str(path)]
        crew.run(command, title, "scoring")
        return list(read_json(path))


def _conclude(
    entrants: Sequence[Entrant],
    calibration: Rows,
    options: Options,
    registry: Registry,
    facts: dict[str, Any],
    preset: str,
    out: Path,
) -> Comparison:
    """Rank the rows; write compare.json, grid.png, each run's evaluation.json and all pages."""
    for entrant in entrants:
        entrant.row |= {"name": entrant.name, "run": str(entrant.run)}
        if entrant.error:
            entrant.row["error"] = entrant.error
        else:
            write_json(RunDir(entrant.run).evaluation_path, [entrant.row, *calibration])
    rows = []
    for name in dict.fromkeys(entrant.name for entrant in entrants):
        rows.append(average([entrant.row for entrant in entrants if entrant.name == name]))
    columns = [] if facts["features"] == "none" else score_columns(registry)
    ranking = rank([*rows, *calibration], columns, options.rank_by)
    content = {
        "command": sys.argv,
        "data": options.data,
        "budget": options.budget,
        "preset": preset,
        "seed": options.seed,
        "seeds": options.seeds,
        "ranked_by": ranking.column.name if ranking.column else None,
        "not_ranked_because": ranking.refusals,
        "columns": [vars(column) for column in ranking.columns],
        "rows": ranking.rows,
        "trainings": [entrant.row for entrant in entrants],
    }
    write_json(out / "compare.json", content)
    pictures = {"real": out / "real.png"}
    for entrant in reversed(entrants):  # of several seeds the first
        grids = RunDir(entrant.run).samples.glob("step-*.png")
        if newest := max(grids, default=None):
            pictures[entrant.name] = newest
    shown = ["real", *dict.fromkeys(e.name for e in entrants if e.name in pictures)]
    join_grids([(name, pictures[name]) for name in shown], out / "grid.png")
    for folder in [*(entrant.run for entrant in entrants if not entrant.error), out]:
        refresh_page(folder, registry)
    return Comparison(out, ranking, facts["features"])
