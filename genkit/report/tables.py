"""Score tables: rows to rich tables, Markdown or JSON, ranked where that is honest. Light."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from genkit.errors import GenkitError, printable
from genkit.report.protocol_card import FLAGGED, entries
from genkit.report.ranking import CALIBRATION, Ranking, Row
from genkit.specs import Column

_MARKUP = re.compile(r"([\\|`*_<>\[\]~])")  # what Markdown would read as more than text
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


def estimate(
    value: float | None, deviation: float | None, decimals: int = 2, prefix: str = ""
) -> Cell:
    """A value and two of its standard deviations: "2.91 ±.12"."""
    if value is None:
        return "-"
    text = f"{prefix}{value:.{decimals}f}" if abs(value) < 1000 else f"{prefix}{shorten(value)}"
    if deviation is None:
        return text
    bar = f"{2 * deviation:.{decimals}f}" if 2 * deviation < 1000 else shorten(2 * deviation)
    return f"{text} ±{bar.removeprefix('0') or '0'}"


def score_cell(row: Row, column: Column) -> Cell:
    """A row's score and its error bar as tables show them."""
    value = (row.get("scores") or {}).get(column.name)
    deviation = (row.get("deviations") or {}).get(column.name)
    return estimate(
        None if value is None else value * column.scale,
        None if deviation is None else deviation * column.scale,
        column.decimals,
    )


def _likelihood(row: Row) -> tuple[Cell, Cell]:
    found = row.get("likelihood")
    if not found:  # a model without one says so; calibration rows have no model
        return ("none", "none") if row.get("parameters") else ("-", "-")
    sign = "" if found["kind"] == "exact" else "≤"  # a bound on log p from below
    nats = estimate(-found["nats"], found.get("deviation"), 1, sign)
    return nats, f"{sign}{found['bits_per_dimension']:.3f}"


def _share(row: Row, space: str) -> Cell:
    found = row.get("memorisation") or {}
    text = estimate(found.get(space), found.get(f"{space}_deviation"))
    return f"{text}!" if found.get("flagged") and (found.get(space) or 0) > FLAGGED else text


def fields(ranking: Ranking, features: str | None) -> list[list[Field]]:
    """The columns of all tables: distances and likelihood, then what else samples are scored by,
    the Inception Score last, then neighbours and costs. Columns without a value are left out."""
    rows = ranking.rows

    def scores(columns: Sequence[Column]) -> Iterator[Field]:
        for column in columns:
            cells = [score_cell(row, column) for row in rows]
            heading = column.title
            if column.ranks or "\n" not in heading:  # a distance is nothing without its features
                heading = " ".join(heading.split("\n")) + f"\n({features})"
            if set(cells) - {"-"}:
                yield Field(heading, cells, column)

    def known(heading: str, cells: Sequence[Cell]) -> list[Field]:
        return [Field(heading, cells)] if set(cells) - {"-", "none"} else []

    likelihoods = [_likelihood(row) for row in rows]
    distances = [*scores([c for c in ranking.columns if c.ranks])]
    distances += known("NLL\nnats", [nats for nats, _ in likelihoods])
    distances += known("bits\n/dim", [bits for _, bits in likelihoods])
    others = [*scores([c for c in ranking.columns if not c.ranks])]
    costs = known("near train\n(pixels)", [_share(row, "pixels") for row in rows])
    costs += known(f"near train\n({features})", [_share(row, "features") for row in rows])
    for heading, key in (
        ("para-\nmeters", "parameters"),
        ("images\nseen", "images"),
        ("train\ns", "seconds"),
        ("train\nimg/s", "train_rate"),
        ("sample\nimg/s", "sample_rate"),
    ):
        costs += known(heading, [shorten(row.get(key)) for row in rows])
    return [distances, others, costs]


def pack(groups: Sequence[Sequence[Field]], room: int) -> list[list[Field]]:
    """The groups, those that are too wide in several parts. The first has ranks beside it."""
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
    names = max((len(printable(row["name"])) for row in ranking.rows), default=0)
    groups = pack(fields(ranking, features), width - names)
    for number, group in enumerate(groups):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
        if number == 0:
            table.add_column("", justify="right")
        table.add_column("\nmodel", justify="left")
        for field in group:
            table.add_column(field.heading, justify="right")
        for place, row in enumerate(ranking.rows):
            cells = [printable(row["name"]), *(field.cells[place] for field in group)]
            if number == 0:
                cells = [ranking.place(row), *cells]
            style = "dim" if row["name"] in CALIBRATION else None
            table.add_row(*map(Text, cells), style=style)
        tables.append(table)
    return tables


def print_table(table: Table, console: Console) -> None:
    """Print a table; where the output is no terminal, as wide as it needs to be."""
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


def split_cards(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """What the rows' protocol cards have in common, under "All rows", and then, by name, what each
    has of its own: titles to texts."""
    cards = {printable(row["name"]): dict(entries(row["card"])) for row in rows if row.get("card")}
    shared = set.intersection(*(set(card.items()) for card in cards.values())) if cards else set()
    first: dict[str, str] = next(iter(cards.values()), {})
    parts = {"All rows": {k: text for k, text in first.items() if (k, text) in shared}}
    for name, card in cards.items():
        parts[name] = {k: text for k, text in card.items() if (k, text) not in shared}
    return {name: part for name, part in parts.items() if part}


def print_cards(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print what the rows' protocol cards have in common, and then what each has of its own."""
    console = console or Console()
    for name, part in split_cards(rows).items():
        console.print(f"\n{name}", markup=False, highlight=False)
        for title, text in part.items():
            console.print(f"  {title}: {text}", markup=False, highlight=False, soft_wrap=True)


def to_markdown(ranking: Ranking, features: str | None) -> str:
    """The same as one table of Markdown."""
    columns = [field for group in fields(ranking, features) for field in group]
    headings = ["", "model", *(c.heading.replace("-\n", "").replace("\n", " ") for c in columns)]
    lines = [headings, ["---"] * len(headings)]
    for place, row in enumerate(ranking.rows):
        cells = [ranking.place(row), printable(row["name"]), *(c.cells[place] for c in columns)]
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
