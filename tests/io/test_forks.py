"""Forks behave as processes that were started by themselves, only sooner."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from genkit.comparison.compare import own_metrics
from genkit.io import forks
from genkit.io.forks import Fork, ForkServer, Process, start_command
from genkit.registry.catalogue import load_registry

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there forks are safe")

# A server whose forks run Python source instead of a genkit command.
SERVER = """
import os, socket, sys, time
from genkit.io.forks import serve
source, *rest = serve(socket.socket(fileno=int(sys.argv[-1])), [["colorsys"], ["wave"]])
exec(source)
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForkServer]:
    def command(words: list[str]) -> list[str]:
        if words[0] == "fork-server":
            return [sys.executable, "-c", SERVER, words[1]]
        return [sys.executable, "-c", "import os, sys, time; " + words[0]]

    monkeypatch.setattr(forks, "genkit_command", command)
    with forks.fork_server() as found:
        assert found
        yield found


@contextmanager
def started(
    server: ForkServer | None, *words: str, **variables: str
) -> Iterator[tuple[Process, IO[str]]]:
    """A running command and its output."""
    with tempfile.TemporaryFile("w+") as errors:
        process, output = start_command(words, errors.fileno(), server, variables)
        with output:
            yield process, output
        process.wait()


def run(server: ForkServer, source: str, **variables: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    with tempfile.TemporaryFile("w+") as errors:
        process, output = start_command([source], errors.fileno(), server, variables)
        assert isinstance(process, Fork)
        with output:
            text = output.read()
        code = process.wait()
        errors.seek(0)
        return code, text, errors.read()


def test_output_errors_and_exit_code_reach_the_caller(server: ForkServer) -> None:
    source = "print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert run(server, source) == (3, "out\n", "err\n")
    assert run(server, "pass") == (0, "", "")
    code, _, errors = run(server, "raise ValueError('mine')")
    assert code == 1 and "ValueError: mine" in errors


def test_modules_are_imported_once_in_the_server_some_after_the_first_fork(
    server: ForkServer,
) -> None:
    source = "print('colorsys' in sys.modules, 'wave' in sys.modules, os.getppid())"
    first, second = run(server, source)[1], run(server, source)[1]
    assert first.split()[:2] == ["True", "False"] and second.split()[:2] == ["True", "True"]
    assert first.split()[2] == second.split()[2] == str(server._process.pid)


def test_a_fork_has_its_own_variables_arguments_and_process_group(server: ForkServer) -> None:
    source = "print(os.environ['COLOUR'], sys.argv[1:] == [source], os.getpgid(0) == os.getpid())"
    assert run(server, source, COLOUR="red")[1] == "red True True\n"
    assert run(server, "print('COLOUR' in os.environ)")[1] == "False\n"
    assert run(server, "print(os.environ['OPENBLAS_NUM_THREADS'])")[1] == "1\n"


def test_a_fork_holds_no_file_of_another_one(server: ForkServer) -> None:
    with started(server, "time.sleep(30)") as (first, output):
        files = run(server, "print(*sorted(os.listdir('/proc/self/fd')))")[1].split()
        assert set(files) <= {"0", "1", "2", "3"}  # 3 is the listing itself
        first.terminate()
        assert output.read() == "" and first.wait() == -signal.SIGTERM


def test_forks_run_side_by_side_and_a_killed_one_hurts_no_other(server: ForkServer) -> None:
    with started(server, "time.sleep(0.5); print('done')") as (slow, output):
        assert run(server, "os.kill(os.getpid(), 9)")[0] == -signal.SIGKILL
        assert run(server, "os.abort()")[0] == -signal.SIGABRT
        assert output.read() == "done\n" and slow.wait() == 0


@pytest.mark.parametrize("how", ["killed", "long"])
def test_without_the_server_a_command_has_a_process_of_its_own(
    server: ForkServer, how: str
) -> None:
    source = "print(os.environ['COLOUR'])"
    if how == "killed":
        server._process.kill()
        server._process.wait()
    else:
        source += " #" + "x" * forks.LONGEST
    with started(server, source, COLOUR="red") as (process, output):
        assert not isinstance(process, Fork)
        assert output.read() == "red\n" and process.wait() == 0


def test_a_fork_whose_server_is_killed_is_seen_to_end(server: ForkServer) -> None:
    with started(server, "time.sleep(0.5)") as (fork, output):
        server._process.kill()
        assert output.read() == "" and fork.wait() == forks.UNKNOWN


def test_forks_stop_when_whoever_started_the_server_is_gone(
    server: ForkServer, tmp_path: Path
) -> None:
    there, left = tmp_path / "there", tmp_path / "left"
    source = "import signal; from pathlib import Path; "
    source += f"signal.signal(signal.SIGTERM, lambda *_: Path({str(left)!r}).touch()); "
    source += f"Path({str(there)!r}).touch(); signal.pause()"
    with started(server, source) as (fork, output):
        while not there.exists():
            time.sleep(0.01)
        server._channel.close()  # as the end of the process does
        assert output.read() == "" and left.exists()
        assert server._process.wait(30) == 0 and fork.wait() == forks.UNKNOWN


@pytest.mark.slow
def test_a_training_in_a_fork_has_the_same_bits_as_one_in_its_own_process(tmp_path: Path) -> None:
    found = []
    with forks.fork_server() as server:
        for name, by in (("fork", server), ("own", None)):
            command = ["train", "vae", "--preset", "quick", "--budget", "3steps", "--threads", "1"]
            command += ["--grids", "0", "--watch", "0", "--run-dir", str(tmp_path / name)]
            with started(by, *command, "--progress", "none") as (process, output):
                output.read()
                assert process.wait() == 0
            found.append((tmp_path / name / "model.safetensors").read_bytes())
    assert found[0] == found[1] and len(found[0]) > 1000


@pytest.mark.slow
def test_what_the_server_imports_starts_no_thread_and_no_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither survives a fork."""
    asks = (
        "import os, sys, torch; from genkit.io import forks; from importlib import import_module\n"
        "def serve(channel, groups):\n"
        "    for group in groups:\n"
        "        for name in group:\n"
        "            import_module(name)\n"
        "    print(len(os.listdir('/proc/self/task')), torch.cuda.is_initialized())\n"
        "    os._exit(0)\n"
        "forks.serve = serve\n"
        "from genkit.cli import main\n"
        "sys.stdout.reconfigure(line_buffering=True); main(sys.argv[1:])"
    )
    modules = own_metrics(load_registry())
    assert len(modules) > 2
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [sys.executable, "-c", asks, "fork-server", str(theirs.fileno()), *modules],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.split() == ["1", "False"]
