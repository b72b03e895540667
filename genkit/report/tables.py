"""Score tables: ranked rows as rich tables, as Markdown and as JSON. Light."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from genkit.errors import GenkitError, printable
from genkit.report.protocol_card import FLAGGED
from genkit.report.ranking import Ranking, half_width, half_width_of
from genkit.report.rows import NearestShares, ScoreRow
from genkit.report.utility import USES
from genkit.specs import Column

_MARKUP = re.compile(r"([\\|`*_<>\[\]~])")  # what Markdown would read as markup
RANK = 3  # characters
Cell = str


@dataclass(frozen=True)
class Field:
    """One column of a printed table: its heading in at most two lines, and a cell for each row."""

    heading: str
    cells: Sequence[Cell]
    column: Column | None = None  # the score that it shows, if it is one

    @property
    def width(self) -> int:
        """In characters, with the space before it."""
        return 1 + max(map(len, [*self.heading.split("\n"), *self.cells]))


def shorten(value: float | None) -> str:
    """A count or a rate in at most five characters: 952k, 2.31M, 480, 0.35."""
    if value is None:
        return "-"
    if 0 < value < 0.005:
        return "<0.01"
    value = float(f"{value:.3g}")  # first, since 999,900 is 1M and not 1000k
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.0f}" if value >= 10 else f"{round(value, 2):.2g}"


def estimate(value: float | None, half: float | None, decimals: int = 2, prefix: str = "") -> Cell:
    """A value and half the width of its error bar: "2.91 ±.12"."""
    if value is None:
        return "-"
    text = f"{prefix}{value:.{decimals}f}" if abs(value) < 1000 else f"{prefix}{shorten(value)}"
    if half is None:
        return text
    bar = f"{half:.{decimals}f}" if half < 1000 else shorten(half)
    return f"{text} ±{bar.removeprefix('0') or '0'}"


def score_cell(row: ScoreRow, column: Column) -> Cell:
    """A row's score and its error bar as tables show them."""
    value, half = row.scores.get(column.name), half_width_of(row, column.name)
    return estimate(
        None if value is None else value * column.scale,
        None if half is None else half * column.scale,
        column.decimals,
    )


def likelihood_cells(row: ScoreRow) -> tuple[Cell, Cell]:
    """A row's negative log-likelihood in nats, and in bits per dimension, as tables show them."""
    found = row.likelihood
    if not found:  # a model without one says so; calibration rows have no model
        return ("none", "none") if row.parameters else ("-", "-")
    sign = "" if found.kind == "exact" else "≤"  # a bound on log p from below
    half = half_width(found.deviation, row.trainings)
    return estimate(-found.nats, half, 1, sign), f"{sign}{found.bits_per_dimension:.3f}"


def _own(row: ScoreRow) -> Cell:
    found = row.likelihood
    if not found or found.own is None:
        return "-"
    return f"{'' if found.kind == 'exact' else '≤'}{-found.own:.1f}{'!' * found.leaks}"


def _shares(row: ScoreRow) -> tuple[Cell, Cell]:
    """Shares of samples near training images, in pixels and in features."""
    found = row.memorisation or NearestShares()

    def cell(share: float | None, deviation: float | None) -> Cell:
        marked = found.flagged and share is not None and share > FLAGGED
        return f"{estimate(share, half_width(deviation, 1))}{'!' * marked}"

    return (
        cell(found.pixels, found.pixels_deviation),
        cell(found.features, found.features_deviation),
    )


def _copies(row: ScoreRow) -> Cell:
    found = row.memorisation
    if not found or found.copies is None:
        return "-"
    return f"{found.copies} of {shorten(found.copies_of)}{'!' * (found.copies > 0)}"


def _in_two_lines(words: list[str]) -> str:
    lines = [[" ".join(words[:i]), " ".join(words[i:])] for i in range(1, len(words))]
    return "\n".join(min(lines, key=lambda pair: max(map(len, pair))))  # the narrowest


def fields(ranking: Ranking, features: str | None) -> list[list[Field]]:
    """The columns of all tables: scores that rank and likelihoods, then the other scores,
    then neighbours and costs. Columns without a value are left out."""
    rows = ranking.rows

    def scores(columns: Sequence[Column]) -> Iterator[Field]:
        for column in columns:
            cells = [score_cell(row, column) for row in rows]
            heading = column.title
            if column.ranks or "\n" not in heading:  # a distance is nothing without its features
                heading = _in_two_lines([*heading.split(), f"({features})"])
            if set(cells) - {"-"}:
                yield Field(heading, cells, column)

    def known(heading: str, cells: Sequence[Cell]) -> list[Field]:
        return [Field(heading, cells)] if set(cells) - {"-", "none"} else []

    likelihoods = [likelihood_cells(row) for row in rows]
    distances = [*scores([c for c in ranking.columns if c.ranks])]
    distances += known("NLL\nnats", [nats for nats, _ in likelihoods])
    distances += known("bits\n/dim", [bits for _, bits in likelihoods])
    distances += known("own\nNLL", [_own(row) for row in rows])
    followed = [row.agreement for row in rows]
    distances += known(
        "labels\nfollowed", [estimate(a.share, a.deviation) if a else "-" for a in followed]
    )
    others = [*scores([c for c in ranking.columns if not c.ranks])]
    for kind, heading in USES.items():
        used = [
            (getattr(u, kind), u.deviations.get(kind, 0.0)) if (u := row.utility) else None
            for row in rows
        ]
        others += known(heading, [estimate(*each) if each else "-" for each in used])
    shares = [_shares(row) for row in rows]
    costs = known("near train\n(pixels)", [pixels for pixels, _ in shares])
    costs += known(f"near train\n({features})", [other for _, other in shares])
    costs += known("copied\nat least", [_copies(row) for row in rows])
    for heading, values in (
        ("para-\nmeters", [row.parameters for row in rows]),
        ("images\nseen", [row.images for row in rows]),
        ("train\ns", [row.seconds for row in rows]),
        ("train\nimg/s", [row.train_rate for row in rows]),
        ("sample\nimg/s", [row.sample_rate for row in rows]),
    ):
        costs += known(heading, [shorten(value) for value in values])
    return [distances, others, costs]


def pack(groups: Sequence[Sequence[Field]], room: int) -> list[list[Field]]:
    """The groups, those that are too wide split. The first has ranks beside it.

    Args:
        room: for columns, in characters.
    """
    packed: list[list[Field]] = []
    for group in groups:
        left = 0
        for field in group:
            if field.width > left or not packed:
                left = room if packed else room - RANK
                packed.append([])
            packed[-1].append(field)
            left -= field.width
    return packed or [[]]


def to_tables(ranking: Ranking, features: str | None, width: int = 80) -> list[Table]:
    """Rich tables of ranked rows, none wider than `width` unless a single column is."""
    tables = []
    names = max((len(printable(row.name)) for row in ranking.rows), default=0)
    groups = pack(fields(ranking, features), width - names)
    for number, group in enumerate(groups):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
        if number == 0:
            table.add_column("", justify="right")
        table.add_column("\nmodel", justify="left")
        for field in group:
            table.add_column(field.heading, justify="right")
        for place, row in enumerate(ranking.rows):
            cells = [printable(row.name), *(field.cells[place] for field in group)]
            if number == 0:
                cells = [row.place, *cells]
            style = "dim" if row.is_calibration else None
            table.add_row(*map(Text, cells), style=style)
        tables.append(table)
    return tables


def print_table(table: Table, console: Console) -> None:
    """Print a table; where the output is not a terminal, as wide as it needs to be."""
    if not console.is_terminal:
        wanted = Measurement.get(console, console.options.update_width(10_000), table).maximum
        console.width = max(console.width, wanted)
    console.print(table)


def print_ranking(
    ranking: Ranking, features: str | None, notes: Sequence[str], console: Console | None = None
) -> None:
    """Print ranked rows and what their numbers are of."""
    console = console or Console()
    for table in to_tables(ranking, features, console.width if console.is_terminal else 80):
        print_table(table, console)
        console.print()
    for note in notes:
        console.print(
            printable(note), markup=False, highlight=False, soft_wrap=not console.is_terminal
        )


def class_table(row: ScoreRow, columns: Sequence[Column]) -> Table:
    """The scores of each class of a row, and how many samples follow their label."""
    shown = [
        c for c in columns if any(each.scores.get(c.name) is not None for each in row.by_class)
    ]
    table = Table(box=box.SIMPLE_HEAD, title=f"{row.name}, class by class", title_justify="left")
    headings = ["class", "samples", "labels\nfollowed", *(column.title for column in shown)]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "class" else "right", no_wrap=True)
    for each in row.by_class:
        agreement = each.agreement
        cells = [each.name, f"{each.samples:,}"]
        cells.append(estimate(agreement.share, agreement.deviation) if agreement else "-")
        like = ScoreRow(name=each.name, scores=each.scores, deviations=each.deviations)
        cells += [score_cell(like, column) for column in shown]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def split_cards(cards: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """What cards have in common, under "All rows", and then, by name, what each has of its own.

    Args:
        cards: by the name of their row, titles to texts.
    """
    shared = set.intersection(*(set(card.items()) for card in cards.values())) if cards else set()
    first: Mapping[str, str] = next(iter(cards.values()), {})
    found = {"All rows": {k: text for k, text in first.items() if (k, text) in shared}}
    for name, card in cards.items():
        found[printable(name)] = {k: text for k, text in card.items() if (k, text) not in shared}
    return {name: card for name, card in found.items() if card}


def card_texts(rows: Sequence[ScoreRow]) -> dict[str, dict[str, str]]:
    """The rows' protocol cards by name, titles to texts."""
    return {row.name: row.card.lines() for row in rows if row.card}


def print_cards(rows: Sequence[ScoreRow], console: Console | None = None) -> None:
    """Print what the rows' protocol cards have in common, and then what each has of its own."""
    console = console or Console()
    for name, card in split_cards(card_texts(rows)).items():
        console.print(f"\n{name}", markup=False, highlight=False)
        for title, text in card.items():
            console.print(f"  {title}: {text}", markup=False, highlight=False, soft_wrap=True)


def to_markdown(ranking: Ranking, features: str | None) -> str:
    """Ranked rows as one table of Markdown."""
    columns = [field for group in fields(ranking, features) for field in group]
    headings = ["", "model", *(c.heading.replace("-\n", "").replace("\n", " ") for c in columns)]
    lines = [headings, ["---"] * len(headings)]
    for place, row in enumerate(ranking.rows):
        cells = [row.place, printable(row.name), *(c.cells[place] for c in columns)]
        lines.append([_MARKUP.sub(r"\\\1", cell) for cell in cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_json_output(target: str, content: Any) -> None:
    """Write JSON to a path, or to stdout for "-"; NaN and infinities are refused."""
    try:
        text = json.dumps(content, indent=2, allow_nan=False, default=str)
        if target == "-":
            print(text)
        else:  # not by renaming a file: the path may be a pipe
            Path(target).write_text(text + "\n", encoding="utf-8")
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise GenkitError(f"--json {target} could not be written: {error}") from error
