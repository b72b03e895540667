"""Models whose samples have different numbers of levels are scored again at the fewest of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genkit.comparison.candidates import Candidate
from genkit.comparison.jobs import Jobs
from genkit.comparison.options import CompareOptions
from genkit.comparison.work import Work
from genkit.errors import GenkitError
from genkit.io.run_directory import RunDir
from genkit.report.rows import CALIBRATION, ScoreRow, write_evaluation

CARD = {"reference": "r", "features": "f-1", "reference_images": 9, "data_fingerprint": "aa"}
CARD |= {"quantisation": "uint8", "samples": 64, "metrics": {}}
LEVELS = ["--levels", "2", "--part", "levels"]


def row(name: str, levels: int) -> ScoreRow:
    card = {**CARD, "levels": levels}
    return ScoreRow.from_json({"name": name, "scores": {"kid": 0.4}, "card": card})


class Pool:
    """Notes what it is to evaluate, and finds a score at 2 levels."""

    ended = False

    def say(self, text: str) -> None:
        pass

    def __init__(self, fail: bool) -> None:
        self.fail = fail
        self.asked: list[list[str]] = []

    def run(self, command: list[str], title: str, part: str = "", aside: bool = False) -> None:
        self.asked.append(command)
        if self.fail:
            raise GenkitError("no memory")
        targets = command[1 : command.index("--alone")]
        names = [*targets, "real at 2 levels"] if targets[0] == "real" else targets
        rows = [ScoreRow(name=name, scores={"kid@2": 0.1}) for name in names]
        write_evaluation(Path(command[command.index("--json") + 1]), rows)


def scored(folder: Path, fail: bool = False) -> tuple[list[list[str]], Any]:
    rows = [row("vae", 256), row("pixelcnn", 2)]
    candidates = [Candidate(each.name, Path(each.name), each.name, 0) for each in rows]
    (folder / "vae.npz").touch()
    calibration = [ScoreRow(name=name, scores={"kid": 0.0}) for name in CALIBRATION]
    pool = Pool(fail)
    work = Work(pool, CompareOptions(), None, folder, folder)  # type: ignore[arg-type]
    with Jobs(2) as jobs:
        return pool.asked, work.at_levels(jobs, candidates, rows, calibration, 2)


def test_all_rows_and_the_calibration_are_scored_at_the_fewest_levels(tmp_path: Path) -> None:
    asked, (rows, calibration) = scored(tmp_path)
    assert all(words[words.index("--levels") :][:4] == LEVELS for words in asked)
    assert [each.name for each in rows] == ["vae", "pixelcnn"] and rows[0].card is not None
    assert all(each.scores["kid@2"] == 0.1 for each in [*rows, *calibration])
    assert all("kid" in each.scores for each in [*rows, *calibration[:-1]])
    assert calibration[-1].name == "real at 2 levels"


def test_samples_that_were_kept_are_not_drawn_again(tmp_path: Path) -> None:
    asked, _ = scored(tmp_path)
    targets = sorted(words[1 : words.index("--alone")] for words in asked)
    assert targets == sorted([[str(tmp_path / "vae.npz")], ["pixelcnn"], [*CALIBRATION]])


@pytest.mark.parametrize("ended", [False, True])
def test_a_row_without_the_likelihood_that_was_interrupted_is_not_kept(
    tmp_path: Path, ended: bool
) -> None:
    pool, candidate = Pool(fail=True), Candidate("vae", tmp_path / "vae", "vae", 0, continued=True)
    pool.ended = ended
    work = Work(pool, CompareOptions(), None, tmp_path, tmp_path)  # type: ignore[arg-type]
    candidate.run.mkdir()
    with Jobs(1) as jobs:
        trained = jobs.train(lambda: None)
        scores = jobs.add(lambda: row("vae", 256))
        likelihood = jobs.add(lambda: work.measure_likelihood(candidate, trained), trained)
        whole = jobs.add(lambda: work.join(candidate, scores, likelihood), scores, likelihood)
        found = whole.result()
    assert (found.error == "no memory") == ended
    assert (found.problems == ("likelihood: no memory",)) == (not ended)
    assert RunDir(candidate.run).evaluation_path.exists() == (not ended)


def test_a_failure_leaves_the_scores_that_were_there_and_is_noted(tmp_path: Path) -> None:
    _, (rows, calibration) = scored(tmp_path, fail=True)
    assert rows[0].scores == {"kid": 0.4} and rows[0].problems == ("no memory",)
    assert [each.name for each in calibration] == [*CALIBRATION]
