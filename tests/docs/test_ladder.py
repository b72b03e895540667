"""The script that draws nats against epochs draws what a run's files hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ladder  # of docs/, which pytest's configuration puts on the path
import pytest


def write_run(run: Path, nats: list[float], images: int) -> Path:
    """A run of 1,000 training images that logs every so many images."""
    run.mkdir()
    (run / "config.json").write_text('{"data": {"train_images": 1000}}', encoding="utf-8")
    rows = [{"images": images * (i + 1), "nll/nats": n} for i, n in enumerate(nats)]
    lines = [json.dumps(row) for row in [*rows, {"images": 1, "warning": "none"}]]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


def test_points_are_means_over_a_quarter_of_an_epoch(tmp_path: Path) -> None:
    found = ladder.read(
        write_run(tmp_path / "run", [80.0, 75.0, 70.0, 66.0, 65.0, 64.0, 60.0, 50.0], 100)
    )
    assert found.curve == [(0.3, 75.0), (0.6, 65.0), (0.8, 55.0)] and found.test is None


def test_score_of_test_images_stands_where_its_weights_do(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [70.0] * 40, 100)
    rows = [{"name": "real"}, {"images": 4000, "likelihood": {"nats": -62.5}}]
    (run / "evaluation.json").write_text(json.dumps(rows), encoding="utf-8")
    found = ladder.read(run)
    assert found.test == (4.0, 62.5)
    svg = ladder.draw([found])
    x, y = ladder.EPOCHS.place((4.0, 62.5))
    assert f'cx="{x:.1f}" cy="{y:.1f}"' in svg
    assert len(re.findall("<polyline", svg)) == 2
    assert len(re.findall("<circle", svg)) == len(ladder.PUBLISHED) + 1


def test_bounds_stand_over_minutes_beside_the_published_levels(tmp_path: Path) -> None:
    run = write_run(tmp_path / "vae", [], 1)
    rows = [
        {"seconds": 90.0 * i, "elbo/reconstruction_nats": 60.0, "elbo/kl_nats": 30.0 - i}
        for i in range(1, 5)
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    row = {"name": "vae", "seconds": 360.0, "likelihood": {"nats": -87.0}}
    (run / "evaluation.json").write_text(json.dumps([row]), encoding="utf-8")
    found = ladder.read(run, ladder.MINUTES)
    assert found.curve == [(3.0, 88.5), (6.0, 86.5)] and found.test == (6.0, 87.0)
    svg = ladder.draw([found], ladder.MINUTES)
    x, y = ladder.MINUTES.place((6.0, 87.0))
    assert f'cx="{x:.1f}" cy="{y:.1f}"' in svg and x == ladder.LEFT + ladder.WIDTH / 10
    assert all(what in svg for what in ladder.LEVELS.values())
    assert len(re.findall("<polyline", svg)) == 1


def test_published_curve_passes_through_its_points() -> None:
    for epochs, nats in ladder.PUBLISHED:
        assert ladder.published(epochs) == pytest.approx(nats)
    assert 62.2 < ladder.published(2) < 68.67
    assert ladder.published(0.5) is None and ladder.published(200) is None
