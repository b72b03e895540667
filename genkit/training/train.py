"""One training, from options to a run: data, model, record, loop, monitor, recorder, run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from genkit.compute.device import (
    check_compiler,
    choose_device,
    cpu_threads,
    place,
    time_convolutions,
)
from genkit.compute.graphs import CudaRecorder
from genkit.compute.ranks import Ranks, joined
from genkit.config.resolve import Resolved, fit, resolve
from genkit.config.run import RunConfig
from genkit.config.validation import to_json
from genkit.contracts.trial import check_before_training
from genkit.data import ImageData
from genkit.errors import UsageError
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir, new_run_path
from genkit.io.run_records import SCHEMA, RunRecord, ShapeRecord
from genkit.model import GenerativeModel
from genkit.phases.replay import Replays
from genkit.registry.catalogue import Registry
from genkit.runs.build import build_model, count_parameters, load_data, with_absolute_paths
from genkit.runs.frozen import copy_runs, find_runs, with_absolute_runs
from genkit.runs.provenance import describe_data, describe_origin
from genkit.runs.run import Run, load_run
from genkit.runs.start import describe_start, take_weights
from genkit.specs import TrainerSpec
from genkit.training.autothreads import TimedPrecision, fastest_precision, fastest_threads
from genkit.training.context import RunContext
from genkit.training.flop import flop_of_budget
from genkit.training.loop import Loop
from genkit.training.monitor import Monitor, has_likelihood
from genkit.training.recorder import Recorder
from genkit.training.runner import Runner
from genkit.training.stream import Stream


def train(
    spec: TrainerSpec,
    resolved: Resolved,
    registry: Registry,
    *,
    run_dir: Path | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Train a new model into a new run directory and return the run. Processes that torchrun
    started together train it together.

    Args:
        run_dir: must be new; by default runs/MODEL-DATA-sSEED.
    """
    with joined() as ranks, ExitStack() as stack:
        data = load_data(registry, resolved.run)
        resolved, fitted = fit(spec, resolved, data.facts)
        if fitted:
            data = replace(data, notes=(*data.notes, fitted))
        resolved = replace(resolved, options=with_absolute_runs(spec, resolved.options))
        runs, frozen = find_runs(spec, resolved.options, data.shape)
        device = choose_device(resolved.run.device)
        time_convolutions(device)
        own = ranks.device(device)
        wanted = "bf16" if resolved.run.precision == "bf16" else "fp32"  # "auto" is timed later
        check_before_training(spec, resolved, data, own, wanted, ranks.count)
        model = build_model(spec, resolved.options, data.model_shape, resolved.run.seed, runs)
        if resolved.run.best_by == "likelihood" and not has_likelihood(model):
            raise UsageError(
                f"--best-by likelihood: {spec.name} has no likelihood; leave it out, and the best "
                "weights are those whose samples score best"
            )
        start, source = None, resolved.run.from_run
        if source:
            start = take_weights(source, spec, model)
            data = replace(data, notes=(*data.notes, describe_start(source, start)))
        timed = choose_precision(resolved.run, model, data, device, ranks)
        precision = timed.name
        options = prepare_options(resolved.run, model, data, device, precision, ranks)
        flop = flop_of_budget(options, model, data, device, ranks)
        record = RunRecord(
            schema=SCHEMA,
            model=spec.name,
            run=to_json(with_absolute_paths(options, registry)),
            options=to_json(resolved.options),
            runs=frozen,
            start=start,
            sources=resolved.sources,
            image_shape=ShapeRecord.of(data.shape),
            data=describe_data(data),
            precision=precision,
            precision_seconds=dict(timed.seconds),
            device=str(device),
            ranks=ranks.count,
            parameters=count_parameters(model),
            flop_per_image=flop,
            provenance=describe_origin(registry, spec.name),
        )
        path = run_dir or new_run_path(spec.name, registry.data_name(options.data), options.seed)
        if ranks.first:
            directory = RunDir.create(path)
            stack.enter_context(directory.locked())
            copy_runs(runs, directory)
            record.write(directory.config_path)
            directory.metrics_path.touch()
        directory = RunDir(Path(ranks.text(str(path))))  # all wait for the first
        reporter = reporter or Reporter()
        context = RunContext(
            directory, record, options, data, own, precision, registry, reporter, ranks
        )
        return run_to_end(make_runner(context, model))


def choose_precision(
    options: RunConfig,
    model: GenerativeModel,
    data: ImageData,
    device: torch.device,
    ranks: Ranks,
) -> TimedPrecision:
    """The precision that the options name; "auto" is timed."""
    if options.precision != "auto":
        return TimedPrecision(options.precision)
    if model.config.batch_size < ranks.count:  # refused in a moment
        return TimedPrecision("fp32")
    return fastest_precision(model, data.train, device, options.threads or 1, ranks)


def prepare_options(
    options: RunConfig,
    model: GenerativeModel,
    data: ImageData,
    device: torch.device,
    precision: str,
    ranks: Ranks,
) -> RunConfig:
    """A run's options with what depends on this machine: "auto" threads are timed.

    Raises:
        UsageError: the batch is too small for so many processes, or torch.compile does not work.
    """
    if model.config.batch_size < ranks.count:
        raise UsageError(
            f"a batch of {model.config.batch_size} images cannot be shared by {ranks.count} "
            "processes; give a larger --batch-size"
        )
    if not options.threads:
        threads = fastest_threads(model, data.train, device, precision, ranks)
        options = options.model_copy(update={"threads": threads})
    if options.compile:
        check_compiler(device)
    return options


def make_runner(context: RunContext, model: GenerativeModel) -> Runner:
    """The parts of a training put together, for a new training and for one that resumes.

    Args:
        model: new, on the CPU.
    """
    options, data, device, ranks = context.options, context.data, context.device, context.ranks
    stream = Stream(
        data.train,
        batch_size=model.config.batch_size,
        seed=options.seed,
        device=device,
        ranks=ranks,
    )
    place(model, device)
    loop = Loop(
        model,
        stream,
        seed=options.seed,
        precision=context.precision,
        accumulate=options.accumulate,
        compile=options.compile,
        cooldown=options.cooldown_share,
        ema_half_life=model.config.ema_half_life,
        averages=options.average_half_lives,
        ranks=ranks,
        replays=make_replays(context),
    )
    monitor, recorder = None, None
    if ranks.first:
        watched = min(options.watch, len(data.train.images))
        if watched > 1:
            monitor = Monitor(context.registry, data, watched, device, options.best_by)
        recorder = Recorder(context, "ema" if loop.ema_half_life else "raw")
    return Runner(context, loop, monitor, recorder)


def make_replays(context: RunContext) -> Replays | None:
    """What records and replays iterations: on one GPU, unless the options forbid it. Several
    processes exchange gradients in the middle of an iteration, and parts of a batch are made again
    in each: they run as they are."""
    options, alone = context.options, context.ranks.count == 1
    if not options.cuda_graphs or context.device.type != "cuda" or not alone:
        return None
    if options.accumulate > 1:
        return None
    return Replays(CudaRecorder(context.device), context.reporter.say)


def run_to_end(runner: Runner) -> Run:
    """Train until the budget is spent, and load the run."""
    context = runner.context
    with cpu_threads(context.options.threads):
        runner.run()
    context.ranks.wait()
    return load_run(context.directory.path, context.registry, context.record.device or "auto")


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
    """Train a model by its name and the options given, as `genkit.train` does."""
    spec = registry.trainers.find(model)
    resolved = resolve(spec, preset=preset, file=config, given=given)
    return train(spec, resolved, registry, run_dir=run_dir, reporter=reporter)
