"""How trainings ended: what counts as a failure, and the interval of its probability."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy.stats import binomtest

from genkit.comparison.work import UNSCORED
from genkit.report.rows import ScoreRow
from genkit.study.outcomes import outcome_of, wilson


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (57, 100)])
def test_interval_is_scipys_wilson_interval(count: int, of: int) -> None:
    wanted = binomtest(count, of).proportion_ci(0.95, method="wilson")
    assert wilson(count, of) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_without_trainings_nothing_is_known() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def write_run(folder: Path, name: str, *rows: dict[str, object]) -> str:
    (folder / name).mkdir()
    (folder / name / "config.json").write_text("{}")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name / "metrics.jsonl").write_text(text)
    return str(folder / name)


def test_warnings_and_errors_are_failures_and_interrupted_trainings_are_not_counted(
    tmp_path: Path,
) -> None:
    calm = write_run(tmp_path, "calm", {"step": 1, "kid": 0.5})
    twice = [{"step": 20, "warning": "alike"}, {"step": 30, "warning": "wins"}]
    warned = write_run(tmp_path, "warned", *twice)
    broken = write_run(tmp_path, "broken", {"step": 1, "kid": 0.5})
    left = write_run(tmp_path, "left", {"step": 5, "warning": "alike"})
    outcome = outcome_of(
        "a",
        [
            ScoreRow(name="a", run=calm),
            ScoreRow(name="a", run=warned),
            ScoreRow(name="a", run=broken, error="a loss is not finite"),
            ScoreRow(name="a", run=left, error=UNSCORED),
        ],
        tmp_path,
    )
    assert outcome.rate == "2 of 3" and outcome.interval == wilson(2, 3)
    assert outcome.warnings == ("step 20: alike", "failed: a loss is not finite")
    assert outcome_of("a", [], tmp_path).rate == "-"
