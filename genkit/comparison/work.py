"""What a comparison lets processes do: look at the data, train, score, calibrate."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from genkit.comparison.candidates import (
    Candidate,
    option_arguments,
)
from genkit.comparison.jobs import Job, Jobs
from genkit.comparison.options import CompareOptions
from genkit.comparison.pool import ProcessPool
from genkit.config.budget import Budget
from genkit.errors import GenkitError, PluginError, UsageError
from genkit.io.forks import ForkServer, start_command
from genkit.io.processes import last_words
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


def inspect_data(options: CompareOptions, folder: Path, server: ForkServer | None) -> DataFacts:
    """The facts of data, features and device, found by another process before any work is done."""
    path = folder / "facts.json"
    command = ["inspect", *options.feature_arguments(), "--json", str(path)]
    command += ["--grid", str(folder / "real.png")]
    with tempfile.TemporaryFile("w+") as errors:
        process, output = start_command(command, errors.fileno(), server)
        with output:
            output.read()
        code = process.wait()
        errors.seek(0)
        if code == 0:
            return DataFacts.read(path)
        kind = {2: UsageError, 3: PluginError}.get(code, GenkitError)
        raise kind(last_words(errors.read()))


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
    with (
        processes,
        signals_raised(),
        tempfile.TemporaryDirectory() as folder,
        Jobs(workers) as jobs,
    ):
        work = Work(processes, options, registry, keep, Path(folder))
        calibration = [] if options.features == "none" else [CALIBRATED]
        processes.expect([*calibration, *(candidate.title for candidate in candidates)])
        trained = {
            each.title: jobs.train(partial(work.train, each)) for each in longest_first(candidates)
        }
        calibrated = jobs.add(work.calibrate)
        scored = []
        for each in candidates:
            ready = (trained[each.title], calibrated)
            scores = jobs.add(partial(work.score, each, ready[0]), *ready)
            likelihood = jobs.add(partial(work.measure_likelihood, each, ready[0]), *ready)
            scored.append(
                jobs.add(partial(work.join, each, scores, likelihood), scores, likelihood)
            )
        try:
            rows = [job.result() for job in scored]
            others = calibrated.result()
            if levels := fewest_levels(rows):
                rows, others = work.at_levels(jobs, candidates, rows, others, levels)
            return rows, others, None
        except BaseException as error:
            processes.end()
            jobs.close()
            kept = [
                _kept(job) or [_unscored(candidate)]
                for job, candidate in zip(scored, candidates, strict=True)
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


@dataclass(frozen=True)
class Work:
    """What the jobs of a comparison do, each by genkit commands.

    Args:
        keep: file for the weights of features that are trained here.
        samples: folder for the samples that were scored, to score them again.
    """

    processes: ProcessPool
    options: CompareOptions
    registry: Registry
    keep: Path
    samples: Path

    def train(self, candidate: Candidate) -> ScoreRow | None:
        """Train a candidate, unless it is an existing run. Its row, if there is nothing to score:
        it was scored before, or it failed."""
        stored = RunDir(candidate.run).evaluation_path
        try:
            if candidate.problem:
                raise UsageError(candidate.problem)
            if candidate.continued and stored.exists():
                return read_evaluation(stored)[0].model_copy(update=_who(candidate))
            if not candidate.trained:
                command = _training(candidate, self.options, self.registry)
                self.processes.run(command, candidate.title, "training")
        except GenkitError as error:
            return self._failed(candidate, error)
        return None

    def calibrate(self) -> Rows:
        """The calibration rows: what the best and the worst score would be. It also makes what
        every scoring needs: the features of the reference, and the classifier behind them."""
        if self.options.features == "none":
            return []
        try:
            more = ["--keep-features", str(self.keep)]
            return self._evaluate(list(CALIBRATION), CALIBRATED, more)
        except GenkitError as error:
            return [ScoreRow(name=name, error=str(error)) for name in CALIBRATION]

    def score(self, candidate: Candidate, trained: Job[ScoreRow | None]) -> ScoreRow:
        """The row of a candidate without its likelihood. A failure is noted in it and ends no
        other."""
        if row := trained.result():
            return row
        more = ["--part", "scores", *_own_data(candidate)]
        more += ["--keep-samples", str(self._samples_of(candidate))]
        try:
            row = self._evaluate([candidate.target], candidate.title, more)[0]
            return row.model_copy(update=_who(candidate))
        except GenkitError as error:
            return self._failed(candidate, error)

    def measure_likelihood(
        self, candidate: Candidate, trained: Job[ScoreRow | None]
    ) -> ScoreRow | None:
        """A row with the likelihood alone, of a run with the options that its sampler has by
        default: the likelihood does not depend on them."""
        if trained.result() or candidate.sampler:
            return None
        try:
            more = ["--part", "likelihood", *_own_data(candidate)]
            return self._evaluate([candidate.target], candidate.title, more, "likelihood")[0]
        except GenkitError as error:
            if self.processes.ended:
                return self._failed(candidate, error)
            return ScoreRow(name=candidate.name, problems=(f"likelihood: {error}",))

    def join(
        self, candidate: Candidate, scores: Job[ScoreRow], likelihood: Job[ScoreRow | None]
    ) -> ScoreRow:
        """The whole row, which is stored with a candidate that may be continued; an error if the
        comparison was ended before all of it was there."""
        row, found = scores.result(), likelihood.result()
        if row.error or not found:
            return row
        if found.error:
            return found
        more = {"likelihood": found.likelihood, "likelihoods": found.likelihoods}
        row = row.model_copy(update={**more, "problems": (*row.problems, *found.problems)})
        if candidate.continued:
            write_evaluation(RunDir(candidate.run).evaluation_path, [row])
        return row

    def _failed(self, candidate: Candidate, error: GenkitError) -> ScoreRow:
        if not self.processes.ended:
            self.processes.say(f"{candidate.title} failed: {error}")
        return ScoreRow(name=candidate.name, run=str(candidate.run), error=str(error))

    def at_levels(
        self,
        jobs: Jobs,
        candidates: Sequence[Candidate],
        rows: Rows,
        calibration: Rows,
        levels: int,
    ) -> tuple[Rows, Rows]:
        """The rows with their samples' scores at so many levels, and those of calibration."""
        if self.options.features == "none":
            return rows, calibration
        more = ["--levels", str(levels), "--part", "levels"]

        def again(row: ScoreRow, candidate: Candidate) -> ScoreRow:
            if row.error:
                return row
            kept = self._samples_of(candidate)
            target = str(kept) if kept.exists() else candidate.target
            try:
                words = [*more, *_own_data(candidate)]
                found = self._evaluate([target], candidate.title, words)[0]
            except GenkitError as error:
                return row.model_copy(update={"problems": (*row.problems, str(error))})
            return _with_scores(row, found)

        calibrated = jobs.add(partial(self._evaluate, list(CALIBRATION), CALIBRATED, more))
        scored = [jobs.add(partial(again, *each)) for each in zip(rows, candidates, strict=True)]
        rows = [job.result() for job in scored]
        try:
            found = calibrated.result()
        except GenkitError:
            return rows, calibration
        both = [_with_scores(*each) for each in zip(calibration, found, strict=False)]
        return rows, [*both, *found[len(both) :]]

    def _samples_of(self, candidate: Candidate) -> Path:
        return self.samples / f"{candidate.title.replace(os.sep, '_')}.npz"

    def _evaluate(
        self, targets: list[str], title: str, more: Sequence[str], part: str = "scoring"
    ) -> Rows:
        options = self.options
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "rows.json")
            command = ["evaluate", *targets, "--alone", *options.feature_arguments()]
            command += ["-n", str(options.samples), "--threads", "1", *more, "--json", str(path)]
            self.processes.run(command, title, part, aside=part == "likelihood")
            return read_evaluation(path)


def _with_scores(row: ScoreRow, more: ScoreRow) -> ScoreRow:
    """A row with the scores of another one beside its own."""
    return row.model_copy(
        update={
            "scores": {**row.scores, **more.scores},
            "deviations": {**row.deviations, **more.deviations},
            "problems": (*row.problems, *more.problems),
        }
    )


def _who(candidate: Candidate) -> dict[str, str]:
    return {"name": candidate.name, "run": str(candidate.run)}


def _own_data(candidate: Candidate) -> list[str]:
    """The options of the data set that a candidate alone has, as arguments."""
    return [word for pair in candidate.data_option for word in ("--data-option", pair)]


def longest_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, those with the largest budgets first if these have one unit: the shorter
    ones fill the gaps at the end."""
    budgets = {each.title: Budget.parse(each.budget) for each in candidates}
    if len({budget.unit for budget in budgets.values()}) > 1:
        return list(candidates)
    return sorted(candidates, key=lambda each: -budgets[each.title].amount)


def _training(candidate: Candidate, options: CompareOptions, registry: Registry) -> list[str]:
    """The command that trains a candidate, or that resumes it where it may be continued."""
    if candidate.continued and RunDir(candidate.run).config_path.is_file():
        return ["resume", str(candidate.run)]
    if candidate.continued:  # ended before it had recorded anything
        shutil.rmtree(candidate.run, ignore_errors=True)
    command = ["train", candidate.model, *options.data_arguments(), *_own_data(candidate)]
    command += ["--preset", candidate.preset, "--budget", candidate.budget]
    command += ["--seed", str(candidate.seed), "--device", options.device]
    command += ["--precision", options.precision, *options.watching_arguments()]
    command += ["--run-dir", str(candidate.run), *candidate.more]
    return command + option_arguments(candidate.model, candidate.given, registry)
