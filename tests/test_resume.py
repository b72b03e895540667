"""A run that was interrupted goes on and ends as if it had not been, to the last bit."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from toys import QUIET, TINY, bright_squares, child_environment, registry, same_bits, train_tiny
from toys import write_npz as write_data

from genkit.checkpoint import load_state
from genkit.errors import CheckpointError, TrainingError, UsageError
from genkit.progress import Reporter
from genkit.registry import Registry
from genkit.rundir import RunDir
from genkit.training import resume

TIMES = ("seconds", "images_per_second")


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data.npz")


def state_of(run):
    return load_state(RunDir(run.path).checkpoints)[0]


def metrics_of(run):
    """The lines of metrics.jsonl without what differs from one time to the next."""
    rows = RunDir(run.path).read_metrics()
    return [{key: row[key] for key in row if key not in TIMES} for row in rows]


def assert_equal_runs(run, other):
    assert same_bits(state_of(run)["loop"], state_of(other)["loop"])
    files = [each.path / "model.safetensors" for each in (run, other)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert metrics_of(run) == metrics_of(other)
    assert torch.equal(run.sample(3), other.sample(3))


@pytest.mark.parametrize("model", ["dcgan", "vae", "pixelcnn"])
@pytest.mark.parametrize("ema_half_life", [100, 0])
def test_a_resumed_run_equals_one_in_one_go_bit_for_bit(tmp_path, data, model, ema_half_life):
    options = {"ema_half_life": ema_half_life, "seed": 5}
    whole = train_tiny(model, data, tmp_path / "whole", budget="12steps", **options)
    part = train_tiny(model, data, tmp_path / "part", budget="5steps", **options)
    assert state_of(part)["loop"]["step"] == 5
    torch.randn(3)
    resumed = resume(part.path, registry(), budget="12steps")
    assert_equal_runs(whole, resumed)
    assert [row["step"] for row in metrics_of(resumed)] == [2, 4, 6, 8, 10, 12]
    assert resumed.config["run"]["budget"] == "12steps"
    assert len(state_of(resumed)["loop"]["optimizers"]) == (2 if model == "dcgan" else 1)


def test_seeds_give_different_runs(tmp_path, data):
    first, second = (
        train_tiny("vae", data, tmp_path / str(seed), budget="3steps", seed=seed) for seed in (0, 1)
    )
    assert not same_bits(first.model.state_dict(), second.model.state_dict())


def test_a_damaged_checkpoint_costs_steps_but_not_equality(tmp_path, data):
    """The newest state is cut short, so the one before it is used, and metrics are written anew."""
    whole = train_tiny("dcgan", data, tmp_path / "whole", budget="12steps")
    run = train_tiny("dcgan", data, tmp_path / "run", budget="5steps")
    resume(run.path, registry(), budget="9steps")
    newest = run.path / "checkpoints" / "step-000000009.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    said = []
    reporter = Reporter()
    reporter.say = said.append
    resumed = resume(run.path, registry(), budget="12steps", reporter=reporter)
    assert any("step-000000009.pt is damaged" in line for line in said)
    assert_equal_runs(whole, resumed)


def test_a_torn_line_of_metrics_is_written_anew(tmp_path, data):
    whole = train_tiny("vae", data, tmp_path / "whole", budget="8steps")
    part = train_tiny("vae", data, tmp_path / "part", budget="5steps")
    with open(part.path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 6, "images": 48, "elbo/lo')
    assert_equal_runs(whole, resume(part.path, registry(), budget="8steps"))


def test_resuming_a_finished_run_changes_nothing(tmp_path, data):
    run = train_tiny("vae", data, tmp_path / "run", budget="4steps")

    def contents():
        return {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    before = contents()
    resume(run.path, registry())
    assert contents() == before


def test_resuming_a_finished_run_brings_lost_weights_back(tmp_path, data):
    run = train_tiny("vae", data, tmp_path / "run", budget="4steps")
    (run.path / "model.safetensors").unlink()
    again = resume(run.path, registry())
    assert same_bits(again.model.state_dict(), run.model.state_dict())


def test_a_run_that_diverged_goes_on_from_its_last_checkpoint(tmp_path, data, monkeypatch):
    from genkit_vae.model import VAE

    whole = train_tiny("vae", data, tmp_path / "whole", budget="8steps")
    run = train_tiny("vae", data, tmp_path / "run", budget="4steps")
    with monkeypatch.context() as patch:
        plain, calls = VAE.loss, []

        def loss(self, batch):
            calls.append(1)
            loss, extras = plain(self, batch)
            return loss * (torch.inf if len(calls) == 3 else 1), extras

        patch.setattr(VAE, "loss", loss)
        with pytest.raises(TrainingError, match="the loss of phase 'elbo' became inf in step 7"):
            resume(run.path, registry(), budget="8steps")
    assert_equal_runs(whole, resume(run.path, registry()))


# ---- what cannot be resumed


def test_data_that_changed_is_refused(tmp_path, data):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    config = (run.path / "config.json").read_bytes()
    images = bright_squares(120)
    images[3, 0, 0, 0] ^= 1
    write_data(tmp_path / "data.npz", images)
    with pytest.raises(UsageError, match="is not the one this run was trained on"):
        resume(run.path, registry(), budget="4steps")
    assert (run.path / "config.json").read_bytes() == config
    (tmp_path / "data.npz").unlink()
    with pytest.raises(UsageError, match=r"data\.npz does not exist"):
        resume(run.path, registry())


def test_a_model_whose_plugin_is_missing_is_refused(tmp_path, data, monkeypatch):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    monkeypatch.setenv("GENKIT_DISABLE_PLUGINS", "vae")
    from genkit.registry import load_registry

    without: Registry = load_registry()
    with pytest.raises(UsageError, match="no model named 'vae'"):
        resume(run.path, without)


@pytest.mark.parametrize("budget", ["soon", "0s", "5stepz", "1.5steps"])
def test_an_unreadable_budget_is_refused_by_its_option(tmp_path, data, budget):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    with pytest.raises(UsageError, match=f"--budget: '{budget}' is no budget"):
        resume(run.path, registry(), budget=budget)
    assert json.loads((run.path / "config.json").read_text())["run"]["budget"] == "2steps"


def test_a_run_without_checkpoints_is_refused(tmp_path, data):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    shutil.rmtree(run.path / "checkpoints")
    (run.path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
        resume(run.path, registry())


def test_a_checkpoint_of_another_model_is_refused(tmp_path, data):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    other = train_tiny("vae", data, tmp_path / "other", budget="2steps", hidden=9)
    shutil.rmtree(run.path / "checkpoints")
    shutil.copytree(other.path / "checkpoints", run.path / "checkpoints")
    with pytest.raises(CheckpointError, match="does not fit the model"):
        resume(run.path, registry())


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UsageError, match=str(path)):
            resume(path, registry())


# ---- signals


def genkit_process(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "genkit", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )


def wait_for_a_line(process, path):
    """Until metrics.jsonl has a line."""
    end = time.monotonic() + 60
    while not (path.exists() and path.read_bytes().count(b"\n")):
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_run_which_then_goes_on(tmp_path, data, number, code):
    options = {**TINY["dcgan"], **QUIET}
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    path = tmp_path / "run"
    budget = ["--budget", "1000000steps", "--run-dir", str(path), "--data", data]
    process = genkit_process("train", "dcgan", *arguments, *budget)
    wait_for_a_line(process, path / "metrics.jsonl")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"interrupted; all is saved, go on with: genkit resume {path}" in errors
    assert "Traceback" not in errors

    step = load_state(path / "checkpoints")[0]["loop"]["step"]
    process = genkit_process("resume", str(path), "--budget", f"{step + 7}steps")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.strip().splitlines()[-1] == str(path)
    whole = train_tiny("dcgan", data, tmp_path / "whole", budget=f"{step + 7}steps")
    assert same_bits(
        load_state(path / "checkpoints")[0]["loop"],
        load_state(whole.path / "checkpoints")[0]["loop"],
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path, data):
    options = {**TINY["vae"], **QUIET, "checkpoint_seconds": 0.05}
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    path = tmp_path / "run"
    budget = ["--budget", "1000000steps", "--run-dir", str(path), "--data", data]
    process = genkit_process("train", "vae", *arguments, *budget)
    end = time.monotonic() + 60
    while not (path / "checkpoints" / "last.json").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    time.sleep(np.random.default_rng(0).uniform(0, 0.2))
    process.kill()
    process.communicate()
    step = load_state(path / "checkpoints")[0]["loop"]["step"]
    resumed = resume(path, registry(), budget=f"{step + 7}steps")
    whole = train_tiny("vae", data, tmp_path / "whole", budget=f"{step + 7}steps")
    assert_equal_runs(whole, resumed)


def test_training_works_outside_the_main_thread(tmp_path, data):
    """Only the main thread may handle signals."""
    runs = []
    train = threading.Thread(
        target=lambda: runs.append(train_tiny("vae", data, tmp_path / "run", budget="3steps"))
    )
    train.start()
    train.join()
    assert runs[0].summary["step"] == 3
