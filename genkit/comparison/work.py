"""What a comparison lets processes do: look at the data, train, score, calibrate."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from genkit.comparison.candidates import (
    Candidate,
    option_arguments,
)
from genkit.comparison.options import CompareOptions
from genkit.comparison.pool import ProcessPool
from genkit.errors import GenkitError, PluginError, UsageError
from genkit.io.processes import genkit_command, last_words
from genkit.io.run_directory import RunDir
from genkit.io.signals import signals_raised
from genkit.registry.catalogue import Registry
from genkit.report.data_facts import DataFacts
from genkit.report.ranking import fewest_levels
from genkit.report.rows import CALIBRATION, ScoreRow, read_evaluation, write_evaluation

Rows = list[ScoreRow]
UNSCORED = "the comparison was interrupted before it was scored"
KEPT_FEATURES = "features.safetensors"  # weights that --feature-weights takes
CALIBRATED = "real, copy and noise"  # title of their scoring


def inspect_data(options: CompareOptions, folder: Path) -> DataFacts:
    """The facts of data, features and device, found by another process before any work is done."""
    path = folder / "facts.json"
    command = ["inspect", *options.feature_arguments(), "--json", str(path)]
    command += ["--grid", str(folder / "real.png")]
    done = subprocess.run(genkit_command(command), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return DataFacts.read(path)
    kind = {2: UsageError, 3: PluginError}.get(done.returncode, GenkitError)
    raise kind(last_words(done.stderr))


def run_all(
    processes: ProcessPool,
    candidates: Sequence[Candidate],
    options: CompareOptions,
    registry: Registry,
    workers: int,
    keep: Path,
) -> tuple[Rows, Rows, BaseException | None]:
    """Train and score all candidates, some at a time: their rows, the calibration rows and, if it
    was interrupted, by what. Then the rows that are not there yet say so.

    Args:
        keep: file for the weights of features that are trained here.
    """
    with processes, signals_raised(), ThreadPoolExecutor(workers) as threads:
        calibration = [] if options.features == "none" else [CALIBRATED]
        processes.expect([*calibration, *(candidate.title for candidate in candidates)])
        # First of all, since it also makes what every scoring needs: reference, classifier.
        calibrated = threads.submit(_calibrate, processes, options, keep)
        futures = [
            threads.submit(_train_and_score, processes, candidate, options, registry, calibrated)
            for candidate in candidates
        ]
        try:
            rows = [future.result() for future in futures]
            others = calibrated.result()
            scored = _at_fewest_levels(processes, threads, candidates, options, rows, others)
            return *scored, None
        except BaseException as error:
            processes.end()
            threads.shutdown(wait=True, cancel_futures=True)
            kept = [
                _kept(future) or [_unscored(candidate)]
                for future, candidate in zip(futures, candidates, strict=True)
            ]
            return [row for (row,) in kept], _kept(calibrated) or [], error


def _kept(future: Future[ScoreRow] | Future[Rows]) -> Rows:
    """What a scoring that was ended has found: its rows without errors."""
    if not future.done() or future.cancelled() or future.exception():
        return []
    found = future.result()
    rows = found if isinstance(found, list) else [found]
    return [row for row in rows if not row.error]


def _unscored(candidate: Candidate) -> ScoreRow:
    return ScoreRow(name=candidate.name, run=str(candidate.run), error=UNSCORED)


def _calibrate(processes: ProcessPool, options: CompareOptions, keep: Path) -> Rows:
    """The calibration rows: what the best and the worst score would be."""
    if options.features == "none":
        return []
    try:
        more = ["--keep-features", str(keep)]
        return _score(processes, list(CALIBRATION), CALIBRATED, options, more)
    except GenkitError as error:
        return [ScoreRow(name=name, error=str(error)) for name in CALIBRATION]


def _train_and_score(
    processes: ProcessPool,
    candidate: Candidate,
    options: CompareOptions,
    registry: Registry,
    calibrated: Future[Rows],
) -> ScoreRow:
    """Train and score one candidate. A failure is noted in its row and ends no other."""
    stored = RunDir(candidate.run).evaluation_path
    who = {"name": candidate.name, "run": str(candidate.run)}
    try:
        if candidate.problem:
            raise UsageError(candidate.problem)
        if candidate.continued and stored.exists():
            return read_evaluation(stored)[0].model_copy(update=who)
        if not candidate.trained:
            command = _training(candidate, options, registry)
            processes.run(command, candidate.title, "training")
        calibrated.result()
        own = [word for pair in candidate.data_option for word in ("--data-option", pair)]
        row = _score(processes, [candidate.target], candidate.title, options, own)[0]
        row = row.model_copy(update=who)
        if candidate.continued:
            write_evaluation(stored, [row])
        return row
    except GenkitError as error:
        if not processes.ended:
            processes.say(f"{candidate.title} failed: {error}")
        return ScoreRow(name=candidate.name, run=str(candidate.run), error=str(error))


def _training(candidate: Candidate, options: CompareOptions, registry: Registry) -> list[str]:
    """The command that trains a candidate, or that resumes it where it may be continued."""
    if candidate.continued and RunDir(candidate.run).config_path.is_file():
        return ["resume", str(candidate.run)]
    if candidate.continued:  # ended before it had recorded anything
        shutil.rmtree(candidate.run, ignore_errors=True)
    command = ["train", candidate.model, *options.data_arguments()]
    command += [word for pair in candidate.data_option for word in ("--data-option", pair)]
    command += ["--preset", candidate.preset, "--budget", candidate.budget]
    command += ["--seed", str(candidate.seed), "--device", options.device]
    command += ["--precision", options.precision, *options.watching_arguments()]
    command += ["--run-dir", str(candidate.run), *candidate.more]
    return command + option_arguments(candidate.model, candidate.given, registry)


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
            found = _score(processes, [candidate.target], candidate.title, options, more)[0]
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
        command += ["-n", str(options.samples), "--threads", "1", *more, "--json", str(path)]
        processes.run(command, title, "scoring")
        return read_evaluation(path)
