"""The page of a study: its text, each failure with its cures, and all of a comparison's page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genkit.errors import GenkitError
from genkit.io.files import JsonObject, write_atomic
from genkit.registry.catalogue import Registry
from genkit.report.charts import Chart, Point, Series, chart
from genkit.report.headline import Bar, plain
from genkit.report.page import context, fill
from genkit.report.ranking import half_width_of
from genkit.report.rows import ComparisonRecord, ScoreRow, read_comparison
from genkit.report.sections import scored
from genkit.report.tables import likelihood_cells, score_cell
from genkit.report.thumbnails import Picture
from genkit.specs import Column
from genkit.study.file import Case, StudyFile
from genkit.study.outcomes import Outcome, outcome_of

PAGE = "study.html"
TEMPLATE = Path(__file__).parent / "study.html"
WIDE = (420, 230)  # of a chart, in view box units
ROOM = 240  # width of the cell that a bar is drawn in, and
EDGE = 8  # what stays free on both sides of it
Pictures = dict[str, Picture | None]  # by label


@dataclass(frozen=True)
class Member:
    """One case on the page and in the table.

    Args:
        options: what it is trained with, as on the command line, in short.
        bar: how often it fails, drawn.
        score, score_bar: the score over its trainings in words, and drawn.
        nats: negative log-likelihood of test images, "-" or "none" without one.
    """

    case: Case
    options: str
    outcome: Outcome
    bar: Bar | None
    score: str
    score_bar: Bar | None
    nats: str
    picture: Picture | None


@dataclass(frozen=True)
class Group:
    """A failure and its cures, or cases that stand for themselves."""

    key: str
    title: str
    members: tuple[Member, ...]
    charts: tuple[Chart, ...]


def write_page(study: StudyFile, folder: Path, registry: Registry) -> None:
    """Write the page of a study into the folder of its results.

    Raises:
        GenkitError: stored scores are damaged, or the file cannot be written.
    """
    write_atomic(folder / PAGE, fill(TEMPLATE, study_context(study, folder, registry)).encode())


def read_results(folder: Path) -> ComparisonRecord:
    """What a study has found so far; GenkitError if there is nothing."""
    record = read_comparison(folder)
    if record is None:
        raise GenkitError(f"{folder} holds no results of a study")
    return record


def study_context(study: StudyFile, folder: Path, registry: Registry) -> JsonObject:
    """All that the template shows."""
    record, shown = read_results(folder), context([folder], registry, study.score)
    pictures = {model.name: model.sample for model in shown["models"]}
    groups = make_groups(study, folder, pictures)
    counted = sum(member.outcome.failed for group in groups for member in group.members)
    trainings = f"{len(record.trainings)} trainings"
    found = [column for column in record.columns[:1] if record.ranked_by]
    return {
        **shown,
        "headline": study.title,
        "deck": f"{len(study.cases)} cases, {trainings} for {record.budget} each on {record.data}; "
        f"{counted or 'none'} of them failed.",
        "paragraphs": [part.strip() for part in study.text.split("\n\n") if part.strip()],
        "groups": groups,
        "score": plain(found[0].title) if found else "",
        "sections": [pair for pair in shown["sections"] if pair[0] != "samples"],  # they are above
        "likelihoods": has_likelihoods(groups),
        "slugs": {case.label: case.slug for case in study.cases},
        "cured": {case.label: study.cured_by(case) for case in study.cases},
    }


def has_likelihoods(groups: Sequence[Group]) -> bool:
    """Whether a case has a likelihood to show."""
    return any(member.nats not in ("-", "none") for group in groups for member in group.members)


def make_groups(study: StudyFile, folder: Path, pictures: Pictures) -> list[Group]:
    """Of the results in a folder: each failure with its cures, then, in one group, the cases that
    neither fail nor cure."""
    record = read_results(folder)
    members = {m.case.label: m for m in _members(study, record, folder, pictures)}
    alone = [c for c in study.cases if not c.cures and not study.cured_by(c)]
    lists = [(c.label, [c, *study.cured_by(c)]) for c in study.cases if study.cured_by(c)]
    lists += [("Cases" if not lists else "For comparison", alone)] if alone else []
    groups = []
    for number, (title, cases) in enumerate(lists):
        own = [members[case.label] for case in cases]
        beside = [members[study.reference]] if study.reference else []
        drawn = [*own, *(each for each in beside if each not in own)]
        charts = [_chart(name, drawn, record.columns) for name in study.curves]
        found = tuple(each for each in charts if each)
        groups.append(Group(f"group-{number}", title, tuple(own), found))
    return groups


def _members(
    study: StudyFile, record: ComparisonRecord, folder: Path, pictures: Pictures
) -> list[Member]:
    rows = {row.name: row for row in record.rows}
    column = record.columns[0] if record.columns and record.ranked_by else None
    values = {case.label: _score(rows.get(case.label), column) for case in study.cases}
    ends = [end for found in values.values() if found for end in found[1:]]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    members = []
    for case in study.cases:
        row, found = rows.get(case.label), values[case.label]
        own = [each for each in record.trainings if each.name == case.label]
        outcome = outcome_of(case.label, own, folder)
        rate = (outcome.failed / max(outcome.trainings, 1), *outcome.interval)
        members.append(
            Member(
                case,
                describe(study, case),
                outcome,
                _bar(rate, 0.0, 1.0) if outcome.trainings else None,
                score_cell(row, column) if row and column else "-",
                _bar(found, low, high) if found else None,
                likelihood_cells(row)[0] if row else "-",
                pictures.get(case.label),
            )
        )
    return members


def describe(study: StudyFile, case: Case) -> str:
    """A case's options as on the command line, without those of the whole study."""
    words = [] if not case.model or case.model == study.model else [case.model]
    for name, value in study.options_of(case).items():
        if name not in {key.replace("-", "_") for key in study.options} - set(case.options):
            flag = f"--{name.replace('_', '-')}"
            words.append(flag if value == "true" else f"{flag} {value}")
    words += [f"--data-option {pair}" for pair in study.data_options_of(case)]
    return " ".join(words)


def _score(row: ScoreRow | None, column: Column | None) -> tuple[float, float, float] | None:
    """A score and the ends of its error bar."""
    value = row.scores.get(column.name) if row and column else None
    if row is None or column is None or value is None:
        return None
    half = half_width_of(row, column.name) or 0.0
    return value, value - half, value + half


def _bar(values: tuple[float, float, float], low: float, high: float) -> Bar:
    """A value and the ends of its interval as places in a cell."""

    def across(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(EDGE + (ROOM - 2 * EDGE) * share, 1)

    value, start, end = values
    return Bar(across(value), across(start), across(end), 0)


def _chart(name: str, members: Sequence[Member], columns: Sequence[Column]) -> Chart | None:
    """A value over training, for each case the median over its trainings."""
    series, title = [], name
    for number, member in enumerate(members):
        title, points = scored(name, medians(member.outcome, name), columns)
        series.append(Series(member.case.label, points, number))
    title = title.replace("/", ": ")
    return chart(title, series, "steps", size=WIDE, log=name not in ("diversity",))


def medians(outcome: Outcome, name: str) -> list[Point]:
    """The median over trainings of a logged value, at each step that one of them has."""
    found: dict[float, list[float]] = {}
    for view in outcome.views:
        for step, value in view.curves.get(name, ()):
            if value is not None:
                found.setdefault(step, []).append(value)
    return [(step, statistics.median(values)) for step, values in sorted(found.items())]
