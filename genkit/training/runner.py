"""Runs the loop until its budget is spent: log lines, grids, checkpoints, signals, the end.

On the first of several ranks a monitor looks at the training and a recorder writes its files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from genkit.compute.device import is_out_of_memory
from genkit.errors import Interrupted, PluginError, TrainingError, WriteError
from genkit.io.run_directory import MetricsRow
from genkit.io.run_records import ProgressState
from genkit.io.signals import signals_noted
from genkit.model import GenerativeModel
from genkit.phases.pace import Pace, parse_marks, read_clock
from genkit.runs.state_file import check_state
from genkit.sampling.draw import draw
from genkit.training.cadence import (
    WATCHING_SHARE,
    CheckpointCadence,
    GridCadence,
    LogCadence,
    WatchingTime,
)
from genkit.training.context import Moment, RunContext
from genkit.training.loop import Loop
from genkit.training.monitor import Monitor, Observation
from genkit.training.recorder import GRID_IMAGES, Recorder

OUT_OF_MEMORY = "out of memory; train with a smaller --batch-size or a larger --accumulate"


class Runner:
    """One training from its start, or from a training state, to its end.

    Args:
        monitor: looks at samples and at the log; None for none.
        recorder: writes the run directory; None on other ranks than the first.
    """

    def __init__(
        self, context: RunContext, loop: Loop, monitor: Monitor | None, recorder: Recorder | None
    ) -> None:
        self.context = context
        self.directory = context.directory
        self.options = context.options
        self.data = context.data
        self.reporter = context.reporter
        self.ranks = context.ranks
        self.loop = loop
        self.monitor = monitor
        self.recorder = recorder
        self.budget = context.budget
        self.seconds = 0.0  # spent in iterations; grids and checkpoints do not count
        self._watching = WatchingTime(self.budget)
        self._says_less = False
        self._compiling = context.options.compile  # in the first step
        self._shown = ProgressState(fraction=0.0)  # the last state that was reported

    @property
    def now(self) -> Moment:
        """Where the training stands."""
        step, images, epoch = self.loop.step, self.loop.images_seen, len(self.loop.stream)
        spent = self.budget.spent(
            step=step, images=images, seconds=self.seconds, images_per_epoch=epoch
        )
        return Moment(step, images, self.seconds, spent)

    def fits(self, state: Mapping[str, Any]) -> None:
        """Raise CheckpointError for a training state that is not of this model."""
        average = self.loop.average if self.loop.ema_half_life else None
        others = self.loop.other_averages
        check_state(state, self.loop.model, average, self.loop.optimizers, others)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a training state that fits."""
        self.loop.load_state_dict(state["loop"])
        self.seconds = state["seconds"]
        if self.recorder:
            self.recorder.saved_step = self.loop.step

    def run(self) -> None:
        """Train until the budget is spent; save on the way, at the end and on an interrupt.

        Raises:
            Interrupted: by a signal; the step was finished and all is saved.
            TrainingError: a loss or weight was not finite, which is never saved, or memory ran out.
            WriteError: the end of the run, or of an interrupted one, could not be saved.
        """
        self._notify("on_run_start")
        status = "failed"
        self.reporter.start(self.directory.name)
        for note in (*self.data.notes, *(self.monitor.start() if self.monitor else ())):
            self.reporter.say(note)
        try:
            with signals_noted() as signals:
                if self.context.record.start and not self.loop.step:
                    self.save()  # the other run may be gone later
                stop = self._iterate(signals)
                end = {"fraction": self.now.spent, "seconds_left": 0.0}
                self.reporter.update(self._shown.model_copy(update=end))
                self.save()
                if self.now.spent >= 1 and self.options.grids and self.recorder:
                    self.recorder.add_final_pictures(self.loop.average, self.data)
            if stop and self.now.spent < 1:
                status = "interrupted"
                raise Interrupted(stop[0], self.directory.path)
            status = "finished"
        except KeyboardInterrupt:
            self.reporter.say(f"Interrupted in the middle of a step. {self._what_is_kept}")
            raise
        except (TrainingError, WriteError) as error:
            raise type(error)(f"{error}. {self._what_is_kept}") from error
        except (RuntimeError, MemoryError, PluginError) as error:
            if is_out_of_memory(error):
                raise TrainingError(f"{OUT_OF_MEMORY}. {self._what_is_kept}") from error
            raise
        finally:
            self.reporter.stop()
            self._notify("on_run_end", status=status)

    @property
    def _what_is_kept(self) -> str:
        if self.recorder:
            return self.recorder.what_is_kept()
        return "The first process says what is kept"

    def _notify(self, event: str, **arguments: Any) -> None:
        if self.recorder:
            self.recorder.notify(event, **arguments)

    def _iterate(self, signals: list[int]) -> list[int]:
        """Iterate until the budget is spent or a signal asks to stop; returns the signals."""
        self._replay_log()
        log = LogCadence(self.options.log_every, self.now)
        grids = GridCadence(self.options.grids, self.now)
        checkpoints = CheckpointCadence(self.options.checkpoint_seconds)
        if grids.due(self.now.spent):
            self.sample()
        stop = self._agree(signals)
        pace = self._pace()
        while self.now.spent < 1 and not stop:
            log_due = log.due(self.loop.step + 1)
            values = self._step(pace, read=log_due)
            stop = self._agree(signals)
            if log_due:
                self.loop.check_weights()
                self.log(values, log.rate(self.now))
            if grids.due(self.now.spent):
                self.sample()
            if self.recorder and checkpoints.due():
                self.loop.check_weights()
                self.recorder.try_to_save(self.now, self.loop.state_dict(), self.loop.average)
                checkpoints.restart()
        evenly = all(phase.active == (0.0, 1.0) for phase in self.loop.phases)
        if evenly and self.budget.unit == "seconds" and (note := log.slowdown()):
            self.reporter.say(note)
        return stop

    def _pace(self) -> Pace:
        """What gives progress before each step, with the marks that the first rank has recorded."""
        clock = read_clock(self.directory.clock_path) if self.ranks.first else ""
        return Pace(
            self.budget,
            images_per_step=self.loop.images_per_step,
            images_per_epoch=len(self.loop.stream),
            marks=parse_marks(self.ranks.text(f"{clock}\n")),
            record=self.recorder.add_mark if self.recorder else lambda mark: None,
        )

    def _replay_log(self) -> None:
        """Show the monitor the log of a run that resumes, so that it warns of nothing twice."""
        if self.recorder is None:
            return
        monitor, history, now = self.monitor, self.recorder.history, self.now

        def replay(row: MetricsRow) -> None:
            if monitor is None:
                return
            if "images_per_second" in row:
                monitor.trouble(self.loop.model, history)
            if isinstance(diversity := row.get("diversity"), float):
                column = monitor.column or "score"
                if isinstance(score := row.get(column), float):
                    self.reporter.score(column, score)
                share = row.get("step", 0) / max(now.step, 1)
                monitor.collapse(Observation(diversity), now.spent * share)

        self.recorder.restore_log(now.step, replay)

    def _step(self, pace: Pace, *, read: bool) -> dict[str, float]:
        """One iteration, timed; returns what was logged if it is to be read, which waits for the
        device."""
        start = time.perf_counter()
        self.loop.iterate(pace.before(self.loop.step, self.seconds))
        values = self.loop.take_logs() if read else {}
        took = time.perf_counter() - start
        self.seconds += took
        if self._compiling:
            self._compiling = False
            self.reporter.say(f"compiling took most of the first step's {took:.0f} s")
        return values

    def _agree(self, signals: list[int]) -> list[int]:
        """Give all ranks one clock, and return the signals to stop for.

        Several ranks stop by this answer alone: one that stopped by its own signals, which may come
        at any moment, would leave the others waiting in the next step.
        """
        if self.ranks.count == 1:
            return signals  # as they come
        number = signals[0] if signals else 0
        self.seconds, received = self.ranks.largest(self.seconds, number)
        return [int(received)] if received else []

    def log(self, values: dict[str, float], rate: float) -> None:
        """Write a line of metrics, look for trouble and report progress."""
        values = self.ranks.sum(values)
        if self.recorder is None:
            return
        now = self.now
        self.recorder.add_values(now, values, rate)
        model, history = self.loop.model, self.recorder.history
        if self.monitor and (trouble := self.monitor.trouble(model, history)):
            self.recorder.warn(now, trouble)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._notify("on_log", step=now.step, values=finite)
        self._shown = ProgressState(
            fraction=now.spent,
            step=now.step,
            images=now.images,
            images_per_second=rate,
            seconds_left=now.seconds / now.spent * (1 - now.spent) if now.spent else None,
            values=finite,
        )
        self.reporter.update(self._shown)

    def sample(self) -> None:
        """Draw from the same noise as before: a grid to see, and more images for the monitor."""
        self.loop.check_weights()
        watched = min(self.options.watch, len(self.data.train.images)) if self.loop.step else 0
        count = self._affordable(max(GRID_IMAGES, watched))
        if not count:
            return
        start = time.perf_counter()
        images = draw(self.loop.average, count, seed=0, ranks=self.ranks)
        if self.recorder:
            self.recorder.add_samples(self.now, images, self.loop.average)
        if watched:
            self._observe(images, self.loop.average)
            for half_life, model in self.loop.other_averages.items():
                images = draw(model, count, seed=0, ranks=self.ranks)
                self._observe(images, model, f"@{half_life}")
        self._watching.add(count, time.perf_counter() - start)

    def _affordable(self, wanted: int) -> int:
        """How many images may be drawn now, the same on all ranks; the last grid is always drawn.
        Says so once if there are fewer than wanted."""
        count = self._watching.affordable(wanted, GRID_IMAGES, self.now)
        count = -int(self.ranks.largest(-count)[0])
        if self.now.spent >= 1:
            count = max(count, GRID_IMAGES)
        if count < wanted and not self._says_less:
            self._says_less = True
            self.reporter.say(
                f"samples take long to draw: fewer than --watch {self.options.watch}, and fewer "
                f"grids, so that they take at most {WATCHING_SHARE:.0%} of the time trained"
            )
        return count

    def _observe(self, images: Tensor, model: GenerativeModel, of: str = "") -> None:
        """Look at samples, uint8, (N, C, H, W): keep the weights if they are the best so far, warn
        of a collapse. `of` names another average than the first."""
        monitor, recorder, now = self.monitor, self.recorder, self.now
        if monitor is None or recorder is None:
            return
        seen = monitor.observe(images, model)
        for message in seen.messages:
            self.reporter.say(message)
        recorder.add_observation(now, {n + of: value for n, value in monitor.values(seen).items()})
        if found := monitor.better(seen, recorder.best):
            recorder.save_best(now, model, *found, of)
        if of:
            return
        if warning := monitor.collapse(seen, now.spent) or monitor.pale(images):
            recorder.warn(now, warning)
        if seen.score is not None:
            self.reporter.score(monitor.column or "score", seen.score)

    def save(self) -> None:
        """Write the training state and the weights, if all of them are finite."""
        self.loop.check_weights()
        if self.recorder:
            self.recorder.save(self.now, self.loop.state_dict(), self.loop.average)
