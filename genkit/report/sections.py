"""A report page's section of each model: pictures, curves, warnings and how it was made."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genkit.report.charts import LARGE, MOST_POINTS, Chart, Mark, Point, Series, chart, number
from genkit.report.headline import interval, plain
from genkit.report.rows import ScoreRow
from genkit.report.run_view import DIVERSITY, RunView
from genkit.report.tables import shorten
from genkit.report.thumbnails import Picture, embed
from genkit.specs import Column

FRAMES = 12  # moments of growth
SIDE = 4  # images a side that are seen to grow
CHARTS = 12  # of a model, at most
LINES = 8  # of the log, as a table
FEW = 3  # models whose pictures may have the bytes below; more models share these
SAMPLE_BYTES, GROWTH_BYTES, OTHER_BYTES = 160_000, 250_000, 100_000
LEAST_BYTES = 12_000
WIDE, NARROW = 560, 320  # pixels across that pictures have at most where they stand alone


@dataclass(frozen=True)
class Frame:
    """Samples at one moment of training; `share` of it in percent."""

    share: float
    label: str
    picture: Picture


@dataclass(frozen=True)
class Log:
    """A few lines of the log."""

    headings: list[str]
    rows: list[list[str]]


@dataclass
class ModelSection:
    """One model on the page."""

    name: str
    view: RunView
    sample: Picture | None = None
    sample_label: str = ""
    frames: list[Frame] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    log: Log = field(default_factory=lambda: Log([], []))
    interpolation: Picture | None = None
    reconstructions: Picture | None = None
    completion: Picture | None = None
    classes: Picture | None = None
    neighbours: Picture | None = None
    pictures: dict[str, Picture] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    options: list[tuple[str, str, str]] = field(default_factory=list)

    def load(self, path: Path | None, most_bytes: float, **how: Any) -> Picture | None:
        """Embed a picture, None without one; a picture that cannot be read is a warning."""
        try:
            most = max(round(most_bytes), LEAST_BYTES)
            return embed(path, self.view.tile, most_bytes=most, **how) if path else None
        except OSError as error:
            self.warnings.append(f"{path} cannot be shown: {error}")
            return None

    def side(self, kind: str, choose: Callable[..., int]) -> int:
        """Images a side of the samples, or of the least or greatest of the moments of growth; 0 if
        there are none."""
        pictures = [frame.picture for frame in self.frames] if kind == "frames" else [self.sample]
        return choose((p.columns for p in pictures if p and p.columns), default=0)


def build_sections(
    rows: Sequence[ScoreRow], views: Sequence[RunView], columns: Sequence[Column]
) -> list[ModelSection]:
    """What there is to show of the models; of samples as many images of each.

    Args:
        columns: of the scores; those that were watched in training are named and scaled by them.
    """
    room = min(1.0, FEW / max(len(rows), 1))
    sections = [_build(row, view, columns, room) for row, view in zip(rows, views, strict=True)]
    for place, section in enumerate(sections):  # one run may stand here with several samplers
        if section.view.path in [other.view.path for other in sections[:place]]:
            section.pictures = {}
    for kind in ("sample", "frames"):
        sides = [side for section in sections if (side := section.side(kind, min))]
        least = min(sides, default=0)
        for section in sections:
            if section.side(kind, max) > least:
                _add_samples(section, room, kind, least)
    return sections


def _build(row: ScoreRow, view: RunView, columns: Sequence[Column], room: float) -> ModelSection:
    section = ModelSection(row.name, view)
    _add_samples(section, room, "sample")
    _add_samples(section, room, "frames", SIDE)
    reconstructions = view.grids("reconstructions")[-1:]
    others = {
        "reconstructions": reconstructions[0][1] if reconstructions else None,
        "interpolation": view.picture("samples/interpolation.png"),
        "completion": view.picture("samples/completion.png"),
        "classes": view.picture("samples/classes.png"),
        "neighbours": view.picture("neighbours.png"),
    }
    for name, path in others.items():
        across = NARROW if name == "completion" else WIDE
        setattr(section, name, section.load(path, OTHER_BYTES * room, across=across))
    for name in view.own_pictures():
        path = view.grids(name)[-1][1]
        if found := section.load(path, OTHER_BYTES * room, across=WIDE):
            section.pictures[name.replace("-", " ")] = found
    section.charts = charts(view, columns, round(MOST_POINTS * max(room, 0.4)))
    section.log = log(view)
    warnings = [f"failed: {row.error}"] if row.error else []
    warnings += [row.warning] if row.warning else []
    warnings += [*view.warnings(), *row.problems, *view.problems]
    section.warnings = list(dict.fromkeys([*warnings, *section.warnings]))
    section.commands = commands(view)
    section.options = options(view)
    return section


def _add_samples(section: ModelSection, room: float, kind: str, most: int | None = None) -> None:
    """Embed the newest samples, or those of moments that show how they grew."""
    view, grids = section.view, section.view.grids()
    how = {"square": True, "most_images": most}
    if kind == "sample":
        for step, path in reversed(grids):
            if found := section.load(path, SAMPLE_BYTES * room, **how):
                section.sample, section.sample_label = found, moment(view, step)
                break
        return
    section.frames = []
    for step, path in spread(grids, FRAMES) if len(grids) > 1 else []:
        if found := section.load(path, GROWTH_BYTES / FRAMES * room, **how):
            share = round(100 * step / max(view.steps, 1), 1)
            section.frames.append(Frame(share, moment(view, step), found))


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, evenly chosen, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def moment(view: RunView, step: int) -> str:
    """A step in words, with how long training had taken."""
    seconds = view.seconds_at(step)
    return f"step {step:,}" + (f", {shorten(seconds)} s" if seconds else "")


def charts(view: RunView, columns: Sequence[Column], most: int) -> list[Chart]:
    """Small charts over steps: all losses in one, scores of samples, then each other value."""
    curves = view.curves
    losses = [name for name in curves if name.endswith("/loss")]
    scores = [name for name in curves if "/" not in name]
    others = [name for name in curves if "/" in name and name not in losses]
    series = [
        Series(name.removesuffix("/loss"), curves[name], place) for place, name in enumerate(losses)
    ]
    found = [chart("loss", series, "steps", most=most)]
    for name in sorted(scores, key=lambda name: name == DIVERSITY):
        title, points = scored(name, curves[name], columns)
        if name == DIVERSITY:
            title = "diversity (real: 1)"
        found.append(chart(title, [Series(title, points)], "steps", most=most))
    for name in others:
        title = name.replace("/", ": ").replace("_", " ")
        found.append(chart(title, [Series(title, curves[name])], "steps", most=most))
    return [one for one in found if one][:CHARTS]


def scored(
    name: str, points: Sequence[Point], columns: Sequence[Column]
) -> tuple[str, Sequence[Point]]:
    """A watched score as tables show it: its title, and the points by its scale."""
    column = next((column for column in columns if column.name == name), None)
    if column is None:
        return name.replace("_", " "), points
    return plain(column.title), [(x, None if y is None else y * column.scale) for x, y in points]


def log(view: RunView) -> Log:
    """A few lines of the log as a table."""
    lines = [row for row in view.metrics if any("/" in name for name in row)]
    names = [name for name in view.curves if "/" in name]
    rows = []
    for row in spread(lines, LINES):
        values = [row.get(name) for name in names]
        cells = [
            number(value) if isinstance(value, int | float) else "not finite" for value in values
        ]
        rows.append([f"{row.get('step', 0):,}", *cells])
    return Log(["step", *(name.replace("/", ":\n").replace("_", " ") for name in names)], rows)


def chart_quality(
    sections: Sequence[ModelSection], rows: Sequence[ScoreRow], ranking: Column | None, quick: bool
) -> Chart | None:
    """The score that was watched in training over seconds of it, for all models in one chart.

    Args:
        quick: the last scores are of the features that were watched: they are marked, too.
    """
    watched = [name for section in sections for name in section.view.curves if "/" not in name]
    names = [name for name in watched if name != DIVERSITY]
    if ranking and (ranking.name in names or not names):
        name = ranking.name
    elif names:
        name = names[0]
    else:
        return None
    column = ranking if ranking and ranking.name == name else None
    columns, series = [column] if column else [], []
    by_name = {row.name: row for row in rows}
    for place, section in enumerate(sections):
        view, row, marks = section.view, by_name[section.name], list[Mark]()
        again = view.path in [other.view.path for other in sections[:place] if other.view.path]
        _, points = scored(name, [] if again else view.curves.get(name, []), columns)
        timed = [(view.seconds_at(step), value) for step, value in points]
        score = interval(row, column)
        if score and row.seconds and (quick or not names):
            marks.append((row.seconds, score[0], (score[2] - score[0]) / 2))
        series.append(Series(section.name, timed, place, marks))
    real = interval(by_name["real"], column) if "real" in by_name else None
    floor = real[0] if real else None
    title = plain(column.title) if column else name.replace("_", " ")
    found = chart(title, series, "seconds", size=LARGE, log=True, labelled=True)
    if found and floor is not None and not found.logarithmic:
        found = chart(title, series, "seconds", size=LARGE, labelled=True, floor=floor)
    return found


def commands(view: RunView) -> list[str]:
    """The command that trained a run, and the one that repeats it from its config."""
    given = view.table("provenance").get("command")
    found = [command_line(given)] if given else []
    model = view.config.get("model")
    if isinstance(model, str) and view.path:
        config = shlex.quote(str(view.path / "config.json"))
        found.append(f"genkit train {shlex.quote(model)} --config {config}")
    return found


def command_line(words: Any) -> str:
    """A command as one types it, from its words as in `sys.argv`."""
    if not isinstance(words, Sequence) or isinstance(words, str) or not words:
        return str(words)
    first, *rest = map(str, words)
    if Path(first).name in ("genkit", "__main__.py"):
        return shlex.join(["genkit", *rest])
    return shlex.join(["python", first, *rest])


def options(view: RunView) -> list[tuple[str, str, str]]:
    """All options of a run with their values and where each comes from."""
    sources, found = view.table("sources"), []
    for group in ("run", "options"):
        for name, value in view.table(group).items():
            origin = str(sources.get(f"{group}.{name}", ""))
            text = "none" if value is None else str(value)
            found.append((name.replace("_", "-"), text, origin))
    return found
