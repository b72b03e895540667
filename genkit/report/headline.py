"""The outcome of a ranking as a headline, in words about its columns, in error bars and in curves
over the options of samplers. Light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genkit.config.sampler import split_entrant
from genkit.registry.catalogue import Registry
from genkit.report.charts import LARGE, Chart, Mark, Series, chart, ticks
from genkit.report.ranking import Ranking, half_width_of, tie
from genkit.report.rows import ComparisonRecord, ScoreRow
from genkit.report.tables import Field, score_cell
from genkit.specs import Column

HUGE = 1e150  # what is greater is not drawn
BETTER = {"lower": "Lower is better.", "higher": "Higher is better."}
# What the columns beside the scores mean, by heading; plugins explain scores (`Column.help`).
MEANINGS = {
    "NLL nats": "Negative log-likelihood of test images: how surprising they are to the model. "
    "Lower is better; ≤ marks an upper bound.",
    "bits /dim": "The same for each pixel and channel, in bits.",
    "own NLL": "Negative log-likelihood of the model's own samples. A model that finds them far "
    "less likely than test images (!) sees in the test images what it must predict.",
    "near train": "Share of samples that are closer to a training image than to an unseen one: 0.5 "
    "for fresh images, 1 for copies.",
    "copied at least": "Samples that certainly are copies of training images: they lie closer to "
    "one than all but half a percent of unseen real images do, in pixels, in features, or shifted "
    "by a pixel or mirrored.",
    "parameters": "Numbers that training adjusts.",
    "images seen": "Images that training took in, repetitions counted.",
    "train s": "Seconds of training.",
    "train img/s": "Images a second in training.",
    "sample img/s": "Images a second when sampling.",
}


@dataclass(frozen=True)
class Bar:
    """An error bar in a cell 240 wide; `beyond` is 1 or -1 if it lies right or left of that."""

    place: float
    low: float
    high: float
    beyond: int


@dataclass(frozen=True)
class Bars:
    """The error bars of a table, None for a row without one; `floor` is where real images lie."""

    title: str
    rows: list[Bar | None]
    floor: float | None


def plain(heading: str) -> str:
    """A heading on one line."""
    return heading.replace("-\n", "").replace("\n", " ")


def explain_columns(fields: Sequence[Field], registry: Registry) -> list[tuple[str, str]]:
    """Each column's heading and what it says, in a sentence or two: what the plugin says of a
    score, or else its metric's summary."""
    summaries = {
        column.name: entry.spec.summary
        for entry in registry.metrics.values()
        for column in entry.spec.columns
    }
    found: dict[str, str] = {}
    for field in fields:
        heading = plain(field.heading)
        if column := field.column:
            text = column.help or f"{summaries.get(column.name, column.name).rstrip('.')}."
            text = f"{text} {BETTER.get(column.better or '', '')}".strip()
        else:
            heading = "near train" if heading.startswith("near train") else heading
            text = MEANINGS.get(heading, "")
        if text:
            found[heading] = text
    return list(found.items())


def make_headline(ranking: Ranking) -> tuple[str, str]:
    """The outcome as a headline, and what it rests on in a sentence or two."""
    models, column = ranking.models, ranking.column
    ranked = [row for row in models if row.rank]
    if ranking.refusals:
        return (
            "These models cannot be ranked",
            "Their scores measure different things; the notes under the table say in what.",
        )
    if not models:
        return "No model here", "Only real images and noise were scored."
    if all(row.error for row in models):
        return "All models failed", "The warnings below say why."
    if not ranked or column is None:
        return _unscored(models)
    leader, title = ranked[0], plain(column.title)
    if len(ranked) == 1:
        return f"{leader.name}: {title} {score_cell(leader, column)}", _frame(ranking, column)
    rivals = [row for row in ranked[1:] if tie(leader, row, column)]
    if rivals:
        group = [leader, *rivals]
        scores = ", ".join(f"{score_cell(row, column)} ({row.name})" for row in group)
        words = f"{BETTER.get(column.better or '', '')} {_frame(ranking, column)}".strip()
        return (
            f"{listed([row.name for row in group])} cannot be told apart",
            f"{title} {scores}: the differences may be chance. {words}",
        )
    second = ranked[1]
    lead = _lead(leader, second, column)
    scores = f"{title} {score_cell(leader, column)} against {score_cell(second, column)}"
    words = f"{BETTER.get(column.better or '', '')} {_frame(ranking, column)}".strip()
    if min(leader.trainings, second.trainings) > 1:
        why = f"means of {leader.trainings} trainings, apart by Welch's t at 95%"
        return f"{leader.name} made the best samples, {lead}", f"{scores}: {why}. {words}"
    return (
        f"These weights of {leader.name} made the best samples, {lead}",
        f"{scores}: more than other samples of the same weights would change, but another training "
        f"may rank differently (compare --seeds 3). {words}",
    )


def _unscored(models: Sequence[ScoreRow]) -> tuple[str, str]:
    names = listed([row.name for row in models])
    if any(row.likelihood for row in models):
        return f"{names}: likelihoods, no samples scored", "Nothing here ranks samples."
    runs = " ".join(row.run for row in models if row.run and not row.error)
    return f"{names}: not scored yet", f"To score: genkit evaluate {runs}"


def _lead(leader: ScoreRow, second: ScoreRow, column: Column) -> str:
    """How far ahead the leader is, in words; both have a score."""
    a, b = leader.scores[column.name] or 0.0, second.scores[column.name] or 0.0
    what, rival = plain(column.title).partition(" ")[0], second.name
    if a > 0 and b > 0 and column.better == "lower":
        return f"with {what} {1 - a / b:.0%} lower than {rival}"
    if a > 0 and b > 0:
        return f"with {what} {a / b - 1:.0%} higher than {rival}"
    return f"ahead of {rival}"


def _frame(ranking: Ranking, column: Column) -> str:
    """A sentence with the scores of real images and of noise, if both are known."""
    known = {
        row.name: score_cell(row, column)
        for row in ranking.rows
        if row.name in ("real", "noise") and score_cell(row, column) != "-"
    }
    if len(known) < 2:
        return ""
    return f"Unseen real images score {known['real']}, noise {known['noise']}."


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def draw_bars(ranking: Ranking) -> Bars | None:
    """The ranking score of each row, drawn: places in a cell 240 wide. Calibration rows may lie
    beyond it. None if nothing ranks."""
    column = None if ranking.refusals else ranking.column
    scored = {place: interval(row, column) for place, row in enumerate(ranking.rows) if column}
    known = {place: found for place, found in scored.items() if found}
    models = [p for p in known if not ranking.rows[p].is_calibration]
    if not models or column is None:
        return None
    real = next((known[p] for p in known if ranking.rows[p].name == "real"), None)
    framed = [known[p] for p in models] + ([real] if real else [])
    low, high = min(f[1] for f in framed), max(f[2] for f in framed)

    def across(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(5 + 216 * min(max(share, 0.0), 1.0), 1)

    rows: list[Bar | None] = []
    for place in range(len(ranking.rows)):
        found = known.get(place)
        value, least, most = found or (0.0, 0.0, 0.0)
        bar = Bar(across(value), across(least), across(most), (value > high) - (value < low))
        rows.append(bar if found else None)
    return Bars("with error bars", rows, across(real[0]) if real else None)


def draw_sweeps(ranking: Ranking) -> list[Chart]:
    """The ranking score of runs that were drawn from with several values of a sampler's option,
    over those values: a chart for each option, a line for each run and for other options alike."""
    column = None if ranking.refusals else ranking.column
    found: dict[str, dict[str, list[Mark]]] = {}
    for row in ranking.models:
        run, options = split_entrant(row.name)
        score = interval(row, column)
        for key, text in options.items() if score else ():
            others = ",".join(f"{name}={text}" for name, text in options.items() if name != key)
            line = found.setdefault(key, {}).setdefault(f"{run}@{others}".rstrip("@"), [])
            if score and (value := _number(text)) is not None:
                line.append((value, score[0], (score[2] - score[0]) / 2))
    charts = []
    for key, lines in found.items():
        series = [
            Series(name, [(x, y) for x, y, _ in sorted(marks)], place, sorted(marks))
            for place, (name, marks) in enumerate(lines.items())
            if len(marks) > 1
        ]
        real = next((interval(row, column) for row in ranking.rows if row.name == "real"), None)
        charts.append(
            chart(
                plain(column.title) if column else "",
                series,
                key.replace("_", " "),
                size=LARGE,
                labelled=True,
                floor=real[0] if real else None,
            )
        )
    return [one for one in charts if one]


@dataclass(frozen=True)
class Stretch:
    """A process in a timeline 1000 wide: the number of its part, and whether it began while another
    of its row was running."""

    part: int
    start: float
    length: float
    aside: bool
    words: str


@dataclass(frozen=True)
class Timeline:
    """When the processes of a comparison ran, a row for each model."""

    rows: list[tuple[str, list[Stretch]]]
    ticks: list[tuple[float, str]]
    parts: list[str]


def draw_timeline(record: ComparisonRecord) -> Timeline | None:
    """The timeline of a comparison, None if it has none."""
    whole = max((span.end for span in record.timeline), default=0.0)
    if not whole > 0:
        return None
    parts = list(dict.fromkeys(span.part for span in record.timeline))
    rows: dict[str, list[Stretch]] = {}
    for span in record.timeline:
        row = rows.setdefault(span.what, [])
        words = f"{span.what}: {span.part}, {span.start:.1f} to {span.end:.1f} s"
        start, length = (1000 * s / whole for s in (span.start, span.end - span.start))
        aside = any(start < each.start + each.length for each in row)
        row.append(Stretch(parts.index(span.part), start, length, aside, words))
    marks = [(1000 * second / whole, f"{second:,.4g} s") for second in ticks(0, whole, 6)]
    return Timeline(list(rows.items()), marks, parts)


def _number(text: str) -> float | None:
    """The number that a text is, if it is one that can be drawn."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < HUGE else None


def interval(row: ScoreRow, column: Column | None) -> tuple[float, float, float] | None:
    """A row's score, and the ends of its error bar, as tables scale them."""
    value = row.scores.get(column.name) if column else None
    if value is None or column is None:
        return None
    spread = half_width_of(row, column.name) or 0.0
    scale = column.scale
    if max(abs(value), abs(spread)) > HUGE:
        return None
    return value * scale, (value - spread) * scale, (value + spread) * scale
