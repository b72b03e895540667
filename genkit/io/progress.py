"""Progress of long work: a live bar on a terminal, plain lines or JSON lines elsewhere.

A reporter that cannot write falls silent; it never ends the work it reports on.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any, cast

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from genkit.errors import UsageError
from genkit.io.run_records import Event, Message, ProgressState, Started, write_event

if TYPE_CHECKING:
    import numpy as np

    from genkit.io.preview import Preview

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


class Field(ProgressColumn):
    """Shows the field of that name of each task."""

    def __init__(self, name: str, **layout: Any) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis", **layout))
        self.name = name

    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get(self.name, "")))


class Bars(Progress):
    """Progress bars, and below them a picture once there is one."""

    picture: Preview | None = None

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.picture:
            yield self.picture


def new_bars(console: Console, refreshes: float = 10) -> Bars:
    """Progress bars with time left, rate, score and last values; `refreshes` are per second. On a
    narrow terminal the bar shrinks first, then the end of the line is left out."""
    names = Column(no_wrap=True, overflow="ellipsis", max_width=max(console.width // 3, 8))
    return Bars(
        TextColumn("{task.description}", "bold", markup=False, table_column=names),
        BarColumn(bar_width=24 if console.width >= 80 else 8 if console.width >= 40 else 3),
        TaskProgressColumn(),
        Field("left"),
        Field("note", ratio=1),
        console=console,
        refresh_per_second=refreshes,
        expand=True,
    )


def describe(state: ProgressState) -> str:
    """Rate, part of the work, last score and last values in a few words."""
    values = [
        f"{name} {value:.4g}"
        for name, value in state.values.items()
        if not name.endswith("gradient_norm")
    ]
    rate = state.images_per_second
    words = [f"{rate:.0f} img/s"] if rate is not None else []
    words += [state.stage] if state.stage else []
    words += [f"{name} {value:.3g}" for name, value in state.score.items()]
    return "  ".join(words + values[:4])


def in_a_line(state: ProgressState) -> str:
    """A state in one line, where there is no bar."""
    left = f"  {state.seconds_left:.0f} s left" if state.seconds_left is not None else ""
    return f"{min(state.fraction, 1.0):.0%}  {describe(state)}{left}"


def show_state(bars: Progress, task: TaskID, state: ProgressState, part: str = "") -> None:
    """Move a bar to a state of this part of the work; a bar that falls back starts again."""
    share = min(state.fraction, 1.0)
    if share < bars.tasks[bars.task_ids.index(task)].completed:
        bars.reset(task, total=1.0)
    left = state.seconds_left
    clock = "" if left is None or share >= 1 else f"{timedelta(seconds=round(left))}"
    note = "  ".join(filter(None, [part, describe(state)]))
    bars.update(task, completed=share, left=clock, note=note)


class Reporter:
    """Reports nothing; the base of the others."""

    last_score: Mapping[str, float] = {}  # of watched samples, by its name; added to all updates

    def start(self, title: str) -> None: ...

    def update(self, state: ProgressState) -> None: ...

    def score(self, name: str, value: float) -> None:
        """Samples got this score; it is shown from the next update on."""
        self.last_score = {name: value}

    def with_score(self, state: ProgressState) -> ProgressState:
        """The state with the last score of samples."""
        return state.model_copy(update={"score": dict(self.last_score)})

    def show(self, images: np.ndarray) -> None:
        """Samples were drawn: uint8, (n, C, H, W)."""

    def say(self, message: str) -> None: ...

    def stop(self) -> None: ...

    def counter(self, stage: str) -> Callable[[int, int], None]:
        """A callback (done, total) for a part of the work that counts images and begins now."""
        started = time.monotonic()

        def count(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            self.update(
                ProgressState(
                    fraction=done / total,
                    stage=stage,
                    images=done,
                    images_per_second=rate,
                    seconds_left=(total - done) / rate if done else None,
                )
            )

        return count


class Lines(Reporter):
    """Plain lines on stderr, at most one every ten seconds."""

    def __init__(self) -> None:
        self.title = ""
        self.last = float("-inf")

    def start(self, title: str) -> None:
        self.title = title

    def update(self, state: ProgressState) -> None:
        now = time.monotonic()
        if now - self.last >= LINE_SECONDS:
            self.last = now
            self.say(f"{self.title}: {in_a_line(self.with_score(state))}")

    def say(self, message: str) -> None:
        try:
            print(message, file=sys.stderr, flush=True)
        except (OSError, ValueError):  # ValueError: stderr is closed
            pass


class JSONLines(Reporter):
    """One JSON object a line on stdout, for a parent process to read. A broken pipe means that the
    parent is gone; this process then ends as on SIGTERM."""

    def _send(self, event: Event) -> None:
        try:
            print(write_event(event), flush=True)
        except BrokenPipeError:
            signal.raise_signal(signal.SIGTERM)
        except (OSError, ValueError):
            pass

    def start(self, title: str) -> None:
        self._send(Started(title=title))

    def update(self, state: ProgressState) -> None:
        self._send(self.with_score(state))

    def say(self, message: str) -> None:
        self._send(Message(message=message))


class Bar(Reporter):
    """A rich progress bar on stderr; with `preview`, newest samples below it."""

    def __init__(self, preview: bool = False) -> None:
        console = error_console()
        self.bars = new_bars(console, refreshes=2 if preview else 10)
        self.preview = preview and not console.options.ascii_only

    def start(self, title: str) -> None:
        self.task = self.bars.add_task(title, total=1.0, note="")
        self.bars.start()

    def update(self, state: ProgressState) -> None:
        show_state(self.bars, self.task, self.with_score(state))

    def show(self, images: np.ndarray) -> None:
        if self.preview:
            from genkit.io.preview import Preview

            self.bars.picture = Preview(images)

    def say(self, message: str) -> None:
        self.bars.console.print(message, markup=False, highlight=False)

    def stop(self) -> None:
        self.bars.stop()


def new_reporter(kind: str, preview: bool = False) -> Reporter:
    """The reporter of that kind; "auto" is a bar on a terminal and lines elsewhere. A reporter that
    cannot show a preview says so."""
    kinds = {"bar": Bar, "lines": Lines, "json": JSONLines, "none": Reporter}
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "lines"
    if kind not in kinds:
        raise UsageError(f"--progress {kind!r} is not known; choose auto, {', '.join(kinds)}")
    reporter = Bar(preview) if kind == "bar" else kinds[kind]()
    if preview and not (isinstance(reporter, Bar) and reporter.preview):
        reporter.say(
            "--preview needs a terminal that shows Unicode; grids are written all the same"
        )
    return reporter
