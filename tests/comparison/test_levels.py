"""Models whose samples have different numbers of levels are scored again at the fewest of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from genkit.comparison import work as module
from genkit.comparison.candidates import Candidate
from genkit.comparison.options import CompareOptions
from genkit.errors import GenkitError
from genkit.report.rows import ScoreRow

CARD = {"reference": "r", "features": "f-1", "reference_images": 9, "data_fingerprint": "aa"}
CARD |= {"quantisation": "uint8", "samples": 64, "metrics": {}}


def row(name: str, levels: int) -> ScoreRow:
    card = {**CARD, "levels": levels}
    return ScoreRow.from_json({"name": name, "scores": {"kid": 0.4}, "card": card})


def scored(monkeypatch: pytest.MonkeyPatch, levels: tuple[int, int], fail: bool = False) -> Any:
    asked = []

    def score(processes: Any, targets: list[str], title: str, options: Any, more: Any) -> Any:
        asked.append((targets, list(more[:2])))
        if fail:
            raise GenkitError("no memory")
        names = [*targets, "real at 2 levels"] if targets[0] == "real" else ["model"]
        return [ScoreRow(name=name, scores={"kid": 0.4, "kid@2": 0.1}) for name in names]

    monkeypatch.setattr(module, "_score", score)
    rows = [row("vae", levels[0]), row("pixelcnn", levels[1])]
    candidates = [Candidate(each.name, Path(each.name), each.name, 0) for each in rows]
    calibration = [ScoreRow(name="real", scores={"kid": 0.0})]
    with ThreadPoolExecutor(2) as threads:
        found = module._at_fewest_levels(
            None, threads, candidates, CompareOptions(), rows, calibration
        )
    return asked, found


def test_all_rows_and_the_calibration_are_scored_at_the_fewest_levels(monkeypatch) -> None:
    asked, (rows, calibration) = scored(monkeypatch, (256, 2))
    assert sorted(targets for targets, _ in asked) == [
        ["pixelcnn"],
        ["real", "copy", "noise"],
        ["vae"],
    ]
    assert all(more == ["--levels", "2"] for _, more in asked)
    assert [each.name for each in rows] == ["vae", "pixelcnn"] and rows[0].card is not None
    assert all(each.scores["kid@2"] == 0.1 for each in [*rows, *calibration])
    assert calibration[-1].name == "real at 2 levels"


def test_samples_of_equal_levels_are_not_scored_again(monkeypatch) -> None:
    asked, (rows, _) = scored(monkeypatch, (256, 256))
    assert asked == [] and "kid@2" not in rows[0].scores


def test_a_failure_leaves_the_scores_that_were_there_and_is_noted(monkeypatch) -> None:
    _, (rows, calibration) = scored(monkeypatch, (256, 2), fail=True)
    assert rows[0].scores == {"kid": 0.4} and rows[0].problems == ("no memory",)
    assert [each.name for each in calibration] == ["real"]
