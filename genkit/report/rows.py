"""Stored scores: read again from runs and from comparisons, whoever made them and when. Light."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genkit.errors import GenkitError, UsageError
from genkit.io.files import read_json
from genkit.io.run_directory import RunDir
from genkit.report.protocol_card import MATTERS, differences
from genkit.report.ranking import CALIBRATION


def read_rows(sources: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of runs and of folders of comparisons, the models' first.

    Of each calibration row there is one: that whose protocol differs least from the models', and
    of equals the first. A name that is there twice becomes a path.

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
    cards = {row["run"]: row["card"] for row in models if row.get("card")}

    def strangeness(row: dict[str, Any]) -> float:
        card = row.get("card")
        return len(differences({"row": card, **cards})) if card else math.inf

    calibration: dict[str, dict[str, Any]] = {}
    for row in sorted(found, key=strangeness):
        if row["name"] in CALIBRATION:
            calibration.setdefault(row["name"], row)
    return [*models, *(calibration[name] for name in CALIBRATION if name in calibration)]


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


Types = tuple[type, ...]
NUMBER: Types = (int, float)
TEXT: Types = (str,)
# What tables and rankings take for granted of a row: of each entry its types, if it is there.
COUNTS = dict.fromkeys(("parameters", "images", "seconds", "train_rate", "sample_rate"), NUMBER)
LIKELIHOOD = dict.fromkeys(("nats", "bits_per_dimension", "images"), NUMBER)
LIKELIHOOD |= {"kind": TEXT, "of": TEXT}
CARD = {"samples": NUMBER, "reference_images": NUMBER}
NAMES = {"features": TEXT, "reference": TEXT}  # of a card; without features there are none


def _is_row(row: Any) -> bool:
    """Whether a row has what tables and rankings take for granted."""
    if not (isinstance(row, dict) and isinstance(row.get("name"), str)):
        return False
    card, found = row.get("card"), row.get("likelihood")
    if not (_numbers(row.get("scores")) and _numbers(row.get("deviations"))):
        return False
    if not (_numbers(row.get("memorisation")) and _fits(row, COUNTS, optional=True)):
        return False
    if found is not None and not (isinstance(found, dict) and _fits(found, LIKELIHOOD)):
        return False
    if found and not _fits(found, {"deviation": NUMBER, "draws": NUMBER}, optional=True):
        return False
    run, whole = row.get("run"), isinstance(card, dict) and MATTERS.keys() <= card.keys()
    if card is not None and not (whole and _fits(card, CARD) and _fits(card, NAMES, True)):
        return False
    return run is None or isinstance(run, str)


def _fits(table: dict[str, Any], types: Mapping[str, Types], optional: bool = False) -> bool:
    """Whether entries have these types; None and missing ones pass if they are optional."""
    return all(
        (optional and table.get(key) is None)
        or (isinstance(table.get(key), kinds) and not _is_huge(table[key]))
        for key, kinds in types.items()
    )


def _numbers(table: Any) -> bool:
    """Whether it is None or a table of numbers, some of them None."""
    if table is None:
        return True
    return isinstance(table, dict) and _fits(table, dict.fromkeys(table, NUMBER), optional=True)


def _is_huge(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > 10**18
