"""genkit commands run as processes side by side, each with a progress bar."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import TaskID

from genkit.errors import GenkitError
from genkit.progress import describe, new_bars, show_state


class Crew:
    """The processes that are running, and a progress bar for each job.

    Args:
        said: what the user has been told already.
        devices: values of CUDA_VISIBLE_DEVICES; each process gets the one with the fewest others.
    """

    def __init__(
        self, console: Console, said: Sequence[str] = (), devices: Sequence[str] = ()
    ) -> None:
        self.said = said
        self.busy = dict.fromkeys(devices, 0)  # processes on each device
        self.bars = new_bars(console)
        self.console = console
        self.live = console.is_terminal
        self.lock = threading.Lock()
        self.processes: set[subprocess.Popen[str]] = set()
        self.ended = False

    def __enter__(self) -> Crew:
        if self.live:
            self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        if self.live:
            self.bars.stop()

    def end(self) -> None:
        """Ask all running processes to stop; trainings save before they do."""
        with self.lock:
            self.ended = True
            for process in self.processes:
                process.terminate()

    @contextmanager
    def _device(self) -> Iterator[dict[str, str]]:
        """The environment of one more process."""
        if not self.busy:
            yield dict(os.environ)
            return
        with self.lock:
            device = min(self.busy, key=self.busy.__getitem__)
            self.busy[device] += 1
        try:
            yield {**os.environ, "CUDA_VISIBLE_DEVICES": device}
        finally:
            with self.lock:
                self.busy[device] -= 1

    def run(self, command: list[str], title: str) -> None:
        """Run a genkit command to its end, showing its progress; GenkitError if it fails."""
        with self._device() as environment:
            self._run(command, title, environment)

    def _run(self, command: list[str], title: str, environment: dict[str, str]) -> None:
        task = self.bars.add_task(title, total=1.0, note="starting")
        with tempfile.TemporaryFile("w+") as errors:
            with self.lock:
                if self.ended:
                    raise GenkitError("the comparison was ended")
                process = subprocess.Popen(
                    genkit_command([*command, "--progress", "json"]),
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=environment,
                    # Ctrl-C reaches this process alone, which tells the others once: a second
                    # signal would keep trainings from saving.
                    process_group=0 if os.name == "posix" else None,
                )
                self.processes.add(process)
            with process:  # closes its pipe
                self._follow(process, title, task)
            code = process.returncode
            with self.lock:
                self.processes.discard(process)
            errors.seek(0)
            words = last_words(errors.read())
        self.bars.update(task, completed=1.0, note="done" if code == 0 else "failed")
        if code != 0:
            raise GenkitError(words or f"it ended with code {code}")
        if not self.live:
            self._line(f"{title}: done")

    def _follow(self, process: subprocess.Popen[str], title: str, task: TaskID) -> None:
        """Show what a process reports, until it reports no more."""
        said = -1.0
        for line in process.stdout or ():
            event = _read_event(line)
            if event.get("event") == "message" and event["message"] not in self.said:
                self._line(f"{title}: {event['message']}")
            if event.get("event") == "update":
                share = min(event["fraction"], 1.0)
                show_state(self.bars, task, event)
                if not self.live and (share - said >= 0.25 or share < said):  # a few lines each
                    said = share
                    self._line(f"{title}: {share:.0%}  {describe(event)}")

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def genkit_command(arguments: list[str]) -> list[str]:
    """A genkit command as a process of this Python. What lies in the working directory is not
    imported: a folder there may be called like one of the packages."""
    return [sys.executable, "-P", "-m", "genkit", *arguments]


def count_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}  # something that a plugin printed
    return event if isinstance(event, dict) else {}


def last_words(stderr: str) -> str:
    """The error message in what a process wrote, or its last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("Error: "):
            return line.removeprefix("Error: ")
    return lines[-1] if lines else ""
