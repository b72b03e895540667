"""Score tables: rows to a rich table, Markdown or JSON. Light; computes no score."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from genkit.errors import GenkitError
from genkit.registry import Registry
from genkit.specs import Column

Row = Mapping[str, Any]
CALIBRATION = ("real", "noise")
_MARKUP = re.compile(r"([\\|`*_<>\[\]~])")  # what Markdown would read as more than text


def rank(rows: Sequence[Row], column: Column | None) -> list[dict[str, Any]]:
    """The rows in order of rank by one column: models with a score, models without one, and then
    the calibration rows, which have no rank."""

    def score(row: Row) -> float:
        value = (row.get("scores") or {}).get(column.name) if column else None
        return math.nan if value is None else float(value)

    def scored(row: Row) -> bool:
        return not math.isnan(score(row))

    def key(row: Row) -> float:
        return score(row) if column and column.better == "lower" else -score(row)

    models = [row for row in rows if row["name"] not in CALIBRATION]
    ranked = sorted((row for row in models if scored(row)), key=key)
    result = [{**row, "rank": place} for place, row in enumerate(ranked, 1)]
    result += [{**row, "rank": None} for row in models if not scored(row)]
    for name in CALIBRATION:
        result += [{**row, "rank": None} for row in rows if row["name"] == name]
    return result


def _short(value: float | None) -> str:
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


def _cells(row: Row, columns: Sequence[Column]) -> list[str]:
    scores = row.get("scores") or {}
    cells = [str(row.get("rank") or ""), str(row["name"])]
    for column in columns:
        value, deviation = scores.get(column.name), scores.get(f"{column.name}_std")
        text = "-" if value is None else f"{value:.2f}" if value < 1000 else _short(value)
        cells.append(text if deviation is None else f"{text} ± {deviation:.2f}")
    likelihood = row.get("likelihood")
    if likelihood:
        sign = "" if likelihood["kind"] == "exact" else "≤"  # a bound on log p from below
        nats = -likelihood["nats"]
        cells.append(f"{sign}{nats:.{1 if nats < 1000 else 0}f}")
        cells.append(f"{sign}{likelihood['bits_per_dimension']:.3f}")
    else:
        cells += ["-", "-"]
    keys = ("parameters", "images", "seconds", "train_rate", "sample_rate")
    return cells + [_short(row.get(key)) for key in keys]


def _headings(columns: Sequence[Column], features: str | None) -> list[str]:
    """Two short lines each, so that the table fits a terminal of 80 columns."""
    titles = [f"{column.title}\n({features})" for column in columns]
    rest = ["NLL\nnats", "bits\n/dim", "para-\nmeters", "images\nseen"]
    return ["", "model", *titles, *rest, "train\ns", "train\nimg/s", "sample\nimg/s"]


def shown(columns: Iterable[Column]) -> list[Column]:
    """The columns that are shown as such; a deviation stands beside its mean."""
    columns = list(columns)
    names = {column.name for column in columns}
    return [c for c in columns if not (c.name.endswith("_std") and c.name[:-4] in names)]


def to_table(rows: Sequence[Row], columns: Sequence[Column], features: str | None) -> Table:
    """A rich table of ranked rows; `footnotes` say why a row failed."""
    columns = shown(columns)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for index, heading in enumerate(_headings(columns, features)):
        table.add_column(heading, justify="left" if index == 1 else "right")
    for row in rows:
        style = "dim" if row["name"] in CALIBRATION else None
        table.add_row(*(Text(cell) for cell in _cells(row, columns)), style=style)
    return table


def footnotes(rows: Sequence[Row]) -> list[str]:
    """What the numbers are of, and why rows are missing some."""
    notes = []
    cards = [row["card"] for row in rows if row.get("card")]
    if cards and cards[0]["features"]:
        card = cards[0]
        counts = sorted({c["samples"] for c in cards})
        notes.append(
            f"{' / '.join(f'{count:,}' for count in counts)} samples; features "
            f"{card['features']}; reference {card['reference']}, "
            f"{card['reference_images']:,} images; real: unseen test images"
        )
    for row in rows:
        if row.get("likelihood"):
            found = row["likelihood"]
            kind = "exact" if found["kind"] == "exact" else "upper bound"
            notes.append(
                f"{row['name']}: {kind} NLL of {found['images']:,} test images, {found['of']}"
            )
        if row.get("error"):
            notes.append(f"{row['name']} failed: {row['error']}")
    return notes


def score_columns(registry: Registry) -> list[Column]:
    """The columns of all metrics, the one that ranks first."""
    columns = [column for entry in registry.metrics.values() for column in entry.spec.columns]
    return sorted(columns, key=lambda column: not column.ranks)


def print_table(table: Table, console: Console) -> None:
    """Print a table; where the output is no terminal, as wide as it needs to be."""
    if not console.is_terminal:
        wanted = Measurement.get(console, console.options.update_width(10_000), table).maximum
        console.width = max(console.width, wanted)
    console.print(table)


def print_rows(
    rows: Sequence[Row],
    columns: Sequence[Column],
    features: str | None,
    console: Console | None = None,
) -> None:
    """Print ranked rows and what their numbers are of."""
    console = console or Console()
    print_table(to_table(rank(rows, columns[0] if columns else None), columns, features), console)
    console.print()
    for note in footnotes(rows):
        console.print(note, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def to_markdown(rows: Sequence[Row], columns: Sequence[Column], features: str | None) -> str:
    """The same table as Markdown."""
    columns = shown(columns)
    lines = [
        [heading.replace("-\n", "").replace("\n", " ") for heading in _headings(columns, features)]
    ]
    lines += [["---"] * len(lines[0])]
    lines += [[_MARKUP.sub(r"\\\1", cell) for cell in _cells(row, columns)] for row in rows]
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
