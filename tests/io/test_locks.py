"""One process at a time trains in a run directory; whoever only reads is not kept out."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toys import QUIET, TINY, child_environment, registry, train_tiny, write_npz

from genkit.errors import UsageError
from genkit.io.files import write_json
from genkit.io.run_directory import RunDir
from genkit.runs.run import load_run
from genkit.training.resume import resume

torch.set_num_threads(1)
# Holds the lock of a run directory until it is killed; says so first.
HOLD = """
import sys, time
from pathlib import Path
from genkit.io.run_directory import RunDir
with RunDir(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def data(tmp_path):
    return write_npz(tmp_path / "data.npz")


@pytest.fixture
def run(tmp_path, data):
    return train_tiny("vae", data, tmp_path / "run", budget="2steps")


@pytest.fixture
def holder(run):
    """Another process that holds the lock of the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def try_lock(path):
    """Whether another process can lock a run directory now: 0 if so, 7 if it is locked."""
    script = "import sys; from pathlib import Path; from genkit.io.run_directory import RunDir\n"
    script += "from genkit.errors import UsageError\n"
    script += "try:\n with RunDir(Path(sys.argv[1])).locked(): pass\n"
    script += "except UsageError: sys.exit(7)"
    return subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode


def test_a_run_that_is_being_trained_is_refused_and_undisturbed(run, holder):
    before = contents(run.path)
    with pytest.raises(UsageError) as caught:
        resume(run.path, registry(), budget="4steps")
    assert str(caught.value) == (
        f"another process trains in {run.path} now; wait until it ends, or stop it"
    )
    assert contents(run.path) == before


def test_samples_and_scores_do_not_wait_for_the_training(run, holder):
    assert torch.equal(load_run(run.path, registry()).sample(3), run.sample(3))
    write_json(run.directory.evaluation_path, [])
    assert RunDir.open(run.path).read_metrics()


def test_the_lock_is_free_as_soon_as_its_process_is_killed(run, holder):
    assert try_lock(run.path) == 7
    holder.kill()
    holder.wait()
    assert (run.path / ".lock").exists()  # it stays and blocks nobody
    assert resume(run.path, registry(), budget="4steps").summary.step == 4


def test_the_lock_is_free_after_a_training_and_after_an_error(run):
    assert try_lock(run.path) == 0
    with pytest.raises(ZeroDivisionError), run.directory.locked():
        raise ZeroDivisionError
    assert try_lock(run.path) == 0


def test_one_process_does_not_train_twice_in_one_directory_either(run):
    with run.directory.locked(), pytest.raises(UsageError, match="another process trains"):
        resume(run.path, registry(), budget="4steps")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_copy_of_the_process_does_not_keep_the_lock(run):
    """A worker process that was forked may outlive the training it was made for."""
    script = f"""
import os, signal, sys, time
from pathlib import Path
from genkit.io.run_directory import RunDir
with RunDir(Path({str(run.path)!r})).locked():
    child = os.fork()
    if not child:
        os.close(1)
        time.sleep(100)
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    child = int(done.stdout)
    try:
        assert done.returncode == -signal.SIGKILL
        assert try_lock(run.path) == 0
        os.kill(child, 0)  # it lives
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_file_system_has_no_locks_a_file_takes_their_place(run, monkeypatch, code):
    def flock(number, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(2):
        with run.directory.locked(), pytest.raises(UsageError, match="another process trains"):
            resume(run.path, registry(), budget="4steps")
    assert resume(run.path, registry(), budget="4steps").summary.step == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_such_a_file_blocks_nobody_once_its_process_was_killed(tmp_path, code):
    script = f"""
import errno, fcntl, os, signal, sys
from pathlib import Path
from genkit.errors import UsageError
from genkit.io.run_directory import RunDir
def flock(number, operation):
    raise OSError({code}, os.strerror({code}))
fcntl.flock = flock
run = RunDir(Path({str(tmp_path)!r}))
def locks():
    child = os.fork()
    if not child:
        try:
            with run.locked():
                if sys.argv[1:]:
                    os.kill(os.getpid(), signal.SIGKILL)
                os._exit(0)
        except UsageError:
            os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
with run.locked():
    assert locks() == 7
assert locks() == 0
sys.argv.append("killed")
assert locks() == -9
del sys.argv[1:]
assert locks() == 0
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.slow
def test_a_second_command_is_refused_while_the_first_goes_on(tmp_path, data):
    path = tmp_path / "run"

    def command(*words):
        return subprocess.Popen(
            [sys.executable, "-m", "genkit", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )

    options = [f"--{k.replace('_', '-')}={v}" for k, v in {**TINY["vae"], **QUIET}.items()]
    words = ["--budget", "1000000steps", "--run-dir", str(path), "--data", data, *options]
    first = command("train", "vae", "--checkpoint-seconds=0.1", *words)
    try:
        end = time.monotonic() + 60
        while not (path / "summary.json").exists():
            assert time.monotonic() < end and first.poll() is None
            time.sleep(0.02)
        commands = [
            command("resume", str(path)),
            command("train", "vae", *words),
            command("sample", str(path), "-o", str(tmp_path / "grid.png")),
        ]
        codes, words = [], []
        for process in commands:
            _, errors = process.communicate(timeout=60)
            codes.append(process.returncode)
            words.append(errors)
        assert codes == [2, 2, 0] and "Traceback" not in "".join(words)
        assert "another process trains in" in words[0] and len(words[0].splitlines()) == 1
        assert "exists and is not empty; choose another --run-dir" in words[1]
        assert Path(tmp_path, "grid.png").exists() and first.poll() is None
    finally:
        first.send_signal(signal.SIGTERM)
        _, errors = first.communicate(timeout=60)
    assert first.returncode == 143 and "all is saved" in errors
