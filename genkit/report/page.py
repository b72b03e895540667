"""The report page: one HTML file that opens offline, with tables, pictures and curves of runs.

Nothing in it is loaded from elsewhere, its script is allowed by its hash alone, and whatever comes
from outside is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkit.errors import GenkitError, one_line, printable
from genkit.io.files import read_json, write_atomic
from genkit.report.headline import bars, meanings, verdict
from genkit.report.ranking import CALIBRATION, Ranking, Row, footnotes, rank, score_columns
from genkit.report.run_view import gather, views
from genkit.report.sections import Part, build, command_line, quality
from genkit.report.tables import Field, fields, split_cards
from genkit.report.thumbnails import embed
from genkit.specs import Column
from genkit.version import __version__

if TYPE_CHECKING:
    from genkit.registry.catalogue import Registry

TITLES = ("Distance and likelihood", "Quality and variety", "Copies and costs")
HERE = Path(__file__).parent
REPORT = "report.html"


@dataclass(frozen=True)
class Table:
    """One of the page's tables of scores."""

    title: str
    fields: Sequence[Field]


def write_page(
    sources: Sequence[Path], path: Path, registry: Registry, rank_by: str | None = None
) -> None:
    """Write the page of runs and of folders of comparisons.

    Raises:
        UsageError: a source is none, or `rank_by` is no score that ranks.
        GenkitError: stored scores are damaged, or the file cannot be written.
    """
    write_atomic(path, render(sources, registry, rank_by).encode())


def refresh_page(folder: Path, registry: Registry) -> None:
    """Write the page of a run or a comparison into its own folder. What goes wrong costs no more
    than the page: it is said in one line."""
    try:
        write_page([folder], folder / REPORT, registry)
    except GenkitError as error:
        print(f"Warning: no {REPORT}: {printable(error)}", file=sys.stderr)
    except Exception as error:  # a page is no reason for a training to fail
        print(f"Warning: no {REPORT}: {printable(one_line(error))}", file=sys.stderr)


def render(sources: Sequence[Path], registry: Registry, rank_by: str | None = None) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        """Text without what a reader would obey instead of seeing: line breaks stay."""
        if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
            return value
        return "\n".join(map(printable, value.split("\n")))

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        **context(sources, registry, rank_by),
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        style_hash=policy_hash(style),
        script_hash=policy_hash(script),
    )


def policy_hash(text: str) -> str:
    """The hash by which a content security policy allows an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def context(sources: Sequence[Path], registry: Registry, rank_by: str | None) -> dict[str, Any]:
    """All that the template shows."""
    ranking = rank(gather(sources), score_columns(registry), rank_by)
    models = [row for row in ranking.rows if row["name"] not in CALIBRATION]
    parts = build(models, list(views(ranking.rows, sources)), ranking.columns)
    features = next((r["card"]["features"] for r in ranking.rows if r.get("card")), None)
    heading = str(features).rpartition("-")[0] or None
    groups = fields(ranking, heading)
    tables = [Table(title, group) for title, group in zip(TITLES, groups, strict=True) if group]
    columns = [field for group in groups for field in group]
    quick = bool(heading in registry.features and registry.features[str(heading)].spec.quick)
    data = {part.view.table("data").get("fingerprint") for part in parts} - {None}
    plotted = None  # one chart would compare what must not be compared
    if not ranking.refusals and len(data) < 2:
        plotted = quality(parts, ranking.rows, ranking.column, quick)
    headline, deck = verdict(ranking)
    comparisons = [content for source in sources if (content := _comparison(source))]
    result: dict[str, Any] = {
        "headline": headline,
        "deck": deck,
        "facts": facts(parts, ranking),
        "tables": tables,
        "rows": [_row(row, place, ranking) for place, row in enumerate(ranking.rows)],
        "bars": bars(ranking),
        "notes": [line.strip() for line in footnotes(ranking)],
        "glossary": meanings(columns, registry),
        "parts": parts,
        "real": _real(sources, parts),
        "quality": plotted,
        "quality_words": _quality_words(plotted, ranking.column),
        "cards": split_cards(ranking.rows),
        "commands": [command_line(c["command"]) for c in comparisons if c.get("command")],
        "versions": _versions(parts),
    }
    return {**result, "sections": _sections(result)}


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Keys and titles of the sections that have something to show, in their order."""
    parts: list[Part] = content["parts"]
    there = {
        "scores": bool(content["tables"]),
        "quality": content["quality"] is not None,
        "warnings": bool(parts),
        "protocol": bool(content["cards"]),
        "repeat": bool(content["commands"] or content["versions"] or any(p.options for p in parts)),
    }
    for key, name in (("samples", "sample"), ("growth", "frames"), ("curves", "charts")):
        there[key] = any(getattr(part, name) for part in parts)
    for key in ("interpolation", "reconstructions", "completion", "neighbours"):
        there[key] = any(getattr(part, key) for part in parts)
    titles = {
        "scores": "Scores",
        "samples": "Samples",
        "growth": "Growth",
        "curves": "Curves",
        "quality": "Quality against time",
        "interpolation": "Between two latents",
        "reconstructions": "Reconstructions",
        "completion": "Completions",
        "neighbours": "Nearest training images",
        "warnings": "Warnings",
        "protocol": "Protocol",
        "repeat": "To repeat it",
    }
    return [(key, title) for key, title in titles.items() if there[key]]


def _row(row: Row, place: int, ranking: Ranking) -> dict[str, Any]:
    """What a table's lines need of a row beside its cells."""
    first = row.get("rank") == 1 and row is ranking.rows[0]
    return {
        "at": place,
        "name": str(row["name"]),
        "place": ranking.place(row),
        "calibration": row["name"] in CALIBRATION,
        "winner": first and not row.get("tied"),
    }


def facts(parts: Sequence[Part], ranking: Ranking) -> dict[str, str]:
    """What was compared, in a few words each; what differs among the models is left out."""

    def shared(values: Sequence[Any]) -> str | None:
        different = {str(value) for value in values if value is not None}
        return different.pop() if len(different) == 1 else None

    runs = [part.view.table("run") for part in parts]
    cards = [row["card"] for row in ranking.rows if row.get("card")]
    trainings = [int(row["trainings"]) for row in ranking.rows if row.get("trainings")]
    days = [part.view.table("provenance").get("started") for part in parts]
    last = max((str(day)[:10] for day in days if day), default=None)
    found = {
        "Data": shared([run.get("data") for run in runs]),
        "Models": str(len(parts)) if len(parts) > 1 else None,
        "Budget each": shared([run.get("budget") for run in runs]),
        "Trainings each": str(max(trainings)) if trainings else None,
        "Device": shared([part.view.config.get("device") for part in parts]),
        "Samples scored": shared([f"{card['samples']:,}" for card in cards]),
        "Trained": last,
    }
    return {key: text for key, text in found.items() if text}


def _comparison(source: Path) -> dict[str, Any] | None:
    path = source / "compare.json"
    content = read_json(path) if path.is_file() else None
    return content if isinstance(content, dict) else None


def _real(sources: Sequence[Path], parts: Sequence[Part]) -> Any:
    """Real images of a comparison, as its folder has them."""
    first = next((part for part in parts if part.sample), None)
    tile, most = (first.view.tile, first.side("sample", max)) if first else (None, None)
    for source in sources:
        if (path := source / "real.png").is_file():
            try:
                return embed(path, tile, square=True, most_images=most)
            except OSError:
                continue
    return None


def _quality_words(chart: Any, column: Column | None) -> str:
    """What the chart of quality against time shows."""
    if chart is None:
        return ""
    parts = ["Lines are scores of the few samples that were looked at while training"]
    if any(line.mark for line in chart.lines):
        parts.append("the mark is the final score with two standard deviations")
    way = f"{column.better} is better" if column and column.better else ""
    scale = "the scale is logarithmic" if chart.logarithmic else ""
    return "; ".join(filter(None, [*parts, way, scale])) + "."


def _versions(parts: Sequence[Part]) -> dict[str, dict[str, str]]:
    """Versions and machine of each run, what is shared first."""
    rows = []
    for part in parts:
        config = part.view.config
        table = part.view.table("provenance")
        made = {key: value for key, value in table.items() if key not in ("command", "started")}
        for key in ("precision", "device", "ranks"):
            if config.get(key) is not None:
                made[key] = config[key]
        if made:
            rows.append({"name": part.name, "card": made})
    return split_cards(rows)
