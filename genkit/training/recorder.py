"""What a training leaves behind: its log, sample grids, checkpoints, best weights and warnings.

Only the first of several ranks keeps one. What cannot be written now is tried again later.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit.data import ImageData
from genkit.data.alpha import over_checkers
from genkit.errors import GenkitError, plugin_code, printable
from genkit.io.files import write_json
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir
from genkit.model import to_bytes, to_unit_range
from genkit.registry.loader import Plugins
from genkit.runs import checkpoint
from genkit.sampling.completion import complete, completion_rows, known_half
from genkit.sampling.grids import make_grid, save_png
from genkit.sampling.latents import interpolate
from genkit.training.loop import Loop
from genkit.training.metrics_log import Journal
from genkit.training.monitor import Look, Watch

GRID_IMAGES = 64
EXHIBITS = 8  # rows of an exhibit
COMPLETIONS = 3  # of each image


class Record:
    """The record of one training, in its run directory.

    Args:
        config: what config.json holds.
        settled: what of it stays for good, as text; it goes into each training state.
        watch: looks at samples and at the log; None for nobody.
    """

    def __init__(
        self,
        directory: RunDir,
        config: dict[str, Any],
        settled: str,
        loop: Loop,
        data: ImageData,
        watch: Watch | None,
        plugins: Plugins,
        reporter: Reporter,
    ) -> None:
        self.directory = directory
        self.config = config
        self.settled = settled
        self.loop = loop
        self.data = data
        self.watch = watch
        self.plugins = plugins
        self.reporter = reporter
        self.journal = Journal(directory, reporter)
        self.saved_step = -1  # of the newest state on disk
        self.best = checkpoint.read_best(directory.checkpoints)

    def notify(self, event: str, **arguments: Any) -> None:
        """Tell listeners of a run event; says which of them failed."""
        for line in self.plugins.notify(event, run=self.directory.path, **arguments):
            self.reporter.say(line)

    def recall(self, spent: float) -> None:
        """Take up the log where the run begins or goes on, `spent` being the share of the budget
        that is used, and look back at it, so that what was told before is not told again."""
        for row in self.journal.restore(self.loop.step):
            if self.watch and "images_per_second" in row:
                self.watch.trouble(self.loop.model, self.journal.history)
            if self.watch and isinstance(row.get("diversity"), float):
                if isinstance(score := row.get(self.watch.column or "score"), float):
                    self.reporter.score(self.watch.column or "score", score)
                share = row.get("step", 0) / max(self.loop.step, 1)
                self.watch.collapse(Look(row["diversity"]), spent * share)

    def log(self, values: dict[str, float], times: dict[str, float]) -> dict[str, float]:
        """Write a line of metrics; returns the finite ones of the values. A value that is not
        finite is null there, since JSON has no NaN; a loss would have stopped the run."""
        counts = {"step": self.loop.step, "images": self.loop.images_seen}
        row = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.journal.add({**counts, **row, **times})
        if self.watch and (trouble := self.watch.trouble(self.loop.model, self.journal.history)):
            self.journal.warn(self.loop.step, trouble)
        finite = {name: value for name, value in values.items() if row[name] is not None}
        self.notify("on_log", step=self.loop.step, values=finite)
        return finite

    def add_samples(self, images: Tensor, spent: float) -> None:
        """Write a grid of samples, uint8, (N, C, H, W), and look at them. Models that encode add
        reconstructions."""
        step = self.loop.step
        path = self.directory.samples / f"step-{step:09d}.png"
        self._write_grid(path, images[:GRID_IMAGES])
        real = torch.from_numpy(self.data.test.images[: GRID_IMAGES // 2])
        again = self._reconstruct(real)
        if again is not None:  # pairs: an image of the test split, and what the model makes of it
            pairs = torch.stack([real, again], 1).flatten(0, 1)
            self._write_grid(path.with_name(f"reconstructions-{step:09d}.png"), pairs)
        self.notify("on_sample", step=step, path=path)
        self.reporter.show(over_checkers(images[:GRID_IMAGES].numpy()))
        if self.watch and step:
            self._look(self.watch, images, spent)

    def _reconstruct(self, real: Tensor) -> Tensor | None:
        model = self.loop.average
        training = model.training
        with torch.no_grad(), plugin_code(f"{type(model).__name__}.reconstruct()"):
            again = model.eval().reconstruct(to_unit_range(real.to(model.device)))
        model.train(training)
        return None if again is None else to_bytes(again).cpu()

    def _write_grid(self, path: Path, images: Tensor, columns: int | None = None) -> None:
        grid = make_grid(images, columns)
        self.journal.attempt("grid", lambda: save_png(grid, path))

    def add_exhibits(self) -> None:
        """Write what the model can show at the end of a training: ways from one of the samples to
        another, completions of test images. One that fails is told, and ends nothing."""
        makers = {"interpolation": self._interpolate, "completion": self._complete}
        for name, make in makers.items():
            path = self.directory.samples / f"{name}.png"
            try:
                rows = make()
                if rows is not None:  # (rows, columns, C, H, W)
                    self._write_grid(path, rows.flatten(0, 1), columns=rows.shape[1])
            except (GenkitError, RuntimeError, MemoryError) as error:
                self.reporter.say(f"{path} was not made: {printable(error)}")

    def _interpolate(self) -> Tensor | None:
        return interpolate(self.loop.average, EXHIBITS)

    def _complete(self) -> Tensor | None:
        model, shape = self.loop.average, self.data.shape
        images = torch.from_numpy(self.data.test.images[:EXHIBITS])
        known = known_half(shape)
        found = complete(model, images.repeat_interleave(COMPLETIONS, 0), known)
        if found is None:
            return None
        completions = found.view(-1, COMPLETIONS, *images.shape[1:])
        return completion_rows(images, known, completions)

    def _look(self, watch: Watch, images: Tensor, spent: float) -> None:
        """Keep the weights if their samples are the best so far, warn of a collapse."""
        step, notes = self.loop.step, len(watch.notes)
        look = watch.look(images)
        for note in watch.notes[notes:]:
            self.reporter.say(note)
        seen = {"diversity": look.diversity, watch.column or "score": look.score}
        seen = {name: value for name, value in seen.items() if value is not None}
        if seen:
            self.journal.add({"step": step, "images": self.loop.images_seen, **seen})
        if warning := watch.collapse(look, spent):
            self.journal.warn(step, warning)
        best = self.best["value"] if self.best else None
        if look.score is not None:
            self.reporter.score(watch.column or "score", look.score)
        if look.score is not None and watch.is_better(look.score, best):
            score = {"column": watch.column, "value": look.score}
            folder, average = self.directory.checkpoints, self.loop.average
            self.journal.attempt(
                "best", lambda: checkpoint.save_best(folder, average, self._card(), score)
            )
            self.best = checkpoint.read_best(folder)

    def _card(self) -> dict[str, Any]:
        """What goes into a file of weights beside them."""
        weights = "ema" if self.loop.ema_half_life else "raw"
        return {"model": self.config["model"], "step": self.loop.step, "weights": weights}

    def save(self, seconds: float) -> None:
        """Write the training state, and the weights that samples are drawn from, after so many
        seconds of training; WriteError if that is not possible."""
        self.journal.flush(sync=True)  # before the state, after which these lines do not come again
        step = self.loop.step
        if step != self.saved_step:  # a good state is not put at risk by its copy
            state = {"loop": self.loop.state_dict(), "seconds": seconds, "settled": self.settled}
            with plugin_code("saving the training state"):
                checkpoint.check_plain(state)
            path = checkpoint.save_state(self.directory.checkpoints, step, state)
            self.saved_step = step
            self.notify("on_checkpoint", step=step, path=path)
        card = self._card()
        checkpoint.save_weights(self.directory.weights_path, self.loop.average, card)
        summary = {
            "step": step,
            "images": self.loop.images_seen,
            "seconds": seconds,
            "images_per_second": self.loop.images_seen / max(seconds, 1e-9),
            "weights": card["weights"],
            "best": self.best,
            "warnings": self.journal.warnings,
        }
        write_json(self.directory.path / "summary.json", summary)

    def what_is_kept(self) -> str:
        """What there is to go on from, for who reads of an error."""
        path = self.directory.path
        if not self.directory.config_path.exists():
            return f"The run directory {path} is gone"
        kept = f"The last checkpoint is of step {self.saved_step}"
        if self.saved_step < 0:
            kept = "There is no checkpoint yet"
        best = f"; the best weights, of step {self.best['step']}, too" if self.best else ""
        return f"{kept}{best}; to go on from there: genkit resume {path}"
