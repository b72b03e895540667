"""Training assembled: config, data, model and loop into a run directory, and resumed there."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from genkit import checkpoint, sampling
from genkit.config import Budget, Resolved, RunConfig, resolve, to_json
from genkit.data import ImageData
from genkit.device import choose_device, choose_precision, cpu_threads, place
from genkit.errors import CheckpointError, Interrupted, UsageError
from genkit.loop import Loop
from genkit.model import GenerativeModel
from genkit.progress import Reporter
from genkit.provenance import describe_data, describe_origin
from genkit.registry import Registry
from genkit.rundir import RunDir, new_run_path, write_json
from genkit.runs import (
    Run,
    build_model,
    count_parameters,
    load_data,
    load_run,
    read_values,
    with_absolute_paths,
)
from genkit.signals import signals_noted
from genkit.specs import TrainerSpec
from genkit.stream import Stream, to_bytes, to_unit_range

GRID_IMAGES = 64
SCHEMA = 1  # of config.json


def train(
    spec: TrainerSpec,
    resolved: Resolved,
    run_path: Path,
    registry: Registry,
    reporter: Reporter | None = None,
) -> Run:
    """Train a new model into a new run directory and return the run."""
    data = load_data(registry, resolved.run)
    device = choose_device(resolved.run.device)
    precision = choose_precision(resolved.run.precision, device)
    model = build_model(spec, resolved.options, data.shape, resolved.run.seed)
    directory = RunDir.create(run_path)
    config = {
        "schema": SCHEMA,
        "model": spec.name,
        "run": to_json(with_absolute_paths(resolved.run, registry)),
        "options": to_json(resolved.options),
        "sources": resolved.sources,
        "image_shape": asdict(data.shape),
        "data": describe_data(data),
        "precision": precision,
        "device": str(device),
        "parameters": count_parameters(model),
        "provenance": describe_origin(registry, spec.name),
    }
    write_json(directory.config_path, config)
    directory.metrics_path.touch()
    training = _Training(directory, config, resolved.run, data, model, registry, reporter)
    with cpu_threads(resolved.run.threads):
        training.run()
    return load_run(directory.path, registry, str(device))


def resume(
    path: Path, registry: Registry, *, budget: str | None = None, reporter: Reporter | None = None
) -> Run:
    """Go on with a run from its newest whole checkpoint, towards its budget or another one."""
    if budget:
        try:
            Budget.parse(budget)
        except ValueError as error:
            raise UsageError(f"--budget: {error}") from None
    directory = RunDir.open(path)
    config = directory.config()
    spec = registry.trainers.find(config["model"])
    values = {**config["run"], **({"budget": budget} if budget else {})}
    run = read_values(RunConfig, values, directory)
    options = read_values(spec.config, config["options"], directory)
    state, notes = checkpoint.load_state(directory.checkpoints)
    data = load_data(registry, run)
    recorded = config.get("data", {}).get("fingerprint")
    if data.fingerprint != recorded:
        raise UsageError(
            f"the data set {run.data!r} is not the one this run was trained on: its fingerprint "
            f"is {data.fingerprint[:12]}, recorded is {str(recorded)[:12]}"
        )
    model = build_model(spec, options, data.shape, run.seed)
    if budget:
        config["run"]["budget"] = budget
        write_json(directory.config_path, config)
    training = _Training(directory, config, run, data, model, registry, reporter)
    training.restore(state)
    if training.spent >= 1:
        notes.append(f"the budget of {run.budget} is spent; for more give --budget")
    for note in notes:
        training.reporter.say(note)
    with cpu_threads(run.threads):
        training.run()
    return load_run(path, registry, config["device"])


class _Training:
    """One training in its run directory: the loop and everything that happens around it."""

    def __init__(
        self,
        directory: RunDir,
        config: dict[str, Any],
        run: RunConfig,
        data: ImageData,
        model: GenerativeModel,
        registry: Registry,
        reporter: Reporter | None,
    ) -> None:
        self.directory = directory
        self.config = config
        self.options = run
        self.budget = Budget.parse(run.budget)
        self.data = data
        self.plugins = registry.plugins
        self.reporter = reporter or Reporter()
        self.seconds = 0.0  # spent in iterations; grids and checkpoints do not count
        self.saved_step = -1  # of the newest state on disk
        device = choose_device(config["device"])
        self.stream = Stream(
            data.train,
            batch_size=model.config.batch_size,
            seed=run.seed,
            device=device,
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

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a training state instead of the beginning."""
        try:
            self.loop.load_state_dict(state["loop"])
            self.seconds, self.saved_step = state["seconds"], self.loop.step
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint in {self.directory.checkpoints} does not fit the model: "
                f"{str(error).splitlines()[0]}"
            ) from None
        self.directory.cut_metrics(self.loop.step)

    def run(self) -> None:
        """Train until the budget is spent; save on the way, at the end and on an interrupt."""
        self._notify("on_run_start")
        status = "failed"
        self.reporter.start(self.directory.name)
        for note in self.data.notes:
            self.reporter.say(note)
        try:
            with signals_noted() as signals:
                self._iterate(signals)
                self.save()
            if signals and self.spent < 1:
                status = "interrupted"
                raise Interrupted(signals[0], self.directory.path)
            status = "finished"
        finally:
            self.reporter.stop()
            self._notify("on_run_end", status=status)

    def _iterate(self, signals: list[int]) -> None:
        saved = time.monotonic()
        rate_step, rate_seconds = self.loop.step, self.seconds
        grids = self.grids_due
        if self.loop.step == 0 and grids:
            self.write_grid()
        while self.spent < 1 and not signals:
            start = time.perf_counter()
            logs = self.loop.iterate()
            due = self.loop.step % self.options.log_every == 0
            values = {name: float(value) for name, value in logs.items()} if due else {}
            self.seconds += time.perf_counter() - start
            if due:
                self.loop.check_finite()
                steps = self.loop.step - rate_step
                elapsed = max(self.seconds - rate_seconds, 1e-9)
                rate = steps * self.loop.images_per_step / elapsed
                rate_step, rate_seconds = self.loop.step, self.seconds
                self.log(values, rate)
            if self.grids_due > grids:
                grids = self.grids_due
                self.write_grid()
            if time.monotonic() - saved > self.options.checkpoint_seconds:
                self.save()
                saved = time.monotonic()

    def log(self, values: dict[str, float], rate: float) -> None:
        """Write a line of metrics and report it. A value that is not finite is null there, since
        JSON has no NaN, and listeners do not see it; a loss would have stopped the run."""
        counts = {"step": self.loop.step, "images": self.loop.images_seen}
        row = {name: value if math.isfinite(value) else None for name, value in values.items()}
        values = {name: value for name, value in values.items() if row[name] is not None}
        times = {"seconds": self.seconds, "images_per_second": rate}
        self.directory.append_metrics({**counts, **row, **times})
        spent = self.spent
        left = self.seconds / spent * (1 - spent) if spent else None
        state = {"fraction": spent, **counts, "images_per_second": rate, "seconds_left": left}
        self.reporter.update({**state, "values": values})
        self._notify("on_log", step=self.loop.step, values=values)

    def write_grid(self) -> None:
        """Sample the same noise as before into a grid; models that encode add reconstructions."""
        self.loop.check_weights()
        model = self.loop.average
        path = self.directory.samples / f"step-{self.loop.step:09d}.png"
        sampling.save_png(sampling.make_grid(sampling.draw(model, GRID_IMAGES, seed=0)), path)
        real = torch.from_numpy(self.data.test.images[: GRID_IMAGES // 2])
        with torch.no_grad():
            training = model.training
            again = model.eval().reconstruct(to_unit_range(real.to(model.device)))
            model.train(training)
        if again is not None:  # pairs: an image of the test split, and what the model makes of it
            pairs = torch.stack([real, to_bytes(again).cpu()], 1).flatten(0, 1)
            name = path.with_name(f"reconstructions-{self.loop.step:09d}.png")
            sampling.save_png(sampling.make_grid(pairs), name)
        self._notify("on_sample", step=self.loop.step, path=path)

    def save(self) -> None:
        """Write the training state and the weights that samples are drawn from."""
        self.loop.check_weights()
        if self.loop.step != self.saved_step:  # a good state is not put at risk by its copy
            state = {"loop": self.loop.state_dict(), "seconds": self.seconds}
            path = checkpoint.save_state(self.directory.checkpoints, self.loop.step, state)
            self.saved_step = self.loop.step
            self._notify("on_checkpoint", step=self.loop.step, path=path)
        weights = "ema" if self.loop.ema_half_life else "raw"
        card = {"model": self.config["model"], "step": self.loop.step, "weights": weights}
        checkpoint.save_weights(self.directory.weights_path, self.loop.average, card)
        summary = {
            "step": self.loop.step,
            "images": self.loop.images_seen,
            "seconds": self.seconds,
            "images_per_second": self.loop.images_seen / max(self.seconds, 1e-9),
            "weights": weights,
        }
        write_json(self.directory.path / "summary.json", summary)

    def _notify(self, event: str, **arguments: Any) -> None:
        for line in self.plugins.notify(event, run=self.directory.path, **arguments):
            self.reporter.say(line)


def train_by_name(
    registry: Registry,
    model: str,
    *,
    preset: str = "full",
    config: Path | None = None,
    run_dir: Path | None = None,
    reporter: Reporter | None = None,
    given: Mapping[str, Any] | None = None,
) -> Run:
    """Train a model by its name and the options given; what the command and `genkit.train` do."""
    spec = registry.trainers.find(model)
    resolved = resolve(spec, preset=preset, file=config, given=given)
    path = run_dir or new_run_path(model, resolved.run.data, resolved.run.seed)
    return train(spec, resolved, path, registry, reporter)
