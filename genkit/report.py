"""Score tables: rows to a rich table, Markdown or JSON. Light; computes no score."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from genkit.registry import Registry
from genkit.specs import Column

Row = Mapping[str, Any]
CALIBRATION = ("real", "noise")


def rank(rows: Sequence[Row], column: Column | None) -> list[dict[str, Any]]:
    """The rows in order of rank by one column: models with a score, models without one, and then
    the calibration rows, which have no rank."""

    def scored(row: Row) -> bool:
        return column is not None and column.name in row.get("scores", {})

    def key(row: Row) -> float:
        value = float(row["scores"][column.name]) if column else 0.0
        return value if column and column.better == "lower" else -value

    models = [row for row in rows if row["name"] not in CALIBRATION]
    ranked = sorted((row for row in models if scored(row)), key=key)
    result = [{**row, "rank": place} for place, row in enumerate(ranked, 1)]
    result += [{**row, "rank": None} for row in models if not scored(row)]
    for name in CALIBRATION:
        result += [{**row, "rank": None} for row in rows if row["name"] == name]
    return result


def likelihood_text(row: Row) -> str:
    """Negative log-likelihood in nats and bits per dimension, or a dash."""
    found = row.get("likelihood")
    if not found:
        return "-"
    sign = "" if found["kind"] == "exact" else "≤ "
    return f"{sign}{-found['nats']:.1f} ({found['bits_per_dimension']:.3f})"


def _cells(row: Row, columns: Sequence[Column]) -> list[str]:
    def number(key: str, form: str = ",.0f") -> str:
        value = row.get(key)
        return "-" if value is None else format(value, form)

    def scored(name: str) -> str:
        value = row.get("scores", {}).get(name)
        return "-" if value is None else f"{value:.2f}" if value < 1000 else f"{value:.0f}"

    cells = [str(row.get("rank") or ""), str(row["name"])]
    for column in columns:
        text = scored(column.name)
        deviation = row.get("scores", {}).get(f"{column.name}_std")
        cells.append(text if deviation is None else f"{text} ± {deviation:.2f}")
    cells += [likelihood_text(row), number("parameters"), number("images")]
    cells += [number("seconds"), number("train_rate"), number("sample_rate")]
    return cells


def _headings(columns: Sequence[Column], features: str | None) -> list[str]:
    titles = [f"{column.title} ({features})" for column in columns]
    rest = ["NLL nats (bits/dim)", "parameters", "images seen", "train s", "train img/s"]
    return ["", "model", *titles, *rest, "sample img/s"]


def shown(columns: Iterable[Column]) -> list[Column]:
    """The columns that are shown as such; a deviation stands beside its mean."""
    columns = list(columns)
    names = {column.name for column in columns}
    return [c for c in columns if not (c.name.endswith("_std") and c.name[:-4] in names)]


def to_table(rows: Sequence[Row], columns: Sequence[Column], features: str | None) -> Table:
    """A rich table of ranked rows; a row that failed says why."""
    columns = shown(columns)
    table = Table()
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


def print_rows(
    rows: Sequence[Row],
    columns: Sequence[Column],
    features: str | None,
    console: Console | None = None,
) -> None:
    """Print ranked rows and what their numbers are of. Where the output is no terminal, the table
    is as wide as it needs to be."""
    console = console or Console()
    table = to_table(rank(rows, columns[0] if columns else None), columns, features)
    if not console.is_terminal:
        console.width = max(console.width, console.measure(table).maximum)
    console.print(table)
    for note in footnotes(rows):
        console.print(f"  {note}", markup=False, highlight=False)


def to_markdown(rows: Sequence[Row], columns: Sequence[Column], features: str | None) -> str:
    """The same table as Markdown."""
    columns = shown(columns)
    lines = [_headings(columns, features)]
    lines += [["---"] * len(lines[0])]
    lines += [[cell.replace("|", "\\|") for cell in _cells(row, columns)] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_json_output(target: str, content: Any) -> None:
    """Write JSON to a path, or to stdout for "-"."""
    text = json.dumps(content, indent=2, allow_nan=False, default=str)
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n", encoding="utf-8")
