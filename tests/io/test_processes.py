"""`--devices N`: one command line as several processes, from its start to every way it can end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toys import QUIET, TINY, child_environment, registry, same_bits, write_npz

from genkit.runs.checkpoint import load_state
from genkit.runs.run import load_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("launch"),
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed"),
]


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_npz(tmp_path / "data.npz")


def start(*arguments: object, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "genkit", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**child_environment(), **variables},
        start_new_session=True,
    )


def words(model: str, data: str, path: Path, /, **more: object) -> list[object]:
    options = {**TINY[model], **QUIET, "data": data, "run_dir": path, "devices": 2} | more
    return ["train", model, *(f"--{k.replace('_', '-')}={v}" for k, v in options.items())]


def end(process: subprocess.Popen[str], seconds: float = 90) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def wait_for_lines(process: subprocess.Popen[str], path: Path, count: int = 1) -> None:
    deadline = time.monotonic() + 60
    log = path / "metrics.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= count):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    return [int(pid) for pid in found.stdout.split()]


def test_two_processes_train_one_run_and_resume_it_bit_for_bit(tmp_path: Path, data: str) -> None:
    for name, budget in (("whole", "9steps"), ("part", "5steps")):
        code, out, err = end(start(*words("dcgan", data, tmp_path / name, budget=budget, grids=2)))
        assert code == 0, err
        assert out.split() == [str(tmp_path / name)]
    code, out, err = end(start("resume", tmp_path / "part", "--budget", "9steps"))
    assert code == 0 and "last bits" not in err, err
    states = [load_state(tmp_path / name / "checkpoints")[0]["loop"] for name in ("whole", "part")]
    assert same_bits(*states) and states[0]["step"] == 9
    runs = [load_run(tmp_path / name, registry()) for name in ("whole", "part")]
    assert runs[0].record.ranks == 2
    assert same_bits(*(run.model.state_dict() for run in runs))
    assert {p.name for p in (tmp_path / "part" / "samples").iterdir()} >= {
        "step-000000000.png",
        "step-000000005.png",
        "step-000000009.png",
    }


@pytest.mark.thorough
def test_going_on_with_another_number_of_processes_is_said(tmp_path: Path, data: str) -> None:
    end(start(*words("vae", data, tmp_path / "run", budget="3steps")))
    code, _, err = end(start("resume", tmp_path / "run", "--budget", "5steps", "--devices", "1"))
    assert code == 0
    assert "the last bits may differ" in err and "processes 2, now 1" in err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["ranks"] == 1


@pytest.mark.parametrize(
    "number, code",
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.thorough),
    ],
)
def test_a_signal_to_the_command_saves_once(
    tmp_path: Path, data: str, number: int, code: int
) -> None:
    process = start(*words("vae", data, tmp_path / "run", budget="1000000steps"))
    wait_for_lines(process, tmp_path / "run")
    process.send_signal(number)
    found, _, err = end(process)
    assert found == code, err
    assert err.count("interrupted; all is saved; to resume from there: genkit resume") == 1
    step = load_state(tmp_path / "run" / "checkpoints")[0]["loop"]["step"]
    assert end(start("resume", tmp_path / "run", "--budget", f"{step + 2}steps"))[0] == 0


LATE = """
import os
import signal
from genkit.hookspecs import hookimpl
from genkit.specs import TrainerSpec
from genkit_vae import VAEConfig

@hookimpl
def register_trainers():
    return [TrainerSpec(name="late", summary="A VAE.", target="MODULE:Late", config=VAEConfig)]

def __getattr__(name):
    from genkit_vae.model import VAE
    class Late(VAE):
        def sample(self, n, labels=None, *, generator):
            if os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            return super().sample(n, labels, generator=generator)
    if name == "Late":
        return Late
    raise AttributeError(name)
"""


def test_a_signal_to_one_rank_between_two_steps_ends_all_after_the_same_one(
    tmp_path: Path, data: str
) -> None:
    (tmp_path / "late_vae.py").write_text(LATE.replace("MODULE", "late_vae"))
    options = {"budget": "40steps", "watch": 100, "grids": 5}  # more than 64: both ranks draw
    arguments = [str(word) for word in words("vae", data, tmp_path / "run", **options)]
    variables = {"GENKIT_PLUGINS": str(tmp_path / "late_vae.py"), "GENKIT_NO_CHECKS": "1"}
    process = start("train", "late", *arguments[2:], **variables)
    code, _, err = end(process)
    assert code == 143, err
    assert "interrupted; all is saved" in err and "another process" not in err
    assert 0 < load_state(tmp_path / "run" / "checkpoints")[0]["loop"]["step"] < 40


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.thorough), 1])
def test_a_rank_that_dies_ends_the_training_soon_and_the_run_goes_on(
    tmp_path: Path, data: str, victim: int
) -> None:
    options = {"budget": "1000000steps", "checkpoint_seconds": 0.2}
    process = start(*words("vae", data, tmp_path / "run", **options))
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoints" / "last.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.kill(sorted(ranks_of(process))[victim], signal.SIGKILL)
    killed = time.monotonic()
    code, _, err = end(process)
    assert time.monotonic() - killed < 30
    assert code == 128 + signal.SIGKILL
    assert f"process {victim} of 2 was ended by signal 9" in err
    step = load_state(tmp_path / "run" / "checkpoints")[0]["loop"]["step"]
    code, _, err = end(start("resume", tmp_path / "run", "--budget", f"{step + 2}steps"))
    assert code == 0, err


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("more", "words_"),
    [
        ({"batch_size": 1}, "a batch of 1 images cannot be shared by 2 processes"),
        ({"data": "npz:nowhere.npz"}, "nowhere.npz does not exist"),
        ({"latent": 0}, "--latent"),
    ],
)
def test_bad_input_is_told_once_with_exit_code_2(
    tmp_path: Path, data: str, more: dict[str, object], words_: str
) -> None:
    code, _, err = end(start(*words("vae", data, tmp_path / "run", **more)))
    assert code == 2, err
    assert err.count(words_) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_torchrun_starts_the_same_training(tmp_path: Path, data: str) -> None:
    arguments = words("vae", data, tmp_path / "torchrun", budget="3steps")
    arguments = [word for word in map(str, arguments) if not word.startswith("--devices")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", "-m", "genkit", *arguments],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert end(start(*words("vae", data, tmp_path / "devices", budget="3steps")))[0] == 0
    states = [load_state(tmp_path / n / "checkpoints")[0]["loop"] for n in ("torchrun", "devices")]
    assert same_bits(*states)
