"""Writes what a training leaves behind: log, sample grids, checkpoints, best weights, warnings.

Only the first of several ranks has a recorder. What cannot be written now is tried again later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit.data import ImageData
from genkit.data.alpha import over_checkers
from genkit.errors import GenkitError, PluginError, printable
from genkit.io.run_directory import MetricsRow
from genkit.io.run_records import ClockMark, Summary
from genkit.model import GenerativeModel
from genkit.phases.pace import append_mark
from genkit.runs import checkpoint
from genkit.sampling.grids import make_grid, save_png
from genkit.training.context import Moment, RunContext
from genkit.training.metrics_log import MetricsLog
from genkit.training.pictures import FINAL_PICTURES, own_pictures, reconstruct_pairs
from genkit.training.settled import settled_text

GRID_IMAGES = 64


class Recorder:
    """The files of one training, written as it reports what happens.

    Args:
        weights: what the model that is sampled holds: "ema" or "raw".
    """

    def __init__(self, context: RunContext, weights: str) -> None:
        self.directory = context.directory
        self.reporter = context.reporter
        self.weights = weights
        self.saved_step = -1  # of the newest state on disk
        self.best = checkpoint.read_best(context.directory.checkpoints)
        self._model_name = context.record.model
        self._settled = settled_text(context.record)
        self._test_images = torch.from_numpy(context.data.test.look(GRID_IMAGES // 2))
        self._asks_for_pictures = True
        self._plugins = context.registry.plugins
        self._log = MetricsLog(context.directory, context.reporter)

    @property
    def history(self) -> Mapping[str, list[float]]:
        """The latest values of the log, by name."""
        return self._log.history

    def notify(self, event: str, **arguments: Any) -> None:
        """Call the listeners of a run event; says which of them failed."""
        for line in self._plugins.notify(event, run=self.directory.path, **arguments):
            self.reporter.say(line)

    def restore_log(self, step: int, on_row: Callable[[MetricsRow], None]) -> None:
        """Read the log where the run starts or resumes; `on_row` gets each line."""
        self._log.restore(step, on_row)

    def add_values(self, now: Moment, values: Mapping[str, float], rate: float) -> None:
        """Write a line of metrics. A value that is not finite is null there: JSON has no NaN. (A
        loss that is not finite ends the run.)"""
        row = {name: value if math.isfinite(value) else None for name, value in values.items()}
        times = {"seconds": now.seconds, "images_per_second": rate}
        self._log.add({"step": now.step, "images": now.images, **row, **times})

    def add_observation(self, now: Moment, seen: Mapping[str, float]) -> None:
        """Write a line about samples: their diversity and score, by name."""
        if seen:
            self._log.add({"step": now.step, "images": now.images, **seen})

    def add_mark(self, mark: ClockMark) -> None:
        """Write how progress runs from here on."""
        self._log.attempt("clock", lambda: append_mark(self.directory.clock_path, mark))

    def warn(self, now: Moment, message: str) -> None:
        """Warn on the screen and in the log."""
        self._log.warn(now.step, message)

    def add_samples(self, now: Moment, images: Tensor, model: GenerativeModel) -> None:
        """Write a grid of samples, uint8, (N, C, H, W), which the model drew. Models that encode
        add reconstructions of test images."""
        path = self.directory.grid_path(now.step)
        self._write_grid(path, images[:GRID_IMAGES])
        pairs = reconstruct_pairs(model, self._test_images)  # (2 N, C, H, W)
        if pairs is not None:
            self._write_grid(self.directory.grid_path(now.step, "reconstructions"), pairs)
        self._add_own_pictures(now, model)
        self.notify("on_sample", step=now.step, path=path)
        self.reporter.show(over_checkers(images[:GRID_IMAGES].numpy()))

    def _add_own_pictures(self, now: Moment, model: GenerativeModel) -> None:
        """Write the pictures of the model's own; once they fail, that is reported, and no more are
        asked for."""
        if not self._asks_for_pictures:
            return
        try:
            for name, rows in own_pictures(model, self._test_images).items():
                path = self.directory.grid_path(now.step, name)
                self._write_grid(path, rows.flatten(0, 1), columns=rows.shape[1])
        except PluginError as error:
            self._asks_for_pictures = False
            self.reporter.say(f"no more pictures of the model's own: {error}")

    def add_final_pictures(self, model: GenerativeModel, data: ImageData) -> None:
        """Write what the trained model can show beside samples."""
        for name, make in FINAL_PICTURES.items():
            self.add_picture(name, partial(make, model, data))

    def add_picture(self, name: str, make: Callable[[], Tensor | None]) -> None:
        """Write a picture of the trained model; `make` returns uint8, (rows, columns, C, H, W), or
        None. A failure is reported, and does not end the training."""
        path = self.directory.samples / f"{name}.png"
        try:
            rows = make()
            if rows is not None:
                self._write_grid(path, rows.flatten(0, 1), columns=rows.shape[1])
        except (GenkitError, RuntimeError, MemoryError) as error:
            self.reporter.say(f"{path} was not made: {printable(error)}")

    def _write_grid(self, path: Path, images: Tensor, columns: int | None = None) -> None:
        """Write images, uint8, (N, C, H, W), as one PNG."""
        grid = make_grid(images, columns)
        self._log.attempt("grid", lambda: save_png(grid, path))

    def save_best(
        self, now: Moment, model: GenerativeModel, column: str, score: float, of: str = ""
    ) -> None:
        """Keep weights whose samples scored best so far; `of` names another average."""
        folder, metadata = self.directory.checkpoints, self._metadata(now)
        metadata["weights"] += of
        self._log.attempt(
            "best", lambda: checkpoint.save_best(folder, model, metadata, column, score)
        )
        self.best = checkpoint.read_best(folder)

    def _metadata(self, now: Moment) -> dict[str, Any]:
        """What a file of weights says of itself."""
        return {"model": self._model_name, "step": now.step, "weights": self.weights}

    def save(self, now: Moment, loop_state: Mapping[str, Any], model: GenerativeModel) -> None:
        """Write the training state, and the weights that samples are drawn from.

        Raises:
            WriteError: that is not possible now.
        """
        self._log.flush(sync=True)  # first: after this state, these lines are not written again
        if now.step != self.saved_step:  # a good state is not put at risk by writing it again
            state = {"loop": loop_state, "seconds": now.seconds, "settled": self._settled}
            path = checkpoint.save_state(self.directory.checkpoints, now.step, state)
            self.saved_step = now.step
            self.notify("on_checkpoint", step=now.step, path=path)
        checkpoint.save_weights(self.directory.weights_path, model, self._metadata(now))
        Summary(
            step=now.step,
            images=now.images,
            seconds=now.seconds,
            images_per_second=now.images / max(now.seconds, 1e-9),
            weights=self.weights,
            best=self.best,
            warnings=tuple(self._log.warnings),
        ).write(self.directory.summary_path)

    def try_to_save(
        self, now: Moment, loop_state: Mapping[str, Any], model: GenerativeModel
    ) -> None:
        """`save`; a full disk is reported, and the next checkpoint tries again."""
        self._log.attempt("checkpoint", lambda: self.save(now, loop_state, model))

    def what_is_kept(self) -> str:
        """What there is to resume from, as the end of an error message."""
        path = self.directory.path
        if not self.directory.config_path.exists():
            return f"The run directory {path} is gone"
        best = f"the best weights are of step {self.best.step}" if self.best else ""
        if self.saved_step < 0:
            return f"There is no checkpoint yet{f'; {best}' if best else ''}"
        kept = f"The last checkpoint is of step {self.saved_step}"
        return f"{kept}{f', {best}' if best else ''}; to resume from there: genkit resume {path}"
