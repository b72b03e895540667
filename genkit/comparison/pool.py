"""A pool of genkit commands: processes side by side, each with a progress bar."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from rich.console import Console
from rich.progress import TaskID

from genkit.errors import GenkitError
from genkit.io.forks import ForkServer, Process, start_command
from genkit.io.processes import last_words
from genkit.io.progress import in_a_line, new_bars, show_state
from genkit.io.run_records import Message, ProgressState, read_event
from genkit.report.rows import Span


class ProcessPool:
    """The processes that are running, and a progress bar for each title.

    Args:
        reported: messages that the user has seen already.
        devices: values of CUDA_VISIBLE_DEVICES; each process gets the one with the fewest others.
        server: forks the processes; without it each is started by itself.
    """

    def __init__(
        self,
        console: Console,
        reported: Sequence[str] = (),
        devices: Sequence[str] = (),
        server: ForkServer | None = None,
    ) -> None:
        self.reported = reported
        self.server = server
        self.busy = dict.fromkeys(devices, 0)  # processes on each device
        self.bars = new_bars(console)
        self.console = console
        self.live = console.is_terminal
        self.tasks: dict[str, TaskID] = {}
        self.scores: dict[str, Mapping[str, float]] = {}  # the last of each title
        self.lock = threading.Lock()
        self.processes: set[Process] = set()
        self.timeline: list[Span] = []  # of the processes that have ended
        self.began = time.monotonic()
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
        """Environment variables for one more process."""
        if not self.busy:
            yield {}
            return
        with self.lock:
            device = min(self.busy, key=self.busy.__getitem__)
            self.busy[device] += 1
        try:
            yield {"CUDA_VISIBLE_DEVICES": device}
        finally:
            with self.lock:
                self.busy[device] -= 1

    def expect(self, titles: Sequence[str]) -> None:
        """Show a bar for each title that will run."""
        for title in titles:
            self.tasks[title] = self.bars.add_task(title, total=1.0, note="waiting")

    def run(self, command: list[str], title: str, part: str = "", aside: bool = False) -> None:
        """Run a genkit command to its end, showing its progress in the title's bar; `part` is what
        it does of the title's work. GenkitError if it fails.

        Args:
            aside: it runs beside others of its title, with a bar of its own.
        """
        bar = f"{part} of {title}" if aside else title
        if bar not in self.tasks:
            self.expect([bar])
        with self._device() as variables:
            self._run(command, title, part, self.tasks[bar], variables)

    def _run(
        self, command: list[str], title: str, part: str, task: TaskID, variables: dict[str, str]
    ) -> None:
        start = time.monotonic() - self.began
        self.bars.reset(task, total=1.0, left="", note=f"{part} starts".strip())
        whole = f"{title}: {part}" if part else title
        with tempfile.TemporaryFile("w+") as errors:
            with self.lock:
                if self.ended:
                    raise GenkitError("the comparison was ended")
                reporting = [*command, "--progress", "json"]
                process, output = start_command(reporting, errors.fileno(), self.server, variables)
                self.processes.add(process)
            with output:
                self._follow(output, title, part, task)
            code = process.wait()
            end = time.monotonic() - self.began
            with self.lock:
                self.processes.discard(process)
                self.timeline.append(Span(what=title, part=part, start=start, end=end))
            errors.seek(0)
            words = last_words(errors.read())
        score = [f"{name} {value:.3g}" for name, value in self.scores.get(title, {}).items()]
        note = f"{part} {'done' if code == 0 else 'failed'}".strip()
        self.bars.update(task, completed=1.0, left="", note="  ".join([note, *score]))
        if code != 0:
            raise GenkitError(words or f"the process ended with code {code}")
        if not self.live:
            self.say(f"{whole}: done")

    def _follow(self, output: IO[str], title: str, part: str, task: TaskID) -> None:
        """Show what a process reports, until its output ends."""
        shown, whole = -1.0, f"{title}: {part}" if part else title
        for line in output:
            event = read_event(line)
            if isinstance(event, Message) and event.message not in self.reported:
                self.say(f"{whole}: {event.message}")
            if isinstance(event, ProgressState):
                share = min(event.fraction, 1.0)
                if event.score:
                    self.scores[title] = event.score
                show_state(self.bars, task, event, part)
                if not self.live and (share - shown >= 0.25 or share < shown):  # a few lines each
                    shown = share
                    self.say(f"{whole}: {in_a_line(event)}")

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
