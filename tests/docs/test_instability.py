"""The script that writes instability.md's table and pictures shows what a study has found."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from genkit.report.rows import COMPARISON, ComparisonRecord, ScoreRow
from genkit.study.file import Case, StudyFile

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(DOCS))
    spec = importlib.util.spec_from_file_location("instability", DOCS / "instability.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_shows_table_curves_warnings_and_samples(script: ModuleType, tmp_path: Path) -> None:
    study = StudyFile(
        title="t",
        model="dcgan",
        budget="10steps",
        curves=("kid", "diversity"),
        cases=(
            Case(label="fast", options={"generator_rate": 0.01}),
            Case(label="cured", cures="fast", options={"r1": 1.0}),
        ),
    )
    rows = []
    for case, shade in zip(study.cases, (255, 0), strict=True):
        run = tmp_path / case.slug
        (run / "samples").mkdir(parents=True)
        lines = [{"step": s, "kid": 0.5 + s, "diversity": 1.0} for s in (5, 10)]
        more = [] if case.cures else [{"step": 7, "warning": "alike; try --r1 1"}]
        (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (*lines, *more)))
        Image.new("L", (242, 242), shade).save(run / "samples" / "step-000000010.png")
        rows.append(ScoreRow(name=case.label, run=str(run)))
    ComparisonRecord(rows=tuple(rows), trainings=tuple(rows)).write(tmp_path / COMPARISON)
    blank = "".join(f"<!-- made: {n} -->\n<!-- end: {n} -->\n" for n in ("table", "warnings"))
    (tmp_path / "instability.md").write_text(blank)
    script.write(study, tmp_path, tmp_path)
    page = (tmp_path / "instability.md").read_text()
    assert "| **fast** | `--generator-rate 0.01` | 1 of 1 |" in page
    assert "- **fast**, step 7: alike; try --r1 1" in page and "**cured**, " not in page
    svg = (tmp_path / "instability.svg").read_text()
    assert len(re.findall(r'stroke-width="1.6"', svg)) == 4 and ">cured</text>" in svg
    with Image.open(tmp_path / "instability.png") as picture:
        side = 2 + script.TILES * 30
        assert picture.getpixel((5, script.LINE + 5)) == 255
        assert picture.getpixel((side + 13, script.LINE + 5)) == 0
