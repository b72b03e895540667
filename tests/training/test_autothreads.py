"""`--threads auto` and `--compile`: what is chosen, what is recorded, and that results stay."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toys import TINY, child_environment, make_loop, registry, same_bits, train_tiny, write_npz

from genkit.cli import main
from genkit.compute.device import cpu_threads
from genkit.config.resolve import resolve
from genkit.config.run import RunConfig
from genkit.io.run_directory import RunDir
from genkit.runs.build import build_model
from genkit.runs.checkpoint import load_state
from genkit.specs import ImageShape
from genkit.training import autothreads as threads
from genkit.training.loop import Loop
from genkit.training.resume import resume


class Clock:
    """Stands still but where a test makes time pass, so that no other work is timed."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What tells the time to those who choose threads and precisions."""
    clock = Clock()
    monkeypatch.setattr(threads, "time", clock)
    return clock


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_npz(tmp_path / "data.npz")


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 0.02, 2: 0.01, 4: 0.005}, 4),
        ({1: 0.02, 2: 0.01, 4: 0.03}, 2),
        ({1: 0.01, 2: 0.2, 4: 0.2}, 1),  # two threads on a busy core
        ({1: 0.02, 2: 0.0195, 4: 0.0195}, 1),  # not worth a second core
        ({1: 0.02, 2: 0.012, 3: 0.006}, 3),
    ],
)
def test_the_fastest_number_of_threads_is_chosen(
    clock: Clock, seconds: dict[int, float], chosen: int
) -> None:
    def iterate() -> None:
        clock.now += seconds[torch.get_num_threads()]

    with cpu_threads(1):
        assert threads.choose_threads(iterate, max(seconds)) == chosen
        assert torch.get_num_threads() == 1


def test_slow_iterations_are_timed_once_and_a_single_core_not_at_all(clock: Clock) -> None:
    done: list[int] = []

    def iterate() -> None:
        done.append(torch.get_num_threads())
        clock.now += threads.ENOUGH_SECONDS

    with cpu_threads(1):
        threads.choose_threads(iterate, 2)
        assert done == [1, 1, 2]
        assert threads.choose_threads(iterate, 1) == 1
    assert len(done) == 3


def test_auto_is_recorded_as_a_number_and_the_timing_changes_no_bit(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "choose_threads", lambda iterate, most: (iterate(), 2)[1])
    auto = train_tiny("dcgan", data, tmp_path / "auto", budget="4steps", threads="auto")
    config = json.loads((auto.path / "config.json").read_text())
    assert config["run"]["threads"] == 2
    given = train_tiny("dcgan", data, tmp_path / "given", budget="4steps", threads=2)
    states = [load_state(run.path / "checkpoints")[0]["loop"] for run in (auto, given)]
    assert same_bits(*states)
    monkeypatch.setattr(threads, "choose_threads", lambda iterate, most: 1)
    resume(auto.path, registry(), budget="5steps", threads="auto")
    assert json.loads((auto.path / "config.json").read_text())["run"]["threads"] == 1


@pytest.mark.parametrize(("name", "factor"), [("fp32", 3.0), ("bf16", 1 / 3), ("fp32", 0.99)])
def test_auto_precision_is_the_one_that_is_faster_here(
    tmp_path: Path,
    data: str,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    factor: float,
) -> None:
    """bf16 artificially slowed and sped up, and hardly faster."""
    monkeypatch.setattr(threads, "has_fast_bf16", lambda device: True)
    monkeypatch.setattr(threads, "MOST_TURNS", 3)
    iterate = Loop.iterate

    def slowed(loop: Loop, *progress: float) -> object:
        clock.now += 0.05 * (factor if loop.precision == "bf16" else 1)
        return iterate(loop, *progress)

    monkeypatch.setattr(threads.Loop, "iterate", slowed)
    auto = train_tiny("vae", data, tmp_path / "auto", budget="2steps", precision="auto")
    record = RunDir(auto.path).record()
    assert (record.run["precision"], record.precision) == ("auto", name)
    assert record.precision_seconds == pytest.approx({"fp32": 0.05, "bf16": 0.05 * factor})
    given = train_tiny("vae", data, tmp_path / "given", budget="2steps", precision=name)
    assert RunDir(given.path).record().precision_seconds == {}
    states = [load_state(run.path / "checkpoints")[0]["loop"] for run in (auto, given)]
    assert same_bits(*states)


def test_without_the_hardware_for_bf16_nothing_is_timed(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "has_fast_bf16", lambda device: False)
    monkeypatch.setattr(threads, "time_in_turns", None)
    run = train_tiny("vae", data, tmp_path / "run", budget="1steps", precision="auto")
    record = RunDir(run.path).record()
    assert (record.precision, record.precision_seconds) == ("fp32", {})


def test_auto_is_a_word_of_the_command_line_and_of_files(
    tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert RunConfig(threads="auto").threads == 0
    words = [f"--{key.replace('_', '-')}={value}" for key, value in TINY["vae"].items()]
    words += ["--data", data, "--budget", "2steps", "--run-dir", str(tmp_path / "run")]
    assert main(["train", "vae", *words, "--threads", "auto", "--progress", "none"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["run"]["threads"] >= 1
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "run"), "--threads", "many"]) == 2
    assert "'many'" in capsys.readouterr().err
    assert main(["train", "vae", "--threads", "many"]) == 2
    assert "'many'" in capsys.readouterr().err


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # of torch's compiler on itself
@pytest.mark.parametrize(("name", "options"), [("vae", {}), ("dcgan", {"dropout": 0})])
def test_a_compiled_loss_has_the_same_values_step_by_step(
    name: str, options: dict[str, float]
) -> None:
    """With the same noise, which torch.compile would otherwise draw in its own way, as it does draw
    dropout's."""
    logs = []
    for compile in (False, True):
        spec = registry().trainers.find(name)
        model = build_model(
            spec, resolve(spec, given=TINY[name] | options).options, ImageShape(1, 8, 8), 0
        )
        loop = make_loop(model, compile=compile)
        logs.append([loop.iterate() for _ in range(3)])
    for eager, compiled in zip(*logs, strict=True):
        torch.testing.assert_close(compiled, eager, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_without_a_compiler_compile_is_refused_in_a_sentence(tmp_path: Path, data: str) -> None:
    words = [f"--{key.replace('_', '-')}={value}" for key, value in TINY["vae"].items()]
    words += ["--data", data, "--budget", "2steps", "--run-dir", str(tmp_path / "run")]
    environment = child_environment() | {
        "CXX": str(tmp_path / "no-compiler"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "genkit", "train", "vae", *words, "--compile"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "--compile: torch.compile does not work here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("kept", [False, True])
def test_freed_memory_is_kept_only_when_asked_for(kept: bool) -> None:
    program = f"""
from pathlib import Path
from genkit.io.machine import keep_freed_memory

def pages():
    return int(Path("/proc/self/statm").read_text().split()[1])

if {kept}:
    keep_freed_memory()
before = pages()
block = b"x" * 24 * 2**20
del block
print((pages() - before) * 4096)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert (int(done.stdout) > 20 * 2**20) == kept
