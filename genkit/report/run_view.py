"""What run directories and comparisons hold for a page. Any file may be missing or damaged.

A damaged one is named among the problems.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from genkit.errors import GenkitError, UsageError
from genkit.io.files import JsonObject, read_json
from genkit.io.run_directory import RunDir
from genkit.report.charts import Point
from genkit.report.headline import HUGE
from genkit.report.rows import CALIBRATION, COMPARISON, ScoreRow, read_rows

NO_CURVES = {"step", "images", "seconds", "images_per_second"}  # counts in a line of the log
DIVERSITY = "diversity"
PICTURES = ("step", "reconstructions")  # of all models


@dataclass(frozen=True)
class RunView:
    """What a run directory holds, as far as it can be read."""

    name: str
    path: Path | None = None
    config: JsonObject = field(default_factory=dict)
    summary: JsonObject = field(default_factory=dict)
    metrics: list[JsonObject] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def table(self, key: str) -> JsonObject:
        """A table in the run's config; empty if it is missing."""
        found = self.config.get(key)
        return found if isinstance(found, dict) else {}

    @property
    def tile(self) -> tuple[int, int] | None:
        """Width and height of the run's images."""
        shape = self.table("image_shape")
        width, height = shape.get("width"), shape.get("height")
        if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
            return width, height
        return None

    @cached_property
    def steps(self) -> int:
        """Iterations so far, as the newest of summary, log and grids has it."""
        known = [row.get("step") for row in [*self.metrics, self.summary]]
        known += [step for step, _ in self.grids()]
        return max(
            (step for step in known if isinstance(step, int) and _is_number(step)), default=0
        )

    def grids(self, kind: str = "step") -> list[tuple[int, Path]]:
        """Step and path of each grid of samples, or of another kind such as "reconstructions"."""
        if self.path is None:
            return []
        return RunDir(self.path).grids(kind)

    def own_pictures(self) -> list[str]:
        """Names of the pictures that the model itself wanted to be drawn."""
        found = RunDir(self.path).picture_kinds() if self.path else []
        return [name for name in found if name not in PICTURES]

    def picture(self, name: str) -> Path | None:
        """A file of the run, if it is there."""
        path = self.path / name if self.path else None
        return path if path and path.is_file() else None

    def warnings(self) -> list[str]:
        """What the training warned of, with its step."""
        warnings = (
            f"step {row.get('step', 0):,}: {row['warning']}"
            for row in self.metrics
            if isinstance(row.get("warning"), str)
        )
        return list(dict.fromkeys(warnings))

    @cached_property
    def curves(self) -> dict[str, list[Point]]:
        """Values over steps, by name: what phases log as "phase/name", scores and diversity of
        samples as "name"."""
        found: dict[str, list[Point]] = {}
        for row in self.metrics:
            for name, value in row.items():
                if name in NO_CURVES or not (value is None or _is_number(value)):
                    continue
                if not _is_number(step := row.get("step", 0)):
                    continue
                point = (float(step), None if value is None else float(value))
                found.setdefault(name, []).append(point)
        return {name: sorted(points, key=lambda p: p[0]) for name, points in found.items()}

    @cached_property
    def clock(self) -> list[tuple[float, float]]:
        """Steps with the seconds of training until then."""
        clock = [(0.0, 0.0)]
        for row in [*self.metrics, self.summary]:
            if _is_number(row.get("seconds")) and _is_number(row.get("step")):
                clock.append((float(row["step"]), float(row["seconds"])))
        return sorted(clock)

    def seconds_at(self, step: float) -> float:
        """Seconds of training until a step, between the lines of the log that are next to it."""
        clock = self.clock
        place = bisect_left(clock, (step, -1.0))
        if place == 0 or place == len(clock):
            return clock[min(place, len(clock) - 1)][1]
        (before, start), (after, end) = clock[place - 1], clock[place]
        share = (step - before) / (after - before) if after > before else 1.0
        return start + share * (end - start)


def _is_number(value: Any) -> bool:
    """Whether it is a number that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < HUGE


def read_run(path: Path, name: str) -> RunView:
    """The view of a run directory; what cannot be read is among the problems."""
    run, problems = RunDir(path), list[str]()

    def table(file: Path) -> JsonObject:
        if not file.is_file():
            return {}
        try:
            content = read_json(file)
        except GenkitError as error:
            problems.append(str(error))
            return {}
        return content if isinstance(content, dict) else {}

    try:
        metrics = run.read_metrics()
    except GenkitError as error:
        problems.append(str(error))
        metrics = []
    config, summary = table(run.config_path), table(path / "summary.json")
    return RunView(name, path, config, summary, metrics, problems)


def unscored(sources: Sequence[Path]) -> list[Path]:
    """The runs among the sources that have no scores yet.

    Raises:
        UsageError: a source is neither a run nor the folder of a comparison.
    """
    found = []
    for source in sources:
        run = RunDir(source)
        if (source / COMPARISON).is_file() or run.evaluation_path.is_file():
            continue
        if not run.config_path.is_file():
            raise UsageError(f"{source} is neither a run nor a folder of a comparison")
        found.append(source)
    return found


def gather_rows(sources: Sequence[Path]) -> list[ScoreRow]:
    """Rows of runs and comparisons as `read_rows` makes them, and a row with what is known for
    each run that was not scored.

    Raises:
        UsageError: a source is neither a run nor the folder of a comparison.
        GenkitError: stored scores are damaged.
    """
    waiting = unscored(sources)
    scored = [source for source in sources if source not in waiting]
    rows = read_rows(scored)
    for source in waiting:
        view = read_run(source, "")
        name = view.config.get("model")
        name = name if isinstance(name, str) else RunDir(source).name
        if name in CALIBRATION or any(row.name == name for row in rows):
            name = str(source)
        rows.append(_unscored_row(view, name, str(source)))
    return rows


def _unscored_row(view: RunView, name: str, run: str) -> ScoreRow:
    """The row of a run without scores; a damaged number is named among the problems."""
    known = {"parameters": view.config.get("parameters")}
    known |= {key: view.summary.get(key) for key in ("images", "seconds")}
    known["train_rate"] = view.summary.get("images_per_second")
    try:
        return ScoreRow.from_json({"name": name, "run": run, **known})
    except ValueError as error:
        return ScoreRow(name=name, run=run, problems=(f"{run}: {error}",))


def view_runs(models: Sequence[ScoreRow], sources: Sequence[Path]) -> Iterator[RunView]:
    """A view of each model's run. A comparison that was moved has its runs in its own folder."""
    for row in models:
        run = row.run
        places = [Path(run), *(source / Path(run).name for source in sources)] if run else []
        path = next((place for place in places if RunDir(place).config_path.is_file()), None)
        yield read_run(path, row.name) if path else RunView(row.name)
