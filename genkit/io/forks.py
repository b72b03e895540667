"""Genkit commands as forks of one process, which has imported what takes long.

A command in a process of its own spends seconds on importing torch before it works. A fork has it
at once, and shares the memory. A command that crashes takes no other with it, as before. On Linux:
elsewhere, libraries that torch uses do not survive a fork.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import IO, Protocol

from genkit.io.processes import genkit_command

LONGEST = 100_000  # bytes of a request; longer command lines get a process of their own
UNKNOWN = 255  # exit code of a fork whose end nobody saw, since the server was killed


class Process(Protocol):
    """What is needed of a running command; `subprocess.Popen` has it, too."""

    def wait(self) -> int: ...
    def terminate(self) -> None: ...


class Fork:
    """A running fork.

    Args:
        status: answers of the server: a line with the process number, later one with the exit code.
    """

    def __init__(self, status: IO[str]) -> None:
        self._status = status
        self._code: int | None = None
        self.pid = self._answer(0)  # 0 if the server is gone

    def wait(self) -> int:
        """Its exit code, -N if signal N ended it, once it has ended."""
        if self._code is None:
            self._code = self._answer(UNKNOWN)
            self._status.close()
        return self._code

    def _answer(self, otherwise: int) -> int:
        line = self._status.readline()
        if not line:
            self._status.close()
        return int(line or otherwise)

    def terminate(self) -> None:
        """Ask it to stop."""
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


class ForkServer:
    """The process that forks, `genkit fork-server`, as its users see it.

    Args:
        modules: names of what it imports beside what all commands need. They must start neither
            threads nor a GPU, which do not survive a fork.
    """

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                genkit_command(["fork-server", str(theirs.fileno()), *modules]),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_one_thread(),
                process_group=0,
            )

    def start(
        self, arguments: Sequence[str], changes: Mapping[str, str], stdout: int, stderr: int
    ) -> Fork | None:
        """Run a genkit command; None if that is not possible, since the server was killed.

        Args:
            changes: of environment variables.
            stdout, stderr: file descriptors.
        """
        request = json.dumps([list(arguments), dict(changes)]).encode()
        if len(request) > LONGEST:
            return None
        answers, status = os.pipe()
        try:
            socket.send_fds(self._channel, [request], [stdout, stderr, status])
        except OSError:
            os.close(answers)
            return None
        finally:
            os.close(status)
        fork = Fork(os.fdopen(answers))
        return fork if fork.pid else None

    def close(self) -> None:
        """End the server, at once."""
        self._channel.close()
        self._process.terminate()
        self._process.wait()


def start_command(
    arguments: Sequence[str],
    stderr: int,
    server: ForkServer | None = None,
    changes: Mapping[str, str] | None = None,
) -> tuple[Process, IO[str]]:
    """Start a genkit command, as a fork if there is a server; and what it will write to stdout.

    Ctrl-C does not reach it: who started it passes it on, once. A second signal would keep
    trainings from saving.

    Args:
        stderr: file descriptor.
        changes: of environment variables.
    """
    changes = changes or {}
    output, stdout = os.pipe()
    try:
        process = server and server.start(arguments, changes, stdout, stderr)
        return process or subprocess.Popen(
            genkit_command(list(arguments)),
            stdout=stdout,
            stderr=stderr,
            env={**_one_thread(), **changes},
            process_group=0 if os.name == "posix" else None,
        ), os.fdopen(output, errors="replace")
    finally:
        os.close(stdout)


def _one_thread() -> dict[str, str]:
    """The environment, for one of several processes that have a core each. NumPy would take all
    cores, and its threads wait for each other where these are busy."""
    return {"OPENBLAS_NUM_THREADS": "1", **os.environ}


@contextmanager
def fork_server(modules: Sequence[str] = ()) -> Iterator[ForkServer | None]:
    """A fork server for a while, see `ForkServer`; None where processes cannot be forked safely."""
    if sys.platform != "linux":
        yield None
        return
    server = ForkServer(modules)
    try:
        yield server
    finally:
        server.close()


def serve(channel: socket.socket, modules: Iterable[Sequence[str]]) -> list[str]:
    """Fork for each request. Returns in the forks only: the command line that each is to run.

    Args:
        channel: where requests come from. It ends with whoever opened it: then forks are asked to
            stop, and this process ends, too.
        modules: names of those to import before the first request, before the second, and so on.
    """
    groups, statuses = iter(modules), dict[int, int]()  # where the answers about each fork go
    _import(next(groups, ()))
    ended, noted = os.pipe()
    watched: list[socket.socket | int] = [channel, ended]
    os.set_blocking(noted, False)
    signal.set_wakeup_fd(noted)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    while True:
        ready, _, _ = select.select(watched, [], [])
        if ended in ready:
            os.read(ended, 4096)
            _tell_ends(statuses)
        if channel in ready:
            request, files, _, _ = socket.recv_fds(channel, LONGEST, 3)
            if not request:
                for pid in statuses:
                    os.kill(pid, signal.SIGTERM)
                raise SystemExit
            pid = os.fork()
            if pid == 0:
                for file in (channel.detach(), ended, noted, *statuses.values()):
                    os.close(file)
                return _become(request, *files)
            statuses[pid] = files.pop()
            _tell(statuses[pid], pid)
            for file in files:
                os.close(file)
            _import(next(groups, ()))


def _import(modules: Sequence[str]) -> None:
    for name in modules:
        import_module(name)
    gc.freeze()  # the collector would write to what is shared with forks, which copies it


def _tell_ends(statuses: dict[int, int]) -> None:
    """Answer for the forks that have ended."""
    for pid in list(statuses):
        found, how = os.waitpid(pid, os.WNOHANG)
        if found:
            _tell(statuses[pid], os.waitstatus_to_exitcode(how))
            os.close(statuses.pop(pid))


def _tell(status: int, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(status, b"%d\n" % number)


def _become(request: bytes, stdout: int, stderr: int, status: int) -> list[str]:
    """Turn a fork of the server into a process that was started for a request; its command line."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for file in (stdout, stderr, status):
        os.close(file)
    arguments, changes = json.loads(request)
    os.environ.update(changes)
    sys.argv[1:] = arguments
    return list(arguments)
