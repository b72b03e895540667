"""Runs a study: each case once for each seed, by the machinery of a comparison, resumable."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from rich.console import Console

from genkit.comparison.candidates import Candidate, option_arguments
from genkit.comparison.compare import (
    REAL,
    Comparison,
    carry_out,
    look_at_data,
    make_folder,
    own_metrics,
)
from genkit.comparison.options import CompareOptions
from genkit.config.resolve import resolve
from genkit.errors import GenkitError, UsageError, printable
from genkit.io.files import is_free, write_atomic
from genkit.io.forks import fork_server
from genkit.io.locks import locked
from genkit.io.progress import error_console
from genkit.io.records import Record
from genkit.registry.catalogue import Registry
from genkit.report.ranking import choose_column, score_columns
from genkit.report.rows import COMPARISON
from genkit.study.file import StudyFile, pairs
from genkit.study.page import PAGE, write_page

RECORD = "study.json"


class StudyRecord(Record):
    """study.json: which study it is, and the settings that a continued one must share."""

    study: str = Field(description="name of the study")
    command: tuple[str, ...] = Field((), description="the command that ran it last")
    settings: dict[str, str] = Field(
        description="of the scores, and of each training by its folder, as in a command"
    )


@dataclass(frozen=True)
class StudyOptions:
    """What the user chooses beside the study; None takes what the file says."""

    data: str | None = None
    data_root: Path | None = None
    budget: str | None = None
    seeds: int | None = None
    threads: int = 1
    device: str = "auto"
    workers: int | None = None


def run_study(
    name: str,
    study: StudyFile,
    chosen: StudyOptions,
    registry: Registry,
    out: Path | None = None,
    console: Console | None = None,
) -> Comparison:
    """Run a study, or what is left of it in a folder: trainings that were scored are not run again,
    one that was begun is resumed.

    Args:
        out: folder of all results: new, or of the same study; by default runs/NAME.

    Raises:
        UsageError: for what cannot be used, before anything is trained.
    """
    console, out = console or error_console(), out or Path("runs", name)
    options = _options(study, chosen, registry)
    try:
        choose_column(score_columns(registry), [], study.score)
    except UsageError as error:
        raise UsageError(f"study {name}: {str(error).replace('--rank-by', 'score')}") from None
    candidates = _candidates(name, study, chosen, options, registry, out)
    settings = _settings(candidates, options, registry)
    continued = (out / RECORD).is_file()
    if continued:
        _check_same(out, name, StudyRecord.read(out / RECORD).settings, settings)
    elif not is_free(out):
        raise UsageError(f"--out {out} exists and holds no study; choose another folder")
    with fork_server(own_metrics(registry)) as server:
        facts, real = look_at_data(options, server)
        make_folder(out)
        with locked(out, "runs a study in"):
            write_atomic(out / REAL, real)
            known = StudyRecord.read(out / RECORD).settings if continued else {}
            settings = {**known, **settings}
            StudyRecord(study=name, command=tuple(sys.argv), settings=settings).write(out / RECORD)
            if continued:
                console.print(f"Continuing the study in {out}.", markup=False, soft_wrap=True)
            preset, again = study.preset, "the same command continues"
            try:
                return carry_out(
                    candidates, options, registry, out, facts, preset, again, console, server
                )
            finally:
                if (out / COMPARISON).is_file():
                    _write_page(study, out, registry)


def _write_page(study: StudyFile, out: Path, registry: Registry) -> None:
    """Write the page; a failure is a warning of one line, and costs the page only."""
    try:
        write_page(study, out, registry)
    except GenkitError as error:
        print(f"Warning: no {PAGE}: {printable(error)}", file=sys.stderr)


def _options(study: StudyFile, chosen: StudyOptions, registry: Registry) -> CompareOptions:
    """The study as a comparison has it."""
    return CompareOptions(
        data=chosen.data or study.data,
        data_root=chosen.data_root,
        data_option=pairs(study.data_options),
        budget=chosen.budget or study.budget,
        preset=study.preset,
        seeds=chosen.seeds or study.seeds,
        samples=study.samples,
        features=study.features,
        rank_by=study.score,
        device=chosen.device,
        workers=chosen.workers,
        grids=study.grids,
        watch=study.watch,
    ).with_data(None, registry)


def _candidates(
    name: str,
    study: StudyFile,
    chosen: StudyOptions,
    options: CompareOptions,
    registry: Registry,
    out: Path,
) -> list[Candidate]:
    """A training for each seed and case: first all cases with the first seed."""
    found = []
    for case in study.cases:
        model, given = case.model or study.model, study.options_of(case)
        try:
            spec = registry.trainers.find(model)
            preset = study.preset if study.preset in spec.presets else "full"
            for option in given:
                if option not in spec.config.model_fields:
                    raise UsageError(f"{model} has no option {option!r}")
            resolve(spec, preset=preset, given=given)
        except UsageError as error:
            raise UsageError(f"study {name}, case {case.label!r}: {error}") from None
        for seed in range(options.seeds):
            title = f"{case.slug}-s{seed}"
            found.append(
                Candidate(
                    case.label,
                    out / title,
                    title,
                    seed,
                    preset=preset,
                    budget=str(options.budget),
                    model=model,
                    given=given,
                    more=("--threads", str(chosen.threads), "--log-every", str(study.log_every)),
                    data_option=study.data_options_of(case),
                    continued=True,
                )
            )
    return sorted(found, key=lambda candidate: candidate.seed or 0)


def _settings(
    candidates: list[Candidate], options: CompareOptions, registry: Registry
) -> dict[str, str]:
    """What decides the results of each training, by its folder, and of the scores."""
    data = [str(options.data), *options.data_option]
    scores = f"{options.samples} samples, features {options.features}"
    found = {"scores": f"{scores}, {shlex.join(data)}"}
    for each in candidates:
        words = [each.model, "--data", *data, *each.data_option, "--preset", each.preset]
        words += ["--budget", each.budget, *option_arguments(each.model, each.given, registry)]
        found[each.title] = shlex.join(words)
    return found


def _check_same(out: Path, name: str, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise UsageError if a folder holds trainings with other settings than the same now."""
    for title in now:
        if then.get(title, now[title]) != now[title]:
            raise UsageError(
                printable(
                    f"--out {out} holds {name} with other settings ({title}: {then[title]}; now: "
                    f"{now[title]}); choose another folder"
                )
            )
