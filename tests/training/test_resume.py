"""A run that was interrupted resumes and ends as if it had not been, to the last bit."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from toys import QUIET, TINY, bright_squares, child_environment, registry, same_bits, train_tiny
from toys import write_npz as write_data

from genkit.cli import main
from genkit.errors import CheckpointError, Interrupted, TrainingError, UsageError
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir
from genkit.registry.catalogue import Registry
from genkit.runs.checkpoint import load_state
from genkit.training.resume import resume
from genkit.training.settled import CHANGEABLE

TIMES = ("seconds", "images_per_second")
OFTEN = {"checkpoint_seconds": 1e-9}  # a checkpoint after each step


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


@pytest.mark.parametrize("model", ["dcgan", "vae", "pixelcnn", "pixelrnn", "flow"])
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
    assert resumed.record.run["budget"] == "12steps"
    assert len(state_of(resumed)["loop"]["optimizers"]) == (2 if model == "dcgan" else 1)


@pytest.mark.parametrize("model", ["dcgan", "vae"])
def test_a_resumed_run_changes_training_images_as_one_in_one_go(tmp_path, data, model):
    options = {"data_option": ["flip=true", "shift=1"]}
    whole = train_tiny(model, data, tmp_path / "whole", budget="8steps", **options)
    part = train_tiny(model, data, tmp_path / "part", budget="3steps", **options)
    assert_equal_runs(whole, resume(part.path, registry(), budget="8steps"))
    assert whole.record.data.augmentation == "flip=true shift=1"
    plain = train_tiny(model, data, tmp_path / "plain", budget="8steps")
    assert not same_bits(state_of(whole)["loop"]["model"], state_of(plain)["loop"]["model"])
    assert plain.record.data.augmentation is None
    assert plain.record.data.fingerprint == whole.record.data.fingerprint


def test_a_run_resumes_only_with_its_own_changes_of_training_images(tmp_path, data):
    run = train_tiny("vae", data, tmp_path / "run", budget="3steps", data_option=["flip=true"])
    message = r"other data options \(shift=2\) than this run's \(flip=true\)"
    with pytest.raises(UsageError, match=message):
        resume(run.path, registry(), budget="6steps", data_option=("shift=2",))


def test_seeds_give_different_runs(tmp_path, data):
    first, second = (
        train_tiny("vae", data, tmp_path / str(seed), budget="3steps", seed=seed) for seed in (0, 1)
    )
    assert not same_bits(first.model.state_dict(), second.model.state_dict())


def test_a_damaged_checkpoint_costs_steps_but_not_equality(tmp_path, data):
    """The newest state is cut short: the one before it is used, and metrics are written again."""
    whole = train_tiny("dcgan", data, tmp_path / "whole", budget="12steps")
    run = train_tiny("dcgan", data, tmp_path / "run", budget="5steps")
    resume(run.path, registry(), budget="9steps")
    newest = run.path / "checkpoints" / "step-000000009.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    said = []
    reporter = Reporter()
    reporter.say = said.append
    resumed = resume(run.path, registry(), budget="12steps", reporter=reporter)
    assert any("step-000000009.safetensors is damaged" in line for line in said)
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
    from genkit.registry.catalogue import load_registry

    without: Registry = load_registry()
    with pytest.raises(UsageError, match="'vae'"):
        resume(run.path, without)


@pytest.mark.parametrize("budget", ["soon", "0s", "5stepz", "1.5steps"])
def test_an_unreadable_budget_is_refused_by_its_option(tmp_path, data, budget):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    with pytest.raises(UsageError, match=f"--budget: '{budget}' is not a budget"):
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
    with pytest.raises(UsageError, match=r"options\.hidden is 8, was 9"):
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
@pytest.mark.parametrize(
    "number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
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
    assert f"interrupted; all is saved; to resume from there: genkit resume {path}" in errors
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


def test_training_works_outside_the_main_thread(tmp_path, data):
    """Only the main thread may handle signals."""
    runs = []
    train = threading.Thread(
        target=lambda: runs.append(train_tiny("vae", data, tmp_path / "run", budget="3steps"))
    )
    train.start()
    train.join()
    assert runs[0].summary.step == 3


# ---- signals that come twice, or to other commands


def endless(model, data, path, **more):
    """A training that would go on for days."""
    options = {**TINY[model], **QUIET, "budget": "100000000steps", **more}
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    return genkit_process("train", model, *words, "--run-dir", str(path), "--data", data)


def wait_for(process, path, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_leaves_at_once_with_the_last_checkpoint(tmp_path, data, first):
    """In this process: after step 3, whose checkpoint is written, in the middle of step 4."""
    from genkit.training.average import Average

    plain = Average.aim

    def aim(self, images_seen, images_per_step):
        if images_seen == 4 * images_per_step:
            signal.raise_signal(first)
            signal.raise_signal(signal.SIGINT)
        plain(self, images_seen, images_per_step)

    said = []
    reporter = Reporter()
    reporter.say = said.append
    whole = train_tiny("vae", data, tmp_path / "whole", budget="8steps")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Average, "aim", aim)
        train_tiny("vae", data, tmp_path / "run", reporter, budget="8steps", **OFTEN)
    assert said[-1] == (
        "Interrupted in the middle of a step. The last checkpoint is of step 3; to resume from "
        f"there: genkit resume {tmp_path / 'run'}"
    )
    assert load_state(tmp_path / "run" / "checkpoints")[0]["loop"]["step"] == 3
    assert_equal_runs(whole, resume(tmp_path / "run", registry()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_may_come_twice(tmp_path, data, number):
    """A shell and its terminal both tell of their end; the step is finished all the same."""
    reporter = Reporter()
    reporter.update = lambda state: [signal.raise_signal(number) for _ in range(2)]
    with pytest.raises(Interrupted) as caught:
        train_tiny("vae", data, tmp_path / "run", reporter, budget="8steps")
    assert caught.value.exit_code == 128 + number
    assert load_state(tmp_path / "run" / "checkpoints")[0]["loop"]["step"] == 2


def test_a_signal_that_is_ignored_stays_ignored(tmp_path, data):
    """As nohup has it."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        reporter = Reporter()
        reporter.update = lambda state: signal.raise_signal(signal.SIGHUP)
        run = train_tiny("vae", data, tmp_path / "run", reporter, budget="4steps")
        assert run.summary.step == 4
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


@pytest.mark.slow
def test_a_second_interrupt_of_the_command_is_no_traceback(tmp_path, data):
    path = tmp_path / "run"
    process = endless("dcgan", data, path, grids=1000000, checkpoint_seconds=0.01)
    wait_for(process, path / "summary.json")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert "to resume from there" in errors and not list(path.rglob("*.tmp"))
    assert load_state(path / "checkpoints")[0]["loop"]["step"] > 0


def at_work(process):
    """Whether a command has begun to import torch, or to start others that do."""
    task = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return bool(task) or "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    "seconds", [0.5, *(pytest.param(s, marks=pytest.mark.thorough) for s in (0.0, 2.0))]
)
@pytest.mark.parametrize("verb", ["sample", "evaluate", "train", "compare"])
def test_an_interrupt_at_any_time_ends_a_command_without_a_traceback(tmp_path, verb, seconds):
    run = train_tiny("dcgan", "mnist-mini", tmp_path / "run", budget="2steps")
    before = sorted(run.path.rglob("*"))
    out = str(tmp_path / "out")
    words = {
        "sample": ["sample", str(run.path), "-n", "1000000", "-o", out],
        "evaluate": ["evaluate", str(run.path), "-n", "100000"],
        "train": ["train", "dcgan", "--run-dir", out, "--budget", "1h"],
        "compare": ["compare", "dcgan", "--out", out, "--budget", "1h"],
    }
    process = genkit_process(*words[verb])
    while not at_work(process):
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    # A shell calls both 130: while torch is imported, the signal itself may end the process.
    assert process.returncode in (130, -signal.SIGINT), errors
    assert "Traceback" not in errors
    assert sorted(run.path.rglob("*")) == before
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("*.npz"))


@pytest.mark.slow
def test_the_trainings_of_a_comparison_that_is_killed_save_and_end(tmp_path, data):
    """They notice that nobody reads what they report."""
    out = tmp_path / "out"
    words = ["--data", data, "--out", str(out), "--budget", "1h", "--features", "none"]
    for model in ("dcgan", "vae"):
        words += ["--set", f"{model}.batch_size=8"]
    process = genkit_process("compare", "dcgan", "vae", *words, "--workers", "2")
    for model in ("dcgan", "vae"):
        wait_for_a_line(process, out / model / "metrics.jsonl")
    process.kill()
    process.communicate()
    for model in ("dcgan", "vae"):
        end = time.monotonic() + 60
        while not (out / model / "summary.json").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        while True:  # until its process has ended
            with suppress(UsageError), RunDir(out / model).locked():
                break
            time.sleep(0.05)
        step = load_state(out / model / "checkpoints")[0]["loop"]["step"]
        assert step == json.loads((out / model / "summary.json").read_text())["step"] > 0


# ---- what may change and what may not

SETTLED = {
    ("options", "hidden"): 9,
    ("run", "seed"): 1,
    ("run", "accumulate"): 2,
    ("image_shape", "height"): 16,
    ("precision",): "bf16",
    ("device",): "cuda",
    ("data", "fingerprint"): "0" * 64,
    ("model",): "dcgan",
}


@pytest.mark.parametrize("where", SETTLED, ids=".".join)
def test_a_config_changed_in_what_is_settled_is_refused_with_the_difference(tmp_path, data, where):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    config = json.loads((run.path / "config.json").read_text())
    table = config[where[0]] if len(where) == 2 else config
    table[where[-1]] = SETTLED[where]
    (run.path / "config.json").write_text(json.dumps(config))
    name = ".".join(where)
    with pytest.raises(UsageError, match=f"{name} is .*, was .*Put it back, or train a new run"):
        resume(run.path, registry(), budget="4steps")
    assert json.loads((run.path / "config.json").read_text()) == config
    assert load_state(run.path / "checkpoints")[0]["loop"]["step"] == 2


CHANGES = {
    "budget": "6steps",
    "cooldown": "50%",
    "log_every": 3,
    "grids": 3,
    "watch": 8,
    "checkpoint_seconds": 0.5,
    "threads": 2,
    "cuda_graphs": True,
}
SWITCH = "cuda_graphs"


def test_what_may_change_is_known():
    assert {*CHANGES, "compile", "data", "data_root", "data_option"} == set(CHANGEABLE)


@pytest.mark.parametrize("name", CHANGES)
def test_each_option_that_may_change_is_taken_and_the_rest_of_the_config_stays(
    tmp_path, data, name
):
    run = train_tiny("vae", data, tmp_path / "run", budget="4steps")
    before = json.loads((run.path / "config.json").read_text())
    said = []
    reporter = Reporter()
    reporter.say = said.append
    resume(run.path, registry(), reporter=reporter, **{name: CHANGES[name]})
    after = json.loads((run.path / "config.json").read_text())
    assert after["run"].pop(name) == CHANGES[name] != before["run"].pop(name)
    assert after == before
    assert ("threads 1, now 2" in "".join(said)) == (name == "threads")


def test_options_that_may_change_are_given_to_the_command(tmp_path, data):
    run = train_tiny("vae", data, tmp_path / "run", budget="4steps")
    moved = tmp_path / "moved.npz"
    shutil.move(tmp_path / "data.npz", moved)
    words = [f"--{name.replace('_', '-')}={CHANGES[name]}" for name in CHANGES if name != SWITCH]
    words.append(f"--{SWITCH.replace('_', '-')}")
    assert main(["resume", str(run.path), "--data", f"npz:{moved}", *words]) == 0
    config = json.loads((run.path / "config.json").read_text())["run"]
    assert {name: config[name] for name in CHANGES} == CHANGES
    assert config["data"] == f"npz:{moved}"
    assert json.loads((run.path / "summary.json").read_text())["step"] == 6
    whole = train_tiny("vae", f"npz:{moved}", tmp_path / "whole", budget="6steps", threads=1)
    assert state_of(run)["loop"].keys() == state_of(whole)["loop"].keys()


@pytest.mark.parametrize("change", [{"seed": 1}, {"hidden": 9}, {"precision": "bf16"}])
def test_a_change_that_would_make_another_run_is_refused(tmp_path, data, change):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    with pytest.raises(UsageError, match="cannot change in the middle of a run"):
        resume(run.path, registry(), **change)


@pytest.mark.parametrize(
    "content", [{"ranks": 10**6}, {"ranks": 0}, {"ranks": "2"}, {"device": None}]
)
def test_a_run_directory_cannot_ask_for_what_cannot_be(
    tmp_path, data, content, monkeypatch, capsys
):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    path = run.path / "config.json"
    config = json.loads(path.read_text()) | content
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    assert main(["resume", str(run.path)]) == 2
    said = capsys.readouterr().err
    assert next(iter(content)) in said or f"{content['ranks']} processes" in said


def test_another_version_of_torch_is_told_of(tmp_path, data):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    config = json.loads((run.path / "config.json").read_text())
    config["provenance"]["torch"] = "2.9.0"
    (run.path / "config.json").write_text(json.dumps(config))
    said = []
    reporter = Reporter()
    reporter.say = said.append
    resume(run.path, registry(), reporter=reporter, budget="4steps")
    changed = f"torch 2.9.0, now {torch.__version__}"
    assert f"the last bits may differ from those of an uninterrupted run: {changed}" in said


# ---- runs that ended before they had saved anything, and what a kill leaves


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(tmp_path, data):
    whole = train_tiny("vae", data, tmp_path / "whole", budget="6steps")
    part = train_tiny("vae", data, tmp_path / "part", budget="4steps")
    shutil.rmtree(part.path / "checkpoints")
    (part.path / "checkpoints").mkdir()
    (part.path / "model.safetensors").unlink()
    said = []
    reporter = Reporter()
    reporter.say = said.append
    resumed = resume(part.path, registry(), reporter=reporter, budget="6steps")
    assert "the run ended before its first checkpoint and starts again" in said
    assert_equal_runs(whole, resumed)


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoints/last.json"])
def test_a_run_that_has_saved_something_never_begins_anew(tmp_path, data, name):
    run = train_tiny("vae", data, tmp_path / "run", budget="4steps")
    for path in run.path.glob("checkpoints/step-*"):
        path.unlink()
    for path in {"model.safetensors", "checkpoints/last.json"} - {name}:
        (run.path / path).unlink()
    with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
        resume(run.path, registry())
    assert (run.path / name).exists()


def test_what_a_killed_training_had_half_written_goes_and_the_rest_stays(tmp_path, data):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    torn = [".model.safetensors.9.tmp", "samples/.step-000000001.png.9.tmp"]
    torn += ["checkpoints/.best-000000001.safetensors.9.tmp"]
    kept = [".evaluation.json.9.tmp", "notes.tmp", "samples/mine.png"]
    for name in torn + kept:
        (run.path / name).write_text("half")
    resume(run.path, registry())
    assert [name for name in torn + kept if (run.path / name).exists()] == kept


def test_warnings_come_at_the_same_steps_after_a_resume(tmp_path):
    """A collapse is reported at the second look that sees it: the first one was before the end of
    the first part."""
    options = {"budget": "6steps", "grids": 7, "watch": 16, "log_every": 1}
    whole = train_tiny("vae", "mnist-mini", tmp_path / "whole", **options)
    told = [row["step"] for row in metrics_of(whole) if "warning" in row]
    assert told == [3]  # looks at 1, before a fifth of the budget, then at 2 and at 3
    reporter = Reporter()
    reporter.update = lambda state: state.step == 2 and signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        train_tiny("vae", "mnist-mini", tmp_path / "part", reporter, **options)
    assert load_state(tmp_path / "part" / "checkpoints")[0]["loop"]["step"] == 2
    assert_equal_runs(whole, resume(tmp_path / "part", registry()))


def test_metrics_after_the_checkpoint_go_and_warnings_and_scores_before_it_stay(tmp_path, data):
    run = train_tiny("vae", data, tmp_path / "run", budget="4steps")
    directory = RunDir(run.path)
    rows = directory.read_metrics()
    early = [{"step": 3, "warning": "odd"}, {"step": 4, "images": 32, "kid": 0.5}]
    late = [{"step": 5, "warning": "later"}, {"step": 6, "images": 48, "kid": 0.25}]
    directory.append_metrics(early + late)
    resumed = resume(run.path, registry(), budget="6steps")
    assert directory.read_metrics()[:-1] == rows + early
    assert directory.read_metrics()[-1]["step"] == 6
    assert resumed.summary.warnings == ("odd",)
