"""The loop in its run directory: budget, log, sample grids, checkpoints, and a watch on it all.

Knows neither command lines nor plugins' specs; what is trained on what, others have decided.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genkit import checkpoint, sampling
from genkit.config import Budget, RunConfig
from genkit.data import ImageData
from genkit.device import choose_device, place
from genkit.errors import Interrupted, PluginError, TrainingError, WriteError, plugin_code
from genkit.intake import check_state
from genkit.journal import Journal
from genkit.loop import Loop
from genkit.model import GenerativeModel
from genkit.progress import Reporter
from genkit.registry import Registry
from genkit.rundir import RunDir, write_json
from genkit.signals import signals_noted
from genkit.stream import Stream, to_bytes, to_unit_range
from genkit.watch import Look, Watch

GRID_IMAGES = 64
OUT_OF_MEMORY = "out of memory; train with a smaller --batch-size or a larger --accumulate"


class Runner:
    """One training in its run directory: the loop and everything that happens around it.

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
    ) -> None:
        self.directory = directory
        self.config = config
        self.settled = settled
        self.options = run
        self.budget = Budget.parse(run.budget)
        self.data = data
        self.plugins = registry.plugins
        self.reporter = reporter or Reporter()
        self.journal = Journal(directory, self.reporter)
        self.seconds = 0.0  # spent in iterations; grids and checkpoints do not count
        self.saved_step = -1  # of the newest state on disk
        device = choose_device(config["device"])
        self.stream = Stream(
            data.train, batch_size=model.config.batch_size, seed=run.seed, device=device
        )
        place(model, device)
        self.loop = Loop(
            model,
            self.stream,
            seed=run.seed,
            precision=config["precision"],
            accumulate=run.accumulate,
            ema_half_life=model.config.ema_half_life,
        )
        watched = min(run.watch, len(data.train.images))
        self.watch = Watch(registry, data, watched, device) if watched > 1 else None
        self.best = checkpoint.read_best(directory.checkpoints)

    @property
    def spent(self) -> float:
        """The share of the budget that is used up."""
        return self._spent_at(self.loop.step)

    def _spent_at(self, step: int) -> float:
        return self.budget.spent(
            step=step,
            images=step * self.loop.images_per_step,
            seconds=self.seconds * (step / max(self.loop.step, 1)),
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
        check_state(state, self.loop.model, average, self.loop._optimizers())

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a training state that fits instead of the beginning."""
        self.loop.load_state_dict(state["loop"])
        self.seconds, self.saved_step = state["seconds"], self.loop.step

    def _recall(self) -> None:
        """Take up the log where the run begins or goes on, and look back at it, so that what was
        told before is not told again."""
        for row in self.journal.restore(self.loop.step):
            if self.watch and "images_per_second" in row:
                self.watch.trouble(self.loop.model, self.journal.history)
            if self.watch and isinstance(row.get("diversity"), float):
                self.watch.collapse(Look(row["diversity"]), self._spent_at(row.get("step", 0)))

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
        for note in (*self.data.notes, *(self.watch.notes if self.watch else ())):
            self.reporter.say(note)
        try:
            with signals_noted() as signals:
                self._iterate(signals)
                self.save()
            if signals and self.spent < 1:
                status = "interrupted"
                raise Interrupted(signals[0], self.directory.path)
            status = "finished"
        except KeyboardInterrupt:
            self.reporter.say(f"Interrupted in the middle of a step. {self._what_is_kept()}")
            raise
        except (TrainingError, WriteError) as error:
            raise type(error)(f"{error}. {self._what_is_kept()}") from error
        except (RuntimeError, MemoryError, PluginError) as error:
            if is_out_of_memory(error):
                raise TrainingError(f"{OUT_OF_MEMORY}. {self._what_is_kept()}") from error
            raise
        finally:
            self.reporter.stop()
            self._notify("on_run_end", status=status)

    def _what_is_kept(self) -> str:
        path = self.directory.path
        if not self.directory.config_path.exists():
            return f"The run directory {path} is gone"
        kept = f"The last checkpoint is of step {self.saved_step}"
        if self.saved_step < 0:
            kept = "There is no checkpoint yet"
        best = f"; the best weights, of step {self.best['step']}, too" if self.best else ""
        return f"{kept}{best}; to go on from there: genkit resume {path}"

    def _iterate(self, signals: list[int]) -> None:
        self._recall()
        saved = time.monotonic()
        rate_step, rate_seconds = self.loop.step, self.seconds
        grids = self.grids_due
        if self.loop.step == 0 and grids:
            self.sample()
        while self.spent < 1 and not signals:
            start = time.perf_counter()
            logs = self.loop.iterate()
            due = self.loop.step % self.options.log_every == 0
            values = {name: float(value) for name, value in logs.items()} if due else {}
            self.seconds += time.perf_counter() - start
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
            if time.monotonic() - saved > self.options.checkpoint_seconds:
                self.journal.attempt("checkpoint", self.save)
                saved = time.monotonic()

    def log(self, values: dict[str, float], rate: float) -> None:
        """Write a line of metrics and report it. A value that is not finite is null there, since
        JSON has no NaN, and listeners do not see it; a loss would have stopped the run."""
        counts = {"step": self.loop.step, "images": self.loop.images_seen}
        row = {name: value if math.isfinite(value) else None for name, value in values.items()}
        values = {name: value for name, value in values.items() if row[name] is not None}
        times = {"seconds": self.seconds, "images_per_second": rate}
        self.journal.add({**counts, **row, **times})
        if self.watch and (trouble := self.watch.trouble(self.loop.model, self.journal.history)):
            self.journal.warn(self.loop.step, trouble)
        spent = self.spent
        left = self.seconds / spent * (1 - spent) if spent else None
        state = {"fraction": spent, **counts, "images_per_second": rate, "seconds_left": left}
        self.reporter.update({**state, "values": values})
        self._notify("on_log", step=self.loop.step, values=values)

    def sample(self) -> None:
        """Draw from the same noise as before: a grid to see, and more to be looked at. Models that
        encode add reconstructions."""
        self.loop.check_weights()
        model, step = self.loop.average, self.loop.step
        watched = self.watch.count if self.watch and step else 0
        images = sampling.draw(model, max(GRID_IMAGES, watched), seed=0)
        path = self.directory.samples / f"step-{step:09d}.png"
        grids = {path: images[:GRID_IMAGES]}
        real = torch.from_numpy(self.data.test.images[: GRID_IMAGES // 2])
        with torch.no_grad():
            training = model.training
            with plugin_code(f"{type(model).__name__}.reconstruct()"):
                again = model.eval().reconstruct(to_unit_range(real.to(model.device)))
            model.train(training)
        if again is not None:  # pairs: an image of the test split, and what the model makes of it
            pairs = torch.stack([real, to_bytes(again).cpu()], 1).flatten(0, 1)
            grids[path.with_name(f"reconstructions-{step:09d}.png")] = pairs
        for name, content in grids.items():
            grid = sampling.make_grid(content)
            self.journal.attempt("grid", partial(sampling.save_png, grid, name))
        self._notify("on_sample", step=step, path=path)
        if watched:
            self._look(images)

    def _look(self, images: Tensor) -> None:
        """Look at samples: keep the weights if they are the best so far, warn of a collapse."""
        assert self.watch
        step, notes = self.loop.step, len(self.watch.notes)
        look = self.watch.look(images)
        for note in self.watch.notes[notes:]:
            self.reporter.say(note)
        seen = {"diversity": look.diversity, self.watch.column or "score": look.score}
        seen = {name: value for name, value in seen.items() if value is not None}
        if seen:
            self.journal.add({"step": step, "images": self.loop.images_seen, **seen})
        if warning := self.watch.collapse(look, self.spent):
            self.journal.warn(step, warning)
        best = self.best["value"] if self.best else None
        if look.score is not None and self.watch.is_better(look.score, best):
            score = {"column": self.watch.column, "value": look.score}
            content = (self.directory.checkpoints, self.loop.average, self._card(), score)
            self.journal.attempt("best", partial(checkpoint.save_best, *content))
            self.best = checkpoint.read_best(self.directory.checkpoints)

    def _card(self) -> dict[str, Any]:
        """What goes into a file of weights beside them."""
        weights = "ema" if self.loop.ema_half_life else "raw"
        return {"model": self.config["model"], "step": self.loop.step, "weights": weights}

    def save(self) -> None:
        """Write the training state and the weights that samples are drawn from."""
        self.loop.check_weights()
        self.journal.flush(sync=True)  # before the state, after which these lines do not come again
        if self.loop.step != self.saved_step:  # a good state is not put at risk by its copy
            state = {
                "loop": self.loop.state_dict(),
                "seconds": self.seconds,
                "settled": self.settled,
            }
            with plugin_code("saving the training state"):
                checkpoint.check_plain(state)
            path = checkpoint.save_state(self.directory.checkpoints, self.loop.step, state)
            self.saved_step = self.loop.step
            self._notify("on_checkpoint", step=self.loop.step, path=path)
        card = self._card()
        checkpoint.save_weights(self.directory.weights_path, self.loop.average, card)
        summary = {
            "step": self.loop.step,
            "images": self.loop.images_seen,
            "seconds": self.seconds,
            "images_per_second": self.loop.images_seen / max(self.seconds, 1e-9),
            "weights": card["weights"],
            "best": self.best,
            "warnings": self.journal.warnings,
        }
        write_json(self.directory.path / "summary.json", summary)

    def _notify(self, event: str, **arguments: Any) -> None:
        for line in self.plugins.notify(event, run=self.directory.path, **arguments):
            self.reporter.say(line)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is a lack of memory."""
    kinds = (MemoryError, torch.OutOfMemoryError)
    while error and not isinstance(error, kinds) and "DefaultCPUAllocator" not in str(error):
        error = error.__cause__
    return error is not None
