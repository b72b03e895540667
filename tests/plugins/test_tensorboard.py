"""What TensorBoard reads of a run is what metrics.jsonl and samples/ hold, also after a resume."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import CommandLines

import genkit
from genkit.io.run_directory import RunDir
from genkit_tensorboard import SWITCH

torch.set_num_threads(1)

TINY = {"preset": "quick", "width": 4, "hidden": 8, "latent": 2, "batch_size": 8}
QUIET = {"log_every": 3, "grids": 4, "watch": 16, "progress": "none", "checkpoint_seconds": 1e-6}
UNDRAWN = {"step", "images", "seconds", "warning"}  # they say when, or are text


def read(run: Path) -> Any:
    """A run's events, by TensorBoard's own reader."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sizes = {"scalars": 0, "images": 0, "tensors": 0}
    events = reader.EventAccumulator(str(run / "tensorboard"), size_guidance=sizes)
    return events.Reload()


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What the curves must be, from the log."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in RunDir(run).read_metrics():
        for name, value in row.items():
            if name not in UNDRAWN:
                found.setdefault(name, []).append((row["step"], value))
    return found


def check_equal(run: Path) -> None:
    events, expected = read(run), curves(run)
    assert set(events.Tags()["scalars"]) == set(expected)
    for name, points in expected.items():
        drawn = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in drawn] == [step for step, _ in points], name
        assert [v for _, v in drawn] == pytest.approx([v for _, v in points], rel=1e-6)
    for tag, prefix in (("samples", "step"), ("reconstructions", "reconstructions")):
        paths = sorted((run / "samples").glob(f"{prefix}-*.png"))
        shown = [(event.step, event.encoded_image_string) for event in events.Images(tag)]
        assert shown == [(int(path.stem[-9:]), path.read_bytes()) for path in paths]
        assert len(paths) >= 3


@pytest.fixture
def switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of nine steps that TensorBoard was not asked to see."""
    run = tmp_path_factory.mktemp("runs") / "vae"
    genkit.train("vae", run_dir=run, budget="9steps", **TINY, **QUIET)
    return run


def test_without_the_switch_nothing_is_written(untracked: Path) -> None:
    assert not (untracked / "tensorboard").exists()
    assert len(curves(untracked)["elbo/loss"]) == 3


def test_events_are_the_log_and_the_grids(switched_on: None, tmp_path: Path) -> None:
    run = tmp_path / "run"
    genkit.train("vae", run_dir=run, budget="9steps", **TINY, **QUIET)
    expected = curves(run)
    assert len(expected["elbo/loss"]) == 3 and {"kid", "diversity"} <= set(expected)
    check_equal(run)
    times = [event.wall_time for event in read(run).Scalars("elbo/loss")]
    seconds = [row["seconds"] for row in RunDir(run).read_metrics() if "elbo/loss" in row]
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps == pytest.approx([b - a for a, b in pairwise(seconds)], abs=1e-4)


def test_run_that_goes_on_has_its_whole_history_and_no_point_twice(
    switched_on: None, untracked: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(untracked, tmp_path / "run")
    genkit.resume(run, budget="15steps", progress="none")  # not tracked up to step 9
    check_equal(run)
    watching = read(run)
    genkit.resume(run, budget="21steps", progress="none")
    assert [step for step, _ in curves(run)["elbo/loss"]] == [3, 6, 9, 12, 15, 18, 21]
    check_equal(run)
    sizes = sorted(path.stat().st_size for path in (run / "tensorboard").iterdir())
    assert sizes[0] == 0 < sizes[1] and len(sizes) == 2
    steps = [event.step for event in watching.Reload().Scalars("elbo/loss")]
    assert steps == [3, 6, 9, 12, 15, 18, 21]  # also in a TensorBoard that was open all the time


def test_lines_after_the_checkpoint_are_drawn_once(
    switched_on: None, untracked: Path, tmp_path: Path
) -> None:
    """As after a kill: events, log and grids run ahead of the newest checkpoint."""
    run = shutil.copytree(untracked, tmp_path / "run")
    genkit.resume(run, budget="15steps", progress="none")
    for path in (run / "checkpoints").glob("step-*15.*"):
        path.unlink()
    left = max(int(path.stem[5:]) for path in (run / "checkpoints").glob("step-*.safetensors"))
    assert left < 15
    (run / "samples" / "step-000000999.png").write_bytes(
        (run / "samples/step-000000000.png").read_bytes()
    )
    genkit.resume(run, progress="none")
    (run / "samples" / "step-000000999.png").unlink()
    check_equal(run)


def test_run_with_nothing_left_to_train_gets_its_events_all_the_same(
    switched_on: None, untracked: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(untracked, tmp_path / "run")
    genkit.resume(run, progress="none")
    check_equal(run)


def test_events_that_cannot_be_written_cost_no_training(
    switched_on: None, untracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(untracked, tmp_path / "run")
    (run / "tensorboard").write_text("a file in the place of the folder")
    genkit.resume(run, budget="12steps", progress="lines")
    error = capsys.readouterr().err
    assert error.count("plugin tensorboard failed in on_") == 1 and "is muted" in error
    assert [step for step, _ in curves(run)["elbo/loss"]] == [3, 6, 9, 12]


@pytest.mark.slow
def test_missing_package_is_told_and_training_goes_on(
    untracked: Path, tmp_path: Path, command_lines: CommandLines
) -> None:
    run = shutil.copytree(untracked, tmp_path / "run")
    hidden = tmp_path / "site"
    hidden.mkdir()
    (hidden / "tensorboard.py").write_text("raise ModuleNotFoundError('gone', name='tensorboard')")
    (answer,) = command_lines(
        f"resume {run} --budget 12steps", site=hidden, variables=[{SWITCH: "1"}]
    )
    assert answer.code == 0
    assert "tensorboard is missing: pip install 'torch-genkit[tensorboard]'" in answer.err


def test_entry_module_imports_no_tensorboard() -> None:
    code = "import sys, genkit_tensorboard; sys.exit('tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
