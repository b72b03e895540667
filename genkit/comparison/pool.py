"""A pool of genkit commands: processes side by side, each with a progress bar."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import TaskID

from genkit.errors import GenkitError
from genkit.io.processes import genkit_command, last_words
from genkit.io.progress import in_a_line, new_bars, show_state
from genkit.io.run_records import Message, ProgressState, read_event


class ProcessPool:
    """The processes that are running, and a progress bar for each title, whose processes run one
    after the other.

    Args:
        reported: messages that the user has seen already.
        devices: values of CUDA_VISIBLE_DEVICES; each process gets the one with the fewest others.
    """

    def __init__(
        self, console: Console, reported: Sequence[str] = (), devices: Sequence[str] = ()
    ) -> None:
        self.reported = reported
        self.busy = dict.fromkeys(devices, 0)  # processes on each device
        self.bars = new_bars(console)
        self.console = console
        self.live = console.is_terminal
        self.tasks: dict[str, TaskID] = {}
        self.scores: dict[str, Mapping[str, float]] = {}  # the last of each title
        self.lock = threading.Lock()
        self.processes: set[subprocess.Popen[str]] = set()
        self.ended = False

    def __enter__(self) -> ProcessPool:
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
        """The environment of one more process. Each has a core; NumPy would take all of them, and
        its threads wait for each other where cores are busy."""
        environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ}
        if not self.busy:
            yield environment
            return
        with self.lock:
            device = min(self.busy, key=self.busy.__getitem__)
            self.busy[device] += 1
        try:
            yield {**environment, "CUDA_VISIBLE_DEVICES": device}
        finally:
            with self.lock:
                self.busy[device] -= 1

    def expect(self, titles: Sequence[str]) -> None:
        """Show a bar for each title that will run."""
        for title in titles:
            self.tasks[title] = self.bars.add_task(title, total=1.0, note="waiting")

    def run(self, command: list[str], title: str, part: str = "") -> None:
        """Run a genkit command to its end, showing its progress in the title's bar; `part` is what
        it does of the title's work. GenkitError if it fails."""
        if title not in self.tasks:
            self.expect([title])
        with self._device() as environment:
            self._run(command, title, part, environment)

    def _run(self, command: list[str], title: str, part: str, environment: dict[str, str]) -> None:
        task = self.tasks[title]
        self.bars.reset(task, total=1.0, left="", note=f"{part} starts".strip())
        whole = f"{title}: {part}" if part else title
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
                    # Ctrl-C reaches this process alone, which passes it on once: a second
                    # signal would keep trainings from saving.
                    process_group=0 if os.name == "posix" else None,
                )
                self.processes.add(process)
            with process:  # closes its pipe
                self._follow(process, title, part)
            code = process.returncode
            with self.lock:
                self.processes.discard(process)
            errors.seek(0)
            words = last_words(errors.read())
        score = [f"{name} {value:.3g}" for name, value in self.scores.get(title, {}).items()]
        end = f"{part} {'done' if code == 0 else 'failed'}".strip()
        self.bars.update(task, completed=1.0, left="", note="  ".join([end, *score]))
        if code != 0:
            raise GenkitError(words or f"the process ended with code {code}")
        if not self.live:
            self.say(f"{whole}: done")

    def _follow(self, process: subprocess.Popen[str], title: str, part: str) -> None:
        """Show what a process reports, until its output ends."""
        shown, whole = -1.0, f"{title}: {part}" if part else title
        for line in process.stdout or ():
            event = read_event(line)
            if isinstance(event, Message) and event.message not in self.reported:
                self.say(f"{whole}: {event.message}")
            if isinstance(event, ProgressState):
                share = min(event.fraction, 1.0)
                if event.score:
                    self.scores[title] = event.score
                show_state(self.bars, self.tasks[title], event, part)
                if not self.live and (share - shown >= 0.25 or share < shown):  # a few lines each
                    shown = share
                    self.say(f"{whole}: {in_a_line(event)}")

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
