"""The benchmarks: how they measure and judge, and that each of them runs."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from burning import burn, burn_now_and_then
from recorders import OperationRecorder
from toys import CPU

BENCH = Path(__file__).parent / "bench"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


timing = load("timing")
sys.path.insert(0, str(BENCH))
run = load("run")
sys.path.remove(str(BENCH))


def figure(value, must, aim):
    return timing.Figure("f", cpu=timing.Spread(value, value, value), must=must, aim=aim)


def test_variants_take_turns_and_warm_rounds_do_not_count():
    order = []
    turns = timing.interleave(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warm=2
    )
    assert order == ["a", "b"] * 5
    assert [len(found) for found in turns.values()] == [3, 3]


def test_cpu_time_is_of_work_and_wall_time_of_waiting_too():
    turn = timing.timed(lambda: (burn(0.1), time.sleep(0.2)))
    assert 0.1 <= turn.cpu < turn.wall
    assert turn.wall >= 0.2


def test_cpu_time_of_a_worker_that_lives_on_counts():
    ours, theirs = multiprocessing.Pipe()
    worker = multiprocessing.get_context("spawn").Process(target=burn_now_and_then, args=(theirs,))
    worker.start()
    turn = timing.timed(lambda: (ours.send("go"), ours.recv()))
    ours.send("end")
    worker.join(30)
    assert worker.exitcode == 0
    assert turn.cpu >= 0.2  # this process only waited


def test_cpu_time_of_a_process_that_has_ended_counts():
    work = "import time\nwhile time.process_time() < 0.2: pass"
    turn = timing.timed(lambda: subprocess.run([sys.executable, "-c", work], check=True))
    assert turn.cpu >= 0.2


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    pairs = [(2.0, 1.0), (30.0, 10.0), (8.0, 2.0)]  # ratios 2, 3, 4; of the medians: 8 / 2
    turns = {"slow": [timing.Turn(a, 2 * a) for a, _ in pairs]}
    turns["fast"] = [timing.Turn(b, b) for _, b in pairs]
    found = timing.compare("f", turns, "slow", "fast")
    assert found.cpu == (3.0, 2.5, 3.5)
    assert found.wall == (6.0, 5.0, 7.0)


@pytest.mark.parametrize(
    ("value", "must", "aim", "verdict"),
    [
        (1.9, 2, 5, "missed"),
        (2.0, 2, 5, "must"),
        (5.0, 2, 5, "aim"),
        (0.21, 0.2, 0.1, "missed"),
        (0.15, 0.2, 0.1, "must"),
        (0.1, 0.2, 0.1, "aim"),
        (1.0, None, None, ""),
    ],
)
def test_targets_are_judged_towards_the_aim(value, must, aim, verdict):
    assert figure(value, must, aim).verdict == verdict


def test_figures_survive_json():
    figures = [figure(2.5, 2, 5), timing.Figure("g", note="skipped: nothing here")]
    text = json.dumps(timing.as_json(figures, quick=True))
    assert timing.from_json(json.loads(text)["figures"]) == figures


def test_table_has_a_line_for_each_figure_and_says_what_missed():
    table = timing.as_markdown([figure(1.5, 2, 5), timing.Figure("g", note="skipped: no g")])
    heading, rule, missed, skipped = table.splitlines()
    assert {line.count("|") for line in (heading, rule, missed, skipped)} == {7}
    assert "*missed*" in missed and "skipped: no g" in skipped


def test_peak_of_a_process_does_not_begin_with_its_parents():
    ballast = bytearray(os.urandom(1 << 20) * 200)
    peak = timing.run_process(["-c", "pass"]).peak_bytes
    assert 1e6 < peak < 100e6 < len(ballast)


def test_failing_process_says_what_it_said():
    with pytest.raises(RuntimeError, match="too bad"):
        timing.run_process(["-c", "raise SystemExit('too bad')"])


@pytest.mark.parametrize("path", sorted(BENCH.glob("*.py")), ids=lambda path: path.stem)
def test_bench_parses_and_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_without_a_gpu_its_bench_says_so_in_a_sentence():
    done = subprocess.run(
        [sys.executable, str(BENCH / "gpu.py")],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("This machine has no GPU")


def test_what_is_measured_on_a_gpu_can_be_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    gpu = load("gpu")
    ratio, *shares = gpu.measure_training("vae", 4, "fp32", CPU, OperationRecorder(), 1)
    assert "operations to graph" in ratio.name and "images/s" in ratio.note
    assert len(shares) == 2 and all(share.wall.median > 0 for share in shares)
    (drawn,) = gpu.measure_sampling("dcgan", CPU, (64,))
    assert "images/s" in drawn.note


def test_every_script_that_gives_figures_is_run():
    given = {p.stem for p in BENCH.glob("*.py") if "-> list[Figure]:" in p.read_text()}
    assert set(run.benches()) == given - {"timing", "run", "gpu"}  # the last one needs a GPU
    assert len(given) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loop_overhead"])  # the others take minutes
def test_bench_runs_at_its_smallest_size(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(BENCH / "run.py"), name, "--quick", "--json", str(tmp_path / "f")],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    figures = timing.from_json(json.loads((tmp_path / "f").read_text())["figures"])
    assert figures
    for found in figures:
        assert found.value or found.note.startswith("skipped"), found
        assert not found.value or all(map(math.isfinite, found.value))
