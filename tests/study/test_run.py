"""The machinery of a study: what is trained, what is kept, what a second run of it does."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image
from rich.console import Console
from toys import registry

from genkit.comparison import compare as comparison
from genkit.errors import GenkitError, UsageError
from genkit.io.run_directory import RunDir
from genkit.report.data_facts import DataFacts
from genkit.report.rows import CALIBRATION, ScoreRow, Span, read_comparison, write_evaluation
from genkit.study import run as study_run
from genkit.study.file import Case, StudyFile
from genkit.study.page import PAGE
from genkit.study.run import StudyOptions, run_study
from genkit.study.table import print_study, to_markdown

STUDY = StudyFile(
    title="What is <fast>?",
    text="First.\n\nSecond.",
    model="dcgan",
    data="mnist-mini",
    budget="10steps",
    seeds=2,
    score="kid",
    curves=("kid", "generator/loss"),
    reference="calm",
    cases=(
        Case(label="calm"),
        Case(label="fast", text="Too fast.", options={"generator_rate": 0.01}),
        Case(label="fast + SN", cures="fast", options={"spectral_norm": True}),
    ),
)
FACTS = DataFacts(
    device="cpu",
    devices=(),
    shape="1 x 28 x 28",
    train_images=10_000,
    features="digits",
    notes=(),
)


class Pool:
    """In place of the processes: each command writes what it would leave behind."""

    commands: ClassVar[list[list[str]]]
    stopped = False
    stop_at = ""  # title of the training at which the user presses Ctrl-C
    break_at = ""
    ended = False

    def __init__(self, *arguments: object) -> None:
        self.said: list[str] = []
        self.timeline: list[Span] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def expect(self, titles: list[str]) -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)

    def end(self) -> None:
        self.ended = True

    def run(self, command: list[str], title: str, part: str = "", aside: bool = False) -> None:
        if type(self).stopped:
            raise GenkitError("the comparison was ended")
        if part == "training":
            type(self).commands.append(command)
            self.train(command, title)
        elif title in command[1] or "-s" in title:
            row = ScoreRow(name="dcgan", run=command[1], scores={"kid": len(title) / 100})
            write_evaluation(Path(command[command.index("--json") + 1]), [row])
        else:
            rows = [ScoreRow(name=name, scores={"kid": 0.0}) for name in CALIBRATION]
            write_evaluation(Path(command[-1]), rows)

    def train(self, command: list[str], title: str) -> None:
        path = Path(command[1] if command[0] == "resume" else command[-1])
        if command[0] == "train":
            path = Path(command[command.index("--run-dir") + 1])
            run = RunDir.create(path)
            run.config_path.write_text(json.dumps({"model": "dcgan"}))
        values = {"kid": 0.5, "generator/loss": 1.0}
        rows: list[dict[str, Any]] = [{"step": step, **values} for step in (5, 10)]
        if re.fullmatch(r"fast-s\d", title):
            rows.append({"step": 7, "warning": "alike; try --spectral-norm <now>"})
        if title == type(self).stop_at:
            type(self).stopped = True
            raise KeyboardInterrupt
        if title == type(self).break_at:
            raise GenkitError("a loss is not finite")
        RunDir(path).append_metrics(rows)
        Image.new("L", (28 * 2 + 6, 28 * 2 + 6)).save(RunDir(path).grid_path(10))


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Pool]:
    class Fresh(Pool):
        commands: ClassVar[list[list[str]]] = []

    picture = io.BytesIO()
    Image.new("L", (62, 62)).save(picture, "PNG")
    monkeypatch.setattr(comparison, "ProcessPool", Fresh)
    monkeypatch.setattr(comparison, "refresh_page", lambda folder, registry: None)
    monkeypatch.setattr(
        study_run, "look_at_data", lambda options, server: (FACTS, picture.getvalue())
    )
    return Fresh


def go(out: Path, study: StudyFile = STUDY, **chosen: Any) -> str:
    """Run the study and return what it said."""
    console = Console(file=io.StringIO(), width=300)
    options = StudyOptions(workers=1, **chosen)
    run_study("mine", study, options, registry(), out, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def titles(pool: type[Pool]) -> list[str]:
    return [
        f"{c[0]} {Path(c[1] if c[0] == 'resume' else c[c.index('--run-dir') + 1]).name}"
        for c in pool.commands
    ]


def test_each_case_is_trained_with_each_seed_first_all_cases_with_the_first(
    pool: type[Pool], tmp_path: Path
) -> None:
    go(tmp_path / "out", threads=2)
    names = ("calm", "fast", "fast-sn")
    assert titles(pool) == [f"train {name}-s{seed}" for seed in (0, 1) for name in names]
    words = " ".join(pool.commands[-1])
    for part in (
        "train dcgan --data mnist-mini --preset quick --budget 10steps --seed 1",
        "--threads 2 --log-every 50",
        "--generator-rate=0.01 --spectral-norm",
    ):
        assert part in words
    record = read_comparison(tmp_path / "out")
    assert record and {row.name: row.trainings for row in record.rows if row.run} == {
        "calm": 2,
        "fast": 2,
        "fast + SN": 2,
    }


def test_interrupted_study_is_continued_by_the_same_command(
    pool: type[Pool], tmp_path: Path
) -> None:
    pool.stop_at = "fast-s0"
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "out")
    assert titles(pool) == ["train calm-s0", "train fast-s0"]
    assert "1 of 1" not in (tmp_path / "out" / PAGE).read_text()  # fast has no ended training
    pool.commands.clear()
    pool.stop_at, pool.stopped = "", False
    # What a kill leaves of a training that had recorded nothing yet.
    (tmp_path / "out" / "fast-sn-s0" / "samples").mkdir(parents=True)
    assert "Continuing the study" in go(tmp_path / "out")
    assert titles(pool) == [
        "resume fast-s0",
        *("train fast-sn-s0", "train calm-s1", "train fast-s1", "train fast-sn-s1"),
    ]
    pool.commands.clear()
    go(tmp_path / "out", seeds=3)  # more seeds: the others are not run again
    assert titles(pool) == [f"train {name}-s2" for name in ("calm", "fast", "fast-sn")]
    record = read_comparison(tmp_path / "out")
    assert record and not any(row.error for row in record.trainings)
    assert len(record.trainings) == 9


def test_folder_of_other_settings_or_of_something_else_is_refused(
    pool: type[Pool], tmp_path: Path
) -> None:
    go(tmp_path / "out", seeds=1)
    with pytest.raises(UsageError, match=r"other settings \(calm-s0: .*10steps.*; now: .*9steps"):
        go(tmp_path / "out", budget="9steps")
    more = STUDY.model_copy(update={"samples": 50})
    with pytest.raises(UsageError, match=r"other settings \(scores: 2000 samples.*now: 50"):
        go(tmp_path / "out", more)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(UsageError, match="exists and holds no study"):
        go(tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"generator_rat": 1}, "case 'x': dcgan has no option 'generator_rat'"),
        ({"latent": 0}, "case 'x': --latent: "),
        ({"budget": "1s"}, "case 'x': dcgan has no option 'budget'"),
    ],
)
def test_option_that_the_model_refuses_is_named_with_its_case(
    pool: type[Pool], tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    study = STUDY.model_copy(update={"cases": (Case(label="x", options=options),)})
    with pytest.raises(UsageError, match=complaint):
        go(tmp_path / "out", study)
    assert not (tmp_path / "out").exists() and not pool.commands


def test_score_that_is_none_is_named(pool: type[Pool], tmp_path: Path) -> None:
    study = STUDY.model_copy(update={"score": "kit"})
    with pytest.raises(UsageError, match="study mine: score 'kit' is not a score that ranks"):
        go(tmp_path / "out", study)


def test_page_has_text_failure_with_its_cure_counts_curves_and_pictures(
    pool: type[Pool], tmp_path: Path
) -> None:
    pool.break_at = "fast-sn-s1"
    go(tmp_path / "out")
    page = (tmp_path / "out" / PAGE).read_text(encoding="utf-8")
    assert "What is &lt;fast&gt;?</h1>" in page and ">First.</p>" in page and ">Second.</p>" in page
    lead, _, rest = page.partition('<section id="scores"')
    assert rest and lead.index('id="case-fast"') < lead.index('id="case-fast-sn"')
    assert 'cured by <a href="#case-fast-sn">fast + SN</a>' in lead
    assert 'cures <a href="#case-fast">fast</a>' in lead
    assert ">2 of 2</td>" in lead and ">1 of 2</td>" in lead and ">0 of 2</td>" in lead
    assert "alike; try --spectral-norm &lt;now&gt;" in lead
    assert "--generator-rate 0.01 --spectral-norm" in lead
    assert lead.count('<figure class="chart">') == 4  # two curves for each of two groups
    assert 'data-name="calm"' in lead  # the reference beside the failure
    assert lead.count("data:image/") >= 3
    assert "http" not in lead.partition("<main")[2]


def test_table_lists_each_failure_above_its_cures(pool: type[Pool], tmp_path: Path) -> None:
    go(tmp_path / "out")
    console = Console(file=io.StringIO(), width=200)
    print_study(STUDY, tmp_path / "out", console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0].split()[:3] == ["case", "options", "failed"]
    found = [line.split() for line in lines if " of 2" in line]
    assert [line[0] for line in found] == ["fast", "fast", "calm"]
    assert "2 of 2" in " ".join(found[0]) and "step 7" in " ".join(found[0])
    assert "34% to 100%" in " ".join(found[0]) and "0% to 66%" in " ".join(found[1])
    markdown = to_markdown(STUDY, tmp_path / "out").splitlines()
    assert markdown[2].startswith("| **fast** | `--generator-rate 0.01` | 2 of 2 | 34% to 100% |")
    assert markdown[3].startswith("| - fast + SN | `--generator-rate 0.01 --spectral-norm` |")
