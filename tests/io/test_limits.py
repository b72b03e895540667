"""Disks that are full, folders that vanish, streams that nobody reads, memory that runs out."""

import errno
import io
import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from toys import QUIET, TINY, child_environment, registry, same_bits, train_tiny, write_npz

from genkit.errors import TrainingError, WriteError
from genkit.hookspecs import hookimpl
from genkit.io import locks
from genkit.io import run_directory as rundir
from genkit.io.files import write_atomic
from genkit.io.progress import Bar, JSONLines, Reporter
from genkit.io.run_directory import RunDir
from genkit.io.run_records import ProgressState
from genkit.registry.catalogue import load_registry
from genkit.registry.plugin import Plugin
from genkit.runs.checkpoint import load_state
from genkit.training import train as training
from genkit.training.loop import Loop
from genkit.training.resume import resume

torch.set_num_threads(1)
TIMES = ("seconds", "images_per_second")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "data.npz")


class Said(Reporter):
    """Keeps the messages; `at` maps a step to what is done once its line of the log is out."""

    def __init__(self, at=None):
        self.lines = []
        self.at = at or {}

    def say(self, message):
        self.lines.append(message)

    def update(self, state):
        self.at.get(state.step, lambda: None)()


class Disk:
    """Refuses writes of files with some names while it is full."""

    def __init__(self, monkeypatch, *names):
        self.names = names
        self.full = False
        plain = rundir.os.replace

        def replace(source, target):
            self.check(target)
            plain(source, target)

        class File(io.FileIO):
            def write(file, content):
                self.check(file.name)
                return super().write(content)

        def opened(path, mode="r", *arguments, **options):
            if mode == "ab":
                return File(path, mode)
            return open(path, mode, *arguments, **options)

        monkeypatch.setattr(rundir.os, "replace", replace)
        monkeypatch.setattr(rundir, "open", opened, raising=False)

    def check(self, path):
        if self.full and any(Path(path).match(name) for name in self.names):
            raise FULL

    def fill(self):
        self.full = True

    def clear(self):
        self.full = False


def metrics_of(path):
    rows = RunDir(path).read_metrics()
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def run_with(listener, data, path, **options):
    """A run of a tiny VAE that a plugin object of the test's own listens to."""
    found = load_registry()
    found.plugins.register(listener, Plugin("listener", "torch-genkit-test", "1"))
    given = {**TINY["vae"], **QUIET, "data": data, **options}
    return training.train_by_name(found, "vae", run_dir=path, given=given)


# ---- a full disk


@pytest.mark.parametrize(
    "names", [("*",), ("step-*.safetensors",), ("*.jsonl",), ("*.png", "*.safetensors")]
)
def test_training_outlasts_a_full_disk_says_so_once_and_catches_up(
    tmp_path, data, monkeypatch, names
):
    options = {"budget": "10steps", "log_every": 1, "grids": 11, "checkpoint_seconds": 1e-9}
    whole = train_tiny("vae", data, tmp_path / "whole", **options)
    disk = Disk(monkeypatch, *names)
    said = Said({3: disk.fill, 8: disk.clear})
    run = train_tiny("vae", data, tmp_path / "run", said, **options)
    warnings = [line for line in said.lines if "Warning" in line]
    assert len(warnings) == 1
    assert "No space left on device; training continues and tries again" in warnings[0]
    rows = metrics_of(run.path)
    assert rows == metrics_of(whole.path)
    assert [row["step"] for row in rows if "elbo/loss" in row] == list(range(1, 11))
    states = [load_state(each.path / "checkpoints") for each in (whole, run)]
    assert same_bits(states[0][0]["loop"], states[1][0]["loop"]) and not states[1][1]
    assert not list(run.path.rglob("*.tmp"))


def test_the_checkpoint_from_before_the_disk_was_full_stays_whole(tmp_path, data, monkeypatch):
    disk = Disk(monkeypatch, "*")
    options = {"budget": "9steps", "log_every": 1, "checkpoint_seconds": 1e-9}
    path = tmp_path / "run"
    with pytest.raises(WriteError) as caught:
        train_tiny("vae", data, path, Said({4: disk.fill}), **options)
    assert str(caught.value) == (
        f"{path / 'metrics.jsonl'} could not be written: No space left on device. "
        f"The last checkpoint is of step 3; to resume from there: genkit resume {path}"
    )
    assert load_state(path / "checkpoints")[0]["loop"]["step"] == 3
    disk.clear()
    whole = train_tiny("vae", data, tmp_path / "whole", **options)
    resumed = resume(path, registry())
    assert metrics_of(path) == metrics_of(whole.path)
    assert same_bits(resumed.model.state_dict(), whole.model.state_dict())


def test_a_state_without_its_hash_does_not_push_out_a_whole_one(tmp_path, data, monkeypatch):
    """The hash could not be written: the state is as good as none."""
    disk = Disk(monkeypatch, "step-*.json")
    options = {"budget": "7steps", "log_every": 1, "checkpoint_seconds": 1e-9}
    run = train_tiny("vae", data, tmp_path / "run", Said({4: disk.fill, 6: disk.clear}), **options)
    names = {path.name for path in (run.path / "checkpoints").iterdir()}
    files = {f"step-00000000{step}.{kind}" for step in (6, 7) for kind in ("safetensors", "json")}
    assert names == {"last.json", *files}


def command(*words):
    return [sys.executable, "-m", "genkit", *map(str, words)]


def options_of(model, **more):
    options = {**TINY[model], **QUIET, **more}
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


@pytest.mark.slow
def test_files_that_may_not_grow_end_the_command_with_one_sentence(tmp_path, data):
    """A real limit of the system, not a patched one: the state does not fit, the rest does."""
    path = tmp_path / "run"
    words = ["train", "vae", "--run-dir", path, "--data", data, "--budget", "5steps"]
    done = subprocess.run(
        command(*words, *options_of("vae", grids=2, log_every=1, checkpoint_seconds=1e-9)),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=child_environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("training continues and tries again") == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"Error: {path / 'checkpoints'}") and "File too large" in last
    assert last.endswith("There is no checkpoint yet")
    assert sum("elbo/loss" in row for row in metrics_of(path)) == 5
    assert len(list((path / "samples").iterdir())) == 4
    assert not list(path.rglob("*.tmp"))


@pytest.mark.parametrize("budget", ["6steps", "100000steps"])
def test_a_run_directory_that_vanishes_ends_the_run_with_one_sentence(tmp_path, data, budget):
    path = tmp_path / "run"
    said = Said({4: lambda: shutil.rmtree(path)})
    options = {"budget": budget, "log_every": 2, "grids": 3}
    with pytest.raises(WriteError) as caught:
        train_tiny("vae", data, path, said, **options)
    assert f"The run directory {path} is gone" in str(caught.value)
    assert "genkit resume" not in str(caught.value) and not path.exists()


def test_a_run_directory_that_may_not_be_changed_is_one_sentence(tmp_path, data, monkeypatch):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")

    def denied(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(locks.FileLock, "acquire", denied)
    with pytest.raises(WriteError, match="cannot be locked: Permission denied"):
        resume(run.path, registry(), budget="4steps")


def test_folders_that_cannot_be_synced_are_no_failure(tmp_path, monkeypatch):
    """Some file systems do not offer it; a fault of the disk is another matter."""
    plain = os.fsync

    def failing(number, code):
        if os.path.isdir(f"/proc/self/fd/{number}"):
            raise OSError(code, os.strerror(code))
        plain(number)

    monkeypatch.setattr(os, "fsync", lambda number: failing(number, errno.EINVAL))
    write_atomic(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    monkeypatch.setattr(os, "fsync", lambda number: failing(number, errno.EIO))
    with pytest.raises(WriteError, match="Input/output error"):
        write_atomic(tmp_path / "file", b"other")


# ---- memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    ],
)
@pytest.mark.parametrize("where", ["loss", "step"])
def test_memory_that_runs_out_names_the_options_to_change(
    tmp_path, data, monkeypatch, error, where
):
    from genkit_vae.model import VAE

    target = VAE if where == "loss" else torch.optim.Adam
    plain, calls = getattr(target, where), []

    def failing(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise error
        return plain(self, *arguments)

    monkeypatch.setattr(target, where, failing)
    monkeypatch.setenv("GENKIT_NO_CHECKS", "1")  # they would call it, too
    options = {"budget": "9steps", "checkpoint_seconds": 1e-9}
    with pytest.raises(TrainingError) as caught:
        train_tiny("vae", data, tmp_path / "run", **options)
    assert str(caught.value) == (
        "out of memory; train with a smaller --batch-size or a larger --accumulate. "
        f"The last checkpoint is of step 3; to resume from there: genkit resume {tmp_path / 'run'}"
    )
    assert resume(tmp_path / "run", registry()).summary.step == 9


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path, data, monkeypatch):
    monkeypatch.setattr(Loop, "iterate", lambda *_: (_ for _ in ()).throw(RuntimeError("mat1")))
    with pytest.raises(RuntimeError, match="mat1"):
        train_tiny("vae", data, tmp_path / "run", budget="9steps")


# ---- streams


def shell(line, folder, timeout=100):
    """A line of bash with `genkit`; its exit codes, from left to right, and stderr."""
    script = f'genkit() {{ "{sys.executable}" -m genkit "$@"; }}; {line}; '
    script += 'echo "codes ${PIPESTATUS[@]}" >&3'
    read, write = os.pipe()
    done = subprocess.run(
        ["bash", "-c", script.replace(">&3", f">&{write}")],
        cwd=folder,
        env={**child_environment(), "NO_COLOR": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[write],
        text=True,
        timeout=timeout,
        check=False,
    )
    os.close(write)
    with open(read) as pipe:
        return pipe.read().split()[1:], done.stderr


@pytest.mark.parametrize(
    "line, code, complaint",
    [
        ("genkit list | head -n 1", "1", ""),  # the rest was not printed
        ("genkit --version | head -n 0", "0", ""),
        ("genkit list >&-", "0", ""),
        ("genkit list 2>&-", "0", ""),
        ("genkit list >&- 2>&- <&-", "0", ""),
        ("genkit list >/dev/full", "1", "Error: the output could not be written: No space left"),
        ("genkit list >/dev/full 2>&1", "1", ""),
        ("genkit info nothing 2>&-", "2", ""),
    ],
)
def test_output_that_nobody_takes_ends_without_a_traceback(tmp_path, line, code, complaint):
    codes, errors = shell(line, tmp_path)
    assert codes[0] == code
    assert errors.startswith(complaint) and len(errors.splitlines()) == bool(complaint)


@pytest.mark.slow
@pytest.mark.parametrize(
    "streams, code",
    [
        ("2>&1 | head -n 0", "0"),
        (">&- 2>&-", "0"),
        ("<&- >&- 2>&-", "0"),
        ("2>/dev/full", "0"),
        (">/dev/full 2>&1", "1"),  # where the run lies could not be said
    ],
)
def test_training_never_ends_early_for_its_output(tmp_path, data, streams, code):
    options = " ".join(options_of("vae", grids=2, log_every=1))
    line = f"genkit train vae --run-dir run --data {data} --budget 5steps {options} {streams}"
    codes, errors = shell(line, tmp_path)
    assert codes[0] == code and "Traceback" not in errors
    assert load_state(tmp_path / "run" / "checkpoints")[0]["loop"]["step"] == 5
    for path in (tmp_path / "run").rglob("*.json*"):  # nothing was printed into a file of the run
        for row in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(row)


def test_a_bar_on_a_terminal_that_went_away_is_silent(monkeypatch):
    master, slave = pty.openpty()
    terminal = os.fdopen(slave, "w")
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = Bar()
    bar.start("run")
    assert bar.bars.console.is_terminal
    bar.update(ProgressState(fraction=0.1))
    shown = b""
    while b"run" not in shown:  # what is never shown ends the test by its time
        shown += os.read(master, 4096)
    os.close(master)
    with pytest.raises(OSError):
        print("nobody listens", file=terminal, flush=True)
    bar.say("still here")
    bar.update(ProgressState(fraction=0.2))
    time.sleep(0.3)  # the bar draws itself, too
    bar.stop()
    monkeypatch.undo()
    with suppress(OSError):
        terminal.close()


def test_a_bar_without_any_stderr_is_silent(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    bar = Bar()
    bar.start("run")
    bar.update(ProgressState(fraction=0.1))
    bar.say("still here")
    bar.stop()


def test_a_json_reporter_whose_reader_is_gone_asks_its_process_to_end(monkeypatch):
    class Gone(io.StringIO):
        def flush(self):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    heard = []
    former = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        monkeypatch.setattr(sys, "stdout", Gone())
        JSONLines().say("hello")
    finally:
        signal.signal(signal.SIGTERM, former)
    assert heard == [signal.SIGTERM]


# ---- listeners


def test_a_listener_that_raises_whatever_it_likes_is_muted(tmp_path, data):
    class Listener:
        @hookimpl
        def on_run_start(self):
            raise SystemExit(7)

        @hookimpl
        def on_run_end(self):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    assert run_with(Listener(), data, tmp_path / "run", budget="3steps").summary.step == 3


def test_a_listener_that_blocks_is_left_by_a_second_interrupt(tmp_path, data):
    """The first one is noted, as always; the second ends the waiting and loses no checkpoint."""

    class Listener:
        @hookimpl
        def on_log(self, step):
            if step == 4:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
                time.sleep(60)

    options = {"budget": "9steps", "checkpoint_seconds": 1e-9}
    with pytest.raises(KeyboardInterrupt):
        run_with(Listener(), data, tmp_path / "run", **options)
    assert load_state(tmp_path / "run" / "checkpoints")[0]["loop"]["step"] == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
