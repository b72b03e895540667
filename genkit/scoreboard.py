"""Stored scores: read again from runs and from comparisons, whoever made them and when. Light."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genkit.card import MATTERS
from genkit.errors import GenkitError, UsageError
from genkit.ranking import CALIBRATION
from genkit.rundir import RunDir, read_json


def read_rows(sources: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of runs and of folders of comparisons, the models' first.

    Calibration rows are taken from the first source whose protocol the models share; a name that
    is there twice becomes a path.

    Raises:
        UsageError: a source holds no scores.
    """
    found: list[dict[str, Any]] = []
    for source in sources:
        rows = _read(source)
        for row in rows:
            if row["name"] not in CALIBRATION:
                row = {**row, "run": row.get("run") or str(source)}
            found.append(row)
    models = [row for row in found if row["name"] not in CALIBRATION]
    names = [row["name"] for row in models]
    for row in models:
        if names.count(row["name"]) > 1:
            row["name"] = row["run"]
    calibration: dict[str, dict[str, Any]] = {}
    for row in found:
        if row["name"] in CALIBRATION:
            calibration.setdefault(row["name"], row)
    return [*models, *calibration.values()]


def _read(source: Path) -> list[dict[str, Any]]:
    comparison, run = source / "compare.json", RunDir(source)
    if comparison.is_file():
        return _checked(comparison, read_json(comparison))
    if run.evaluation_path.is_file():
        rows = _checked(run.evaluation_path, {"rows": read_json(run.evaluation_path)})
        return [{**rows[0], "run": str(source)}, *rows[1:]]
    if run.config_path.is_file():
        raise UsageError(f"{source} has not been scored; run: genkit evaluate {source}")
    raise UsageError(f"{source} is neither a run nor a folder of a comparison")


def _checked(path: Path, content: Any) -> list[dict[str, Any]]:
    """The rows in a file, if they are some; GenkitError otherwise."""
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise GenkitError(f"{path} holds no rows of scores")
    for row in rows:
        if not _is_row(row):
            raise GenkitError(f"{path} holds something else than rows of scores: {row!r:.80}")
    return rows


def _is_row(row: Any) -> bool:
    """Whether a row has what tables and rankings take for granted."""
    if not (isinstance(row, dict) and isinstance(row.get("name"), str)):
        return False
    card, scores = row.get("card"), row.get("scores") or {}
    numbers = isinstance(scores, dict) and all(isinstance(v, int | float) for v in scores.values())
    return numbers and (card is None or (isinstance(card, dict) and set(MATTERS) <= set(card)))
