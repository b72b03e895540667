"""Comparing models: trains what is missing, each in a process of its own, and scores all alike.

This process never imports torch: it starts others, shows their progress and ranks their rows.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from genkit.config import Budget, resolve, suggest
from genkit.crew import Crew, count_cores, genkit_command, last_words
from genkit.errors import GenkitError, PluginError, UsageError
from genkit.pictures import join_grids
from genkit.protocol import Options
from genkit.registry import Registry
from genkit.report import CALIBRATION, print_rows, rank, score_columns, to_markdown
from genkit.rundir import RunDir, new_run_path, read_json, write_atomic, write_json
from genkit.signals import signals_raised
from genkit.specs import Column

START_SECONDS, SCORE_SECONDS = 8, 20  # of a process, roughly; for the announcement only


@dataclass
class Entrant:
    """A model in the comparison: a trainer to run, or a run that is there already."""

    name: str
    run: Path
    trained: bool
    preset: str = "full"
    row: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The outcome: ranked rows and where everything was written."""

    path: Path
    rows: list[dict[str, Any]]
    columns: list[Column]
    features: str | None

    def to_markdown(self) -> str:
        """The table as Markdown."""
        return to_markdown(self.rows, self.columns, self.features)

    def print(self) -> None:
        """Print the table and what its numbers are of."""
        print_rows(self.rows, self.columns, self.features)


def choose_entrants(names: Sequence[str], registry: Registry, out: Path) -> list[Entrant]:
    """Trainers by name, runs by path; UsageError for what is neither, or given twice."""
    entrants: list[Entrant] = []
    for name in names:
        if name in registry.trainers or name in registry.trainers.contested:
            registry.trainers.find(name)
            entrants.append(Entrant(name, out / name, trained=False))
        elif (Path(name) / "config.json").exists():
            run = RunDir.open(Path(name))
            run.config()
            entrants.append(Entrant(run.name, Path(name), trained=True))
        elif os.sep in name or Path(name).exists():
            RunDir.open(Path(name))  # says what is wrong with it
        else:
            registry.trainers.find(name)  # says so, with the closest name
    labels = [entrant.name for entrant in entrants]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"{label!r} is there twice; give each model or run once")
        if label in CALIBRATION:
            raise UsageError(f"a run named {label!r} cannot be told from the row of that name")
    return entrants


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
        out: folder for run directories, compare.json and grid.png; must be new.

    Raises:
        UsageError: for input that cannot be used, before anything is trained. A model that fails
            later is a row that says why.
    """
    console = console or Console(stderr=True)
    runs = [RunDir(Path(name)) for name in names if name not in registry.trainers]
    recorded = next((run.config()["run"] for run in runs if run.config_path.is_file()), None)
    options = options.with_data(recorded)
    out = out or new_run_path("compare", str(options.data), options.seed)
    entrants = choose_entrants(names, registry, out)
    if not entrants:
        raise UsageError("name at least one model or run to compare")
    try:
        Budget.parse(options.budget)
    except ValueError as error:
        raise UsageError(f"--budget: {error}") from None
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} exists and is not empty; choose another folder")
    with tempfile.TemporaryDirectory() as folder:
        facts = _inspect(options, Path(folder))
        real = Path(folder, "real.png").read_bytes()
    preset = options.preset or ("quick" if facts["device"] == "cpu" else "full")
    new = [entrant for entrant in entrants if not entrant.trained]
    for text in options.set:
        if text.partition(".")[0] not in {entrant.name for entrant in new}:
            raise UsageError(f"--set {text!r} is for none of the models to be trained")
    for entrant in new:
        spec, given = registry.trainers.find(entrant.name), options.given(entrant.name)
        unknown = sorted(set(given) - set(spec.config.model_fields))
        if unknown:
            hint = suggest(unknown[0], spec.config.model_fields)
            raise UsageError(f"--set: {spec.name} has no option {unknown[0]!r}.{hint}")
        if options.preset or preset in spec.presets:  # not every plugin has a quick one
            entrant.preset = preset
        resolve(spec, preset=entrant.preset, given=given)
    workers = options.workers or (count_cores() if facts["device"] == "cpu" else 1)
    for line in _announcement(entrants, options, facts, preset, workers, out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "real.png", real)
    crew = Crew(console, said=facts["notes"])
    calibration: list[dict[str, Any]] = []
    with crew, signals_raised(), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_train_and_score, crew, entrant, options) for entrant in entrants]
        if facts["features"]:
            futures.append(pool.submit(_calibrate, crew, options, calibration))
        try:
            for future in futures:
                future.result()
        except BaseException:
            crew.end()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
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


def _announcement(
    entrants: list[Entrant],
    options: Options,
    facts: dict[str, Any],
    preset: str,
    workers: int,
    out: Path,
) -> list[str]:
    """What is going to happen, and about how long it takes."""
    new = [entrant.name for entrant in entrants if not entrant.trained]
    old = [entrant.name for entrant in entrants if entrant.trained]
    lines = [*facts["notes"]]
    if new:
        why = " (the default on a CPU)" if not options.preset and preset == "quick" else ""
        lines.append(
            f"Training {', '.join(new)} for {options.budget} each on {options.data} "
            f"({facts['train_images']:,} images of {facts['shape']}), preset {preset}{why}, "
            f"{min(workers, len(new))} at a time on {facts['device']}."
        )
    plain = [e.name for e in entrants if not e.trained and e.preset != preset]
    if plain:
        lines.append(f"No preset {preset} for {', '.join(plain)}: default options are used.")
    if old:
        lines.append(f"Scoring {', '.join(old)} as trained before.")
    scores = f"{options.samples:,} samples each, features {facts['features'] or 'none'}"
    budget = Budget.parse(options.budget)
    if budget.unit == "seconds":
        rounds = math.ceil(len(new) / workers)
        scoring = math.ceil(len(entrants) / workers) * (START_SECONDS + SCORE_SECONDS)
        minutes = max(round((rounds * budget.amount + scoring) / 60), 1)
        about = f"about {minutes} minute{'s' if minutes > 1 else ''} in all"
        lines.append(f"Then {scores}: {about}. Results go to {out}.")
    else:
        lines.append(f"Then {scores}. Results go to {out}.")
    return lines


def _train_and_score(crew: Crew, entrant: Entrant, options: Options) -> None:
    """One entrant from nothing to its row; a failure is noted in it and hurts nobody else."""
    try:
        if not entrant.trained:
            command = ["train", entrant.name, *options.data_arguments()]
            command += [
                "--preset",
                entrant.preset,
                "--budget",
                options.budget,
                "--seed",
                str(options.seed),
            ]
            command += ["--device", options.device, "--run-dir", str(entrant.run)]
            for option, value in options.given(entrant.name).items():
                command.append(f"--{option.replace('_', '-')}={value}")
            crew.run(command, f"{entrant.name}: training")
        entrant.row = _score(crew, [str(entrant.run)], f"{entrant.name}: scoring", options)[0]
        write_json(RunDir(entrant.run).evaluation_path, [entrant.row])
    except GenkitError as error:
        entrant.error = str(error)


def _calibrate(crew: Crew, options: Options, rows: list[dict[str, Any]]) -> None:
    """The rows that say what the best and the worst score would be."""
    try:
        rows += _score(crew, list(CALIBRATION), "real and noise: scoring", options)
    except GenkitError as error:
        rows += [{"name": name, "error": str(error)} for name in CALIBRATION]


def _score(crew: Crew, targets: list[str], title: str, options: Options) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        command = ["evaluate", *targets, "--alone", *options.feature_arguments()]
        crew.run([*command, "-n", str(options.samples), "--json", str(path)], title)
        return list(read_json(path))


def _conclude(
    entrants: list[Entrant],
    calibration: list[dict[str, Any]],
    options: Options,
    registry: Registry,
    facts: dict[str, Any],
    preset: str,
    out: Path,
) -> Comparison:
    """Rank the rows and write compare.json and grid.png."""
    rows = []
    for entrant in entrants:
        row = {**entrant.row, "name": entrant.name, "run": str(entrant.run)}
        rows.append({**row, "error": entrant.error} if entrant.error else row)
    columns = score_columns(registry) if facts["features"] else []
    first = columns[0] if columns else None
    rows = rank(rows + calibration, first)
    comparison = Comparison(out, rows, columns, facts["features_name"])
    content = {
        "command": sys.argv,
        "data": options.data,
        "budget": options.budget,
        "preset": preset,
        "seed": options.seed,
        "ranked_by": first.name if first else None,
        "columns": [vars(column) for column in columns],
        "rows": rows,
    }
    write_json(out / "compare.json", content)
    pictures = [("real", out / "real.png")]
    pictures += [(e.name, p) for e in entrants if (p := _last_grid(e.run)) is not None]
    join_grids(pictures, out / "grid.png")
    return comparison


def _last_grid(run: Path) -> Path | None:
    return max(RunDir(run).samples.glob("step-*.png"), default=None)
