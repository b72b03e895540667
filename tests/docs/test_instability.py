"""The script that draws the failing GANs of families.md draws what their logs hold."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("instability", DOCS / "instability.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_log(run: Path, rows: list[dict[str, object]]) -> Path:
    run.mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "metrics.jsonl").write_text(text, encoding="utf-8")
    return run


def test_curves_and_warnings_stand_where_the_log_says(script: ModuleType, tmp_path: Path) -> None:
    losses = {"generator/loss": 0.0, "discriminator/loss": 8.0}
    losses |= {"discriminator/real": 1.0, "discriminator/fake": 0.0}
    rows = [{"step": step, **losses} for step in (0, 50, 100)]
    looks = [{"step": step, "kid": 2.0, "diversity": 0.0} for step in (50, 100)]
    run = write_log(tmp_path / "run", [*rows, *looks, {"step": 25, "warning": "collapse"}])
    svg = script.draw_curves({"steady": run}, 100)
    lines = re.findall(r'<polyline points="([^"]+)"', svg)
    assert len(lines) == sum(len(lines) for _, lines, _ in script.PANELS)
    left, right, top = script.LEFT, script.LEFT + script.WIDTH, script.TOP
    assert f"{left:.1f},{top + 0.8 * script.HEIGHT:.1f}" in lines[0]  # 0 between -2 and 8
    assert lines[1].endswith(f"{right:.1f},{top:.1f}")  # 8 is the top
    assert svg.count(f"M{left + script.WIDTH / 4:.1f} ") == len(script.PANELS)
    _, warnings = script.read(run)
    assert warnings == [(25, "collapse")]


def test_thinned_curve_keeps_its_mean(script: ModuleType) -> None:
    curve = [(step, float(step % 7)) for step in range(1000)]
    points = list(script.thinned(curve))
    assert len(points) == 100
    assert sum(v for _, v in points) / 100 == pytest.approx(sum(v for _, v in curve) / 1000)
    assert list(script.thinned(curve[:5])) == curve[:5]


@pytest.mark.slow
def test_script_trains_and_draws(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "SHARED", "--preset quick --log-every 1 --grids 2 --seed 0")
    monkeypatch.setattr(script, "RUNS", {name: script.RUNS[name] for name in ("steady", "minimax")})
    monkeypatch.setattr(script, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["instability.py", "--work", str(tmp_path), "--steps", "4"])
    script.main()
    config = json.loads((tmp_path / "minimax" / "config.json").read_text(encoding="utf-8"))
    assert "minimax" in json.dumps(config) and "4steps" in json.dumps(config)
    assert (tmp_path / "instability.svg").read_text("utf-8").count("<polyline") == 12
    with Image.open(tmp_path / "instability.png") as picture:
        assert picture.size[1] == 20 + 2 * (2 + 30 * script.TILES + 8)
    assert capsys.readouterr().out == ""  # no warning in four steps
