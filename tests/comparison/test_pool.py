"""Processes side by side: each on the device that is least busy."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from rich.console import Console

from genkit.comparison.pool import ProcessPool
from genkit.compute.device import visible_devices
from genkit.io import forks

WRITE = "import os, sys, time; time.sleep(0.4); open(sys.argv[1], 'w').write(SEEN)"


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands write the device that they were given into the file that they are called with."""
    code = WRITE.replace("SEEN", "os.environ.get('CUDA_VISIBLE_DEVICES', 'none')")
    monkeypatch.setattr(forks, "genkit_command", lambda words: [sys.executable, "-c", code, *words])
    return [str(tmp_path / str(i)) for i in range(4)]


def run(paths: list[str], devices: list[str], workers: int) -> list[str]:
    processes = ProcessPool(Console(quiet=True), devices=devices)
    with processes, ThreadPoolExecutor(workers) as threads:
        list(threads.map(lambda path: processes.run([path], "x"), paths))
        assert set(processes.busy.values()) <= {0}
    return [Path(path).read_text() for path in paths]


def test_processes_at_the_same_time_have_different_devices(commands: list[str]) -> None:
    assert sorted(run(commands, ["0", "3"], 2)) == ["0", "0", "3", "3"]
    assert sorted(run(commands, ["a", "b"], 4)) == ["a", "a", "b", "b"]


def test_when_each_process_ran_is_noted(commands: list[str]) -> None:
    processes = ProcessPool(Console(quiet=True))
    with processes, ThreadPoolExecutor(2) as threads:
        processes.run(commands[:1], "vae", "training")
        after = [
            threads.submit(processes.run, commands[1:2], "vae", "scoring"),
            threads.submit(processes.run, commands[2:3], "vae", "likelihood", True),
        ]
        for each in after:
            each.result()
    first, *both = processes.timeline
    assert (first.what, first.part) == ("vae", "training") and first.end - first.start > 0.4
    assert {span.part for span in both} == {"scoring", "likelihood"}
    assert all(first.end <= span.start < span.end for span in both)
    assert both[0].start < both[1].end and both[1].start < both[0].end
    assert list(processes.tasks) == ["vae", "likelihood of vae"]


def test_without_devices_the_environment_stays(
    commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert run(commands[:1], [], 1) == ["7"]


@pytest.mark.parametrize(("given", "found"), [(None, "1"), ("3", "3")])
def test_numpy_has_a_thread_for_each_process_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, found: str
) -> None:
    code = WRITE.replace("SEEN", "os.environ['OPENBLAS_NUM_THREADS']")
    monkeypatch.setattr(forks, "genkit_command", lambda words: [sys.executable, "-c", code, *words])
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", given)
    assert run([str(tmp_path / "found")], [], 1) == [found]


@pytest.mark.parametrize(
    ("name", "variable", "expected"),
    [
        ("cuda", None, ["0", "1"]),
        ("cuda", "4,6", ["4", "6"]),
        ("cuda", "4,,6", ["0", "1"]),
        ("cuda:1", None, []),
        ("cpu", None, []),
    ],
)
def test_devices_are_those_that_the_user_lets_be_seen(
    name: str, variable: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_devices(torch.device(name)) == expected
