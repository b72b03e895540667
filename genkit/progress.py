"""How long work reports on itself: a live bar on a terminal, plain lines or JSON lines elsewhere.

A reporter that cannot write falls silent; it never ends the work it reports on.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from genkit.errors import UsageError

LINE_SECONDS = 10.0  # between plain lines


class _Silent:
    """A stream whose writes never fail: its terminal may be gone, or it may be None."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, AttributeError):  # ValueError: it is closed
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def error_console() -> Console:
    """A console on stderr that falls silent instead of failing."""
    return Console(file=cast(IO[str], _Silent(sys.stderr)))


def new_bars(console: Console) -> Progress:
    """Progress bars with rate, time left and the last values."""
    return Progress(
        TextColumn("[bold]{task.description}", markup=True),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
    )


def describe(state: Mapping[str, Any]) -> str:
    """Rate and last values of a training in a few words."""
    values = [
        f"{key} {value:.4g}"
        for key, value in state.get("values", {}).items()
        if not key.endswith("gradient_norm")
    ]
    words = [f"{state['images_per_second']:.0f} img/s"] if "images_per_second" in state else []
    words += [state["stage"]] if "stage" in state else []
    return "  ".join(words + values[:4])


def show_state(bars: Progress, task: TaskID, state: Mapping[str, Any]) -> None:
    """Move a bar to a state; one that falls back begins anew, for another part of the work."""
    share = min(state["fraction"], 1.0)
    if share < bars.tasks[bars.task_ids.index(task)].completed:
        bars.reset(task, total=1.0)
    bars.update(task, completed=share, note=describe(state))


class Reporter:
    """Reports nothing; the base of the others.

    `update` gets a mapping with "fraction" (0 to 1) and some of "step", "images",
    "images_per_second", "seconds_left", "values" (name to float) and "stage".
    """

    def start(self, title: str) -> None: ...

    def update(self, state: Mapping[str, Any]) -> None: ...

    def say(self, message: str) -> None: ...

    def stop(self) -> None: ...

    def counter(self, stage: str) -> Callable[[int, int], None]:
        """A callback (done, total) for a part of the work that counts images and begins now."""
        started = time.monotonic()

        def count(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            left = {"seconds_left": (total - done) / rate} if done else {}
            state = {"fraction": done / total, "stage": stage, "images": done}
            self.update({**state, "images_per_second": rate, **left})

        return count


class Lines(Reporter):
    """Plain lines on stderr, at most one every ten seconds."""

    def __init__(self) -> None:
        self.title = ""
        self.last = float("-inf")

    def start(self, title: str) -> None:
        self.title = title

    def update(self, state: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - self.last >= LINE_SECONDS:
            self.last = now
            left = state.get("seconds_left")
            ending = f"  {left:.0f} s left" if left is not None else ""
            self.say(f"{self.title}: {state['fraction']:.0%}  {describe(state)}{ending}")

    def say(self, message: str) -> None:
        try:
            print(message, file=sys.stderr, flush=True)
        except (OSError, ValueError):  # ValueError: stderr is closed
            pass


class JSONLines(Reporter):
    """One JSON object a line on stdout, for a parent process to read. When nobody reads any more,
    the parent is gone, and this process ends as if it had been asked to by SIGTERM."""

    def _send(self, **event: Any) -> None:
        try:
            print(json.dumps(event), flush=True)
        except BrokenPipeError:
            signal.raise_signal(signal.SIGTERM)
        except (OSError, ValueError):
            pass

    def start(self, title: str) -> None:
        self._send(event="start", title=title)

    def update(self, state: Mapping[str, Any]) -> None:
        self._send(event="update", **state)

    def say(self, message: str) -> None:
        self._send(event="message", message=message)


class Bar(Reporter):
    """A rich progress bar on stderr."""

    def __init__(self) -> None:
        self.bars = new_bars(error_console())

    def start(self, title: str) -> None:
        self.task = self.bars.add_task(title, total=1.0, note="")
        self.bars.start()

    def update(self, state: Mapping[str, Any]) -> None:
        show_state(self.bars, self.task, state)

    def say(self, message: str) -> None:
        self.bars.console.print(message, markup=False, highlight=False)

    def stop(self) -> None:
        self.bars.stop()


def new_reporter(kind: str) -> Reporter:
    """The reporter of that kind; "auto" is a bar on a terminal and lines elsewhere."""
    kinds = {"bar": Bar, "lines": Lines, "json": JSONLines, "none": Reporter}
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "lines"
    if kind not in kinds:
        raise UsageError(f"there is no progress {kind!r}; choose auto, {', '.join(kinds)}")
    return kinds[kind]()
