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
from genkit.io.files import JsonObject, write_atomic
from genkit.report.charts import Chart
from genkit.report.footnotes import footnotes
from genkit.report.headline import (
    draw_bars,
    draw_sweeps,
    draw_timeline,
    explain_columns,
    make_headline,
)
from genkit.report.protocol_card import card_lines
from genkit.report.ranking import Ranking, rank, score_columns
from genkit.report.rows import ScoreRow, features_name, read_comparison
from genkit.report.run_view import gather_rows, view_runs
from genkit.report.sections import ModelSection, build_sections, chart_quality, command_line
from genkit.report.tables import Field, card_texts, fields, split_cards
from genkit.report.thumbnails import Picture, embed
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


@dataclass(frozen=True)
class Line:
    """What a table's line needs of a row beside its cells; `at` is the row's number."""

    at: int
    name: str
    place: str
    calibration: bool
    winner: bool


def write_page(
    sources: Sequence[Path], path: Path, registry: Registry, rank_by: str | None = None
) -> None:
    """Write the page of runs and of folders of comparisons.

    Raises:
        UsageError: a source is neither a run nor a comparison, or `rank_by` cannot rank.
        GenkitError: stored scores are damaged, or the file cannot be written.
    """
    write_atomic(path, render(sources, registry, rank_by).encode())


def refresh_page(folder: Path, registry: Registry) -> None:
    """Write the page of a run or a comparison into its own folder. A failure is a warning of one
    line, and costs the page only."""
    try:
        write_page([folder], folder / REPORT, registry)
    except GenkitError as error:
        print(f"Warning: no {REPORT}: {printable(error)}", file=sys.stderr)
    except Exception as error:  # a training must not fail for its page
        print(f"Warning: no {REPORT}: {printable(one_line(error))}", file=sys.stderr)


def render(sources: Sequence[Path], registry: Registry, rank_by: str | None = None) -> str:
    """The page as text."""
    return fill(HERE / "page.html", context(sources, registry, rank_by))


def fill(template: Path, content: JsonObject) -> str:
    """A page as text, from a template, which may extend that of this module."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        """Text with escapes for what a browser would obey instead of showing; line breaks stay."""
        if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
            return value
        return "\n".join(map(printable, value.split("\n")))

    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (HERE / "page.css").read_text(encoding="utf-8")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return environment.get_template(template.name).render(
        **content,
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        style_hash=policy_hash(style),
        script_hash=policy_hash(script),
    )


def policy_hash(text: str) -> str:
    """The hash by which a content security policy allows an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def context(sources: Sequence[Path], registry: Registry, rank_by: str | None) -> JsonObject:
    """All that the template shows."""
    ranking = rank(gather_rows(sources), score_columns(registry), rank_by)
    models = build_sections(
        ranking.models, list(view_runs(ranking.models, sources)), ranking.columns
    )
    features = features_name(ranking.rows)
    groups = fields(ranking, features)
    tables = [Table(title, group) for title, group in zip(TITLES, groups, strict=True) if group]
    columns = [field for group in groups for field in group]
    headline, deck = make_headline(ranking)
    quality = _chart_quality(models, ranking, _is_quick(features, registry))
    comparisons = [found for source in sources if (found := read_comparison(source))]
    content: JsonObject = {
        "headline": headline,
        "deck": deck,
        "facts": facts(models, ranking),
        "tables": tables,
        "class_names": _class_names(models),
        "rows": [_line(row, place) for place, row in enumerate(ranking.rows)],
        "bars": draw_bars(ranking),
        "sweeps": draw_sweeps(ranking),
        "notes": [line.strip() for line in footnotes(ranking)],
        "glossary": explain_columns(columns, registry),
        "models": models,
        "real": _real(sources, models),
        "quality": quality,
        "quality_words": _quality_words(quality, ranking.column),
        "cards": split_cards(card_texts(ranking.rows)),
        "timelines": list(filter(None, map(draw_timeline, comparisons))),
        "commands": [command_line(found.command) for found in comparisons if found.command],
        "versions": _versions(models),
    }
    return {**content, "sections": _sections(content)}


def _is_quick(features: str | None, registry: Registry) -> bool:
    """Whether samples are scored by these features while a model trains."""
    if features is None or features not in registry.features:
        return False
    return registry.features[features].spec.quick


def _chart_quality(models: Sequence[ModelSection], ranking: Ranking, quick: bool) -> Chart | None:
    """The chart of quality against time, None if it would compare what must not be compared."""
    data = {model.view.table("data").get("fingerprint") for model in models} - {None}
    if ranking.refusals or len(data) > 1:
        return None
    return chart_quality(models, ranking.rows, ranking.column, quick)


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Keys and titles of the sections that have something to show, in their order."""
    models: list[ModelSection] = content["models"]
    there = {
        "scores": bool(content["tables"]),
        "quality": content["quality"] is not None,
        "sweeps": bool(content["sweeps"]),
        "pictures": any(model.pictures for model in models),
        "warnings": bool(models),
        "protocol": bool(content["cards"]),
        "time": bool(content["timelines"]),
        "repeat": bool(
            content["commands"] or content["versions"] or any(model.options for model in models)
        ),
    }
    for key, name in (("samples", "sample"), ("growth", "frames"), ("curves", "charts")):
        there[key] = any(getattr(model, name) for model in models)
    for key in ("interpolation", "reconstructions", "completion", "classes", "neighbours"):
        there[key] = any(getattr(model, key) for model in models)
    titles = {
        "scores": "Scores",
        "samples": "Samples",
        "growth": "Growth",
        "curves": "Curves",
        "quality": "Quality against time",
        "sweeps": "Quality by sampler",
        "pictures": "The model's own pictures",
        "interpolation": "Between two latents",
        "reconstructions": "Reconstructions",
        "completion": "Completions",
        "classes": "Samples by class",
        "neighbours": "Nearest training images",
        "warnings": "Warnings",
        "protocol": "Protocol",
        "time": "Where the time went",
        "repeat": "To repeat it",
    }
    return [(key, title) for key, title in titles.items() if there[key]]


def _class_names(models: Sequence[ModelSection]) -> list[str]:
    """The classes of which pictures show samples, a row each."""
    shown = [model for model in models if model.classes and model.classes.rows]
    rows = max((model.classes.rows for model in shown if model.classes), default=0)
    names = shown[0].view.table("data").get("classes", []) if shown else []
    return [str(name) for name in names][:rows] if isinstance(names, list) else []


def _line(row: ScoreRow, at: int) -> Line:
    winner = at == 0 and row.rank == 1 and not row.tied
    return Line(at, row.name, row.place, row.is_calibration, winner)


def facts(models: Sequence[ModelSection], ranking: Ranking) -> dict[str, str]:
    """What was compared, in a few words each; without what differs among the models."""

    def shared(values: Sequence[Any]) -> str | None:
        different = {str(value) for value in values if value is not None}
        return different.pop() if len(different) == 1 else None

    runs = [model.view.table("run") for model in models]
    cards = [row.card for row in ranking.rows if row.card]
    trainings = max((row.trainings for row in ranking.rows), default=1)
    days = [model.view.table("provenance").get("started") for model in models]
    last = max((str(day)[:10] for day in days if day), default=None)
    found = {
        "Data": shared([run.get("data") for run in runs]),
        "Models": str(len(models)) if len(models) > 1 else None,
        "Budget each": shared([run.get("budget") for run in runs]),
        "Trainings each": str(trainings) if trainings > 1 else None,
        "Device": shared([model.view.config.get("device") for model in models]),
        "Samples scored": shared([f"{card.samples:,}" for card in cards]),
        "Trained": last,
    }
    return {key: text for key, text in found.items() if text}


def _real(sources: Sequence[Path], models: Sequence[ModelSection]) -> Picture | None:
    """Real images of a comparison, as its folder has them."""
    first = next((model for model in models if model.sample), None)
    tile, most = (first.view.tile, first.side("sample", max)) if first else (None, None)
    for source in sources:
        if (path := source / "real.png").is_file():
            try:
                return embed(path, tile, square=True, most_images=most)
            except OSError:
                continue
    return None


def _quality_words(chart: Chart | None, column: Column | None) -> str:
    """What the chart of quality against time shows."""
    if chart is None:
        return ""
    words = ["Lines are scores of the few samples that were looked at while training"]
    if any(line.marks for line in chart.lines):
        words.append("the mark is the final score with its error bar")
    way = f"{column.better} is better" if column and column.better else ""
    scale = "the scale is logarithmic" if chart.logarithmic else ""
    return "; ".join(filter(None, [*words, way, scale])) + "."


def _versions(models: Sequence[ModelSection]) -> dict[str, dict[str, str]]:
    """Versions and machine of each run, what is shared first."""
    cards = {}
    for model in models:
        config, table = model.view.config, model.view.table("provenance")
        made = {key: value for key, value in table.items() if key not in ("command", "started")}
        for key in ("precision", "device", "ranks"):
            if config.get(key) is not None:
                made[key] = config[key]
        if made:
            cards[model.name] = card_lines(made)
    return split_cards(cards)
