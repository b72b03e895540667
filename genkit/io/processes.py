"""One command line as several processes that train together, on this machine.

For several machines there is torchrun; the environment variables are the same.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

from genkit.io.signals import HANGUP, handled

PATIENCE_SECONDS = 15.0  # for the others to end by themselves when one has failed


def is_first() -> bool:
    """Whether this process is the one that talks to the user: rank 0, or alone."""
    return os.environ.get("RANK", "0") == "0"


def is_launched() -> bool:
    """Whether this process is one of several that train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch(count: int, arguments: Sequence[str]) -> int:
    """Run a genkit command line as `count` ranks; only the first writes to the terminal.

    Returns 0, or the exit code of the rank that failed first, whose last lines are then shown. The
    others get some time to end, then they are killed. Signals to this process go to all of them.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        ranks = [
            subprocess.Popen(
                genkit_command(list(arguments)),
                env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=logs[rank] if rank else None,
                stderr=logs[rank] if rank else None,
                start_new_session=True,  # the terminal's signals come once, through this process
            )
            for rank in range(count)
        ]
        stack.enter_context(_signals_passed_on(ranks))
        failed = _wait(ranks)
        if failed is None:
            return 0
        code = ranks[failed].returncode
        if failed:
            _show(logs[failed], failed)
        if code < 0:
            print(f"process {failed} of {count} was ended by signal {-code}", file=sys.stderr)
        return 128 - code if code < 0 else code


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all have ended; once one has failed, the others get `PATIENCE_SECONDS`.

    Returns the rank that caused the failure: one that was killed from outside, or else the first
    that failed.
    """
    first: int | None = None
    deadline = float("inf")
    try:
        while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
            if first is None and any(process.returncode for process in ranks):
                first = next(i for i, process in enumerate(ranks) if process.returncode)
                deadline = time.monotonic() + PATIENCE_SECONDS
            time.sleep(0.05)
        codes = [process.returncode or 0 for process in ranks]
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
                process.wait()
    killed = [i for i, code in enumerate(codes) if code < 0]
    failed = [i for i, code in enumerate(codes) if code]
    if first is not None and codes[first] == codes[0]:
        first = 0  # its message is on the terminal already
    return next(iter([*killed, *([] if first is None else [first]), *failed]), None)


@contextmanager
def _signals_passed_on(ranks: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def pass_on(number: int, frame: object) -> None:
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    with handled(pass_on, signal.SIGINT, signal.SIGTERM, *HANGUP):
        yield


def _show(log: IO[bytes], rank: int) -> None:
    """Print the last lines of a rank that does not write to the terminal."""
    log.seek(0)
    for line in log.read().decode(errors="replace").splitlines()[-20:]:
        print(f"rank {rank}: {line}", file=sys.stderr)


def genkit_command(arguments: list[str]) -> list[str]:
    """A genkit command as a process of this Python. Nothing is imported from the working directory:
    a folder there may have the name of a package."""
    return [sys.executable, "-P", "-m", "genkit", *arguments]


def last_words(stderr: str) -> str:
    """The error message in what a process wrote, or its last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("Error: "):
            return line.removeprefix("Error: ")
    return lines[-1] if lines else ""
