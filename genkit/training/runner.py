"""The loop run until its budget is spent: what is due when, on one rank or on several.

Knows neither command lines nor plugins' specs; what is trained on what, others have decided.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from genkit.compute.device import choose_device, place
from genkit.compute.ranks import ALONE, Ranks
from genkit.config.budget import Budget
from genkit.config.run import RunConfig
from genkit.data import ImageData
from genkit.errors import Interrupted, PluginError, TrainingError, WriteError
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir
from genkit.io.signals import signals_noted
from genkit.model import GenerativeModel
from genkit.registry.catalogue import Registry
from genkit.runs.state_file import check_state
from genkit.sampling import draw as sampling
from genkit.training.loop import Loop
from genkit.training.monitor import Watch
from genkit.training.recorder import GRID_IMAGES, Record
from genkit.training.stream import Stream

OUT_OF_MEMORY = "out of memory; train with a smaller --batch-size or a larger --accumulate"


class Runner:
    """One training: the loop, its budget, and the record that the first rank keeps of it.

    Args:
        config: what config.json holds.
        settled: what of it stays for good, as text; it goes into each training state.
        model: new, on the CPU.
    """

    def __init__(
        self,
        directory: RunDir,
        config: dict[str, Any],
        settled: str,
        run: RunConfig,
        data: ImageData,
        model: GenerativeModel,
        registry: Registry,
        reporter: Reporter | None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.directory = directory
        self.options = run
        self.budget = Budget.parse(run.budget)
        self.data = data
        self.ranks = ranks
        self.reporter = reporter or Reporter()
        self.seconds = 0.0  # spent in iterations; grids and checkpoints do not count
        device = ranks.device(choose_device(config["device"]))
        self.stream = Stream(
            data.train,
            batch_size=model.config.batch_size,
            seed=run.seed,
            device=device,
            ranks=ranks,
        )
        place(model, device)
        self.loop = Loop(
            model,
            self.stream,
            seed=run.seed,
            precision=config["precision"],
            accumulate=run.accumulate,
            compile=run.compile,
            ema_half_life=model.config.ema_half_life,
            ranks=ranks,
        )
        self.watched = min(run.watch, len(data.train.images))
        self.shown: dict[str, Any] = {}  # the last state that was reported
        self.record: Record | None = None
        if ranks.first:
            watch = Watch(registry, data, self.watched, device) if self.watched > 1 else None
            self.record = Record(
                directory, config, settled, self.loop, data, watch, registry.plugins, self.reporter
            )

    @property
    def spent(self) -> float:
        """The share of the budget that is used up."""
        return self.budget.spent(
            step=self.loop.step,
            images=self.loop.images_seen,
            seconds=self.seconds,
            images_per_epoch=len(self.stream),
        )

    @property
    def grids_due(self) -> int:
        """How many sample grids are due by now: the first before training, the last at its end,
        the others evenly between them."""
        count, spent = self.options.grids, self.spent
        if spent >= 1 or count == 0:
            return count
        return int(spent * (count - 1) + 1e-9) + (count > 1)

    def fits(self, state: dict[str, Any]) -> None:
        """Raise CheckpointError for a training state that is not of this model."""
        average = self.loop.average if self.loop.ema_half_life else None
        check_state(state, self.loop.model, average, self.loop.optimizers)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a training state that fits instead of the beginning."""
        self.loop.load_state_dict(state["loop"])
        self.seconds = state["seconds"]
        if self.record:
            self.record.saved_step = self.loop.step

    def run(self) -> None:
        """Train until the budget is spent; save on the way, at the end and on an interrupt.

        Raises:
            Interrupted: by a signal; the step was finished and all is saved.
            TrainingError: a loss or weight was not finite, which is never saved, or memory ran out.
            WriteError: the end of the run, or an interrupt's, could not be saved.
        """
        self._notify("on_run_start")
        status = "failed"
        self.reporter.start(self.directory.name)
        watch = self.record.watch if self.record else None
        for note in (*self.data.notes, *(watch.notes if watch else ())):
            self.reporter.say(note)
        try:
            with signals_noted() as signals:
                stop = self._iterate(signals)
                self.reporter.update({**self.shown, "fraction": self.spent, "seconds_left": 0.0})
                self.save()
                if self.record and self.spent >= 1 and self.options.grids:
                    self.record.add_exhibits()
            if stop and self.spent < 1:
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
        return self.record.what_is_kept() if self.record else "The first process says what is kept"

    def _notify(self, event: str, **arguments: Any) -> None:
        if self.record:
            self.record.notify(event, **arguments)

    def _iterate(self, signals: list[int]) -> list[int]:
        if self.record:
            self.record.recall(self.spent)
        saved = time.monotonic()
        rate_step, rate_seconds = self.loop.step, self.seconds
        begun = self.loop.step
        grids = self.grids_due
        if self.loop.step == 0 and grids:
            self.sample()
        stop = self._agree(signals)
        while self.spent < 1 and not stop:
            start = time.perf_counter()
            logs = self.loop.iterate()
            due = self.loop.step % self.options.log_every == 0
            values = {name: float(value) for name, value in logs.items()} if due else {}
            took = time.perf_counter() - start
            self.seconds += took
            if self.options.compile and self.loop.step == begun + 1:
                self.reporter.say(f"compiling took most of the first step's {took:.0f} s")
            stop = self._agree(signals)
            if due:
                self.loop.check_weights()
                steps = self.loop.step - rate_step
                elapsed = max(self.seconds - rate_seconds, 1e-9)
                rate = steps * self.loop.images_per_step / elapsed
                rate_step, rate_seconds = self.loop.step, self.seconds
                self.log(values, rate)
            if self.grids_due > grids:
                grids = self.grids_due
                self.sample()
            if self.record and time.monotonic() - saved > self.options.checkpoint_seconds:
                self.record.journal.attempt("checkpoint", self.save)
                saved = time.monotonic()
        return stop

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
        """Write a line of metrics and report it."""
        values = self.ranks.sum(values)
        if self.record:
            times = {"seconds": self.seconds, "images_per_second": rate}
            values = self.record.log(values, times)
            spent = self.spent
            left = self.seconds / spent * (1 - spent) if spent else None
            counts = {"step": self.loop.step, "images": self.loop.images_seen}
            state = {"fraction": spent, **counts, "images_per_second": rate, "seconds_left": left}
            self.shown = {**state, "values": values}
            self.reporter.update(self.shown)

    def sample(self) -> None:
        """Draw from the same noise as before: a grid to see, and more to be looked at."""
        self.loop.check_weights()
        count = max(GRID_IMAGES, self.watched if self.loop.step else 0)
        images = sampling.draw(self.loop.average, count, seed=0, ranks=self.ranks)
        if self.record:
            self.record.add_samples(images, self.spent)

    def save(self) -> None:
        """Write the training state and the weights, if all of them are finite."""
        self.loop.check_weights()
        if self.record:
            self.record.save(self.seconds)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a lack of memory."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    while error and not isinstance(error, kinds) and "DefaultCPUAllocator" not in str(error):
        error = error.__cause__
    return error is not None
