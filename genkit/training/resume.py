"""Resumes a run from its newest whole checkpoint."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from genkit.compute.device import choose_device, time_convolutions
from genkit.compute.ranks import Ranks, joined
from genkit.config.run import RunConfig
from genkit.config.validation import to_json
from genkit.data import ImageData
from genkit.errors import CheckpointError, UsageError
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir
from genkit.io.run_records import RunRecord
from genkit.registry.catalogue import Registry
from genkit.runs import checkpoint
from genkit.runs.build import (
    build_model,
    kept_runs,
    load_data,
    read_values,
    with_absolute_paths,
)
from genkit.runs.frozen import check_kept
from genkit.runs.provenance import describe_origin
from genkit.runs.run import Run
from genkit.runs.tree import StateDict
from genkit.training.context import RunContext
from genkit.training.flop import flop_of_budget
from genkit.training.settled import changed, check_settled
from genkit.training.train import make_runner, prepare_options, run_to_end


def resume(
    path: Path, registry: Registry, *, reporter: Reporter | None = None, **changes: Any
) -> Run:
    """Resume a run from its newest whole checkpoint.

    Args:
        changes: other values for some of the run's options, those in `settled.CHANGEABLE`.

    Raises:
        UsageError: config.json or the data is not what the run was trained with, or a change
            cannot be made.
        CheckpointError: no checkpoint of the run is whole, or none fits the model.
    """
    directory = RunDir.open(path)
    record = directory.record()
    spec = registry.trainer_of(record)
    precision = _needed(record.precision, "precision", directory)
    recorded_device = _needed(record.device, "device", directory)
    reporter = reporter or Reporter()
    with joined() as ranks, ExitStack() as stack:
        if ranks.first:
            stack.enter_context(directory.locked())
        state, notes = _newest_state(directory)
        if record.start and not state:
            raise UsageError(
                f"{path} ended before the weights of --from were saved; train again, for instance "
                f"by genkit train {record.model} --config {directory.config_path}"
            )
        if state:
            check_settled(directory, record, state.get("settled"))
        before = read_values(RunConfig, record.run, directory)
        options = changed(before, changes)
        with registry.as_made(record):
            model_options = read_values(spec.config, record.options, directory)
        data = load_data(registry, options)
        _check_data(data, record)
        device = choose_device(recorded_device)
        time_convolutions(device)
        runs = kept_runs(directory, record)
        check_kept(runs)
        model = build_model(spec, model_options, record.model_shape(), options.seed, runs)
        options = prepare_options(options, model, data, device, precision, ranks)
        notes += _other_bits(record, before, options, registry, ranks)
        ranks.wait()  # until all have read what the first may change now
        if options != before or record.ranks != ranks.count:
            flop = record.flop_per_image or flop_of_budget(options, model, data, device, ranks)
            run = to_json(with_absolute_paths(options, registry))
            changes = {"run": run, "ranks": ranks.count, "flop_per_image": flop}
            record = record.model_copy(update=changes)
            if ranks.first:
                record.write(directory.config_path)
        own = ranks.device(device)
        context = RunContext(
            directory, record, options, data, own, precision, registry, reporter, ranks
        )
        runner = make_runner(context, model)
        if ranks.first:
            _sweep(directory)
        if state:
            with registry.as_made(record):
                state, damaged = checkpoint.load_state(directory.checkpoints, runner.fits)
            runner.restore(state)
            notes = damaged + notes
        if runner.now.spent >= 1:
            notes.append(f"the budget of {options.budget} is spent; for more give --budget")
        for note in dict.fromkeys(notes):
            reporter.say(note)
        return run_to_end(runner)


def _needed(value: str | None, name: str, directory: RunDir) -> str:
    """A field of config.json that only this command needs."""
    if value is None:
        raise UsageError(f"{directory.config_path}: {name!r} is missing; without it no resuming")
    return value


def _newest_state(directory: RunDir) -> tuple[StateDict | None, list[str]]:
    """The newest whole training state and notes on damaged ones; no state if the run ended before
    the first was saved: then nothing is lost by starting again."""
    try:
        return checkpoint.load_state(directory.checkpoints)
    except CheckpointError:
        if directory.weights_path.exists() or (directory.checkpoints / "last.json").exists():
            raise
    return None, ["the run ended before its first checkpoint and starts again"]


def _check_data(data: ImageData, record: RunRecord) -> None:
    """Raise UsageError unless the data is what the run was trained on, wherever it lies."""
    if data.fingerprint != record.data.fingerprint:
        raise UsageError(
            f"the data set {data.name!r} is not the one this run was trained on: its fingerprint "
            f"is {data.fingerprint[:12]}, recorded is {str(record.data.fingerprint)[:12]}"
        )
    now, then = str(data.train.augmentation) or "none", record.data.augmentation or "none"
    if now != then:
        raise UsageError(
            f"training images are learned from by other data options ({now}) than this run's "
            f"({then}); give the same --data-option again"
        )


def _sweep(directory: RunDir) -> None:
    """Remove what a killed training had half written, or had just replaced."""
    for folder in (directory.path, directory.samples, directory.checkpoints):
        for torn in folder.glob(".*.tmp"):
            if not torn.name.startswith(".evaluation.json."):  # a scoring may be writing it now
                torn.unlink(missing_ok=True)
    if best := checkpoint.read_best(directory.checkpoints):
        for weights in directory.checkpoints.glob("best-*.safetensors"):
            if weights.name != best.file:
                weights.unlink(missing_ok=True)


def _other_bits(
    record: RunRecord, before: RunConfig, options: RunConfig, registry: Registry, ranks: Ranks
) -> list[str]:
    """A line about what may change the last bits of the results from here on."""
    then, now = record.provenance, describe_origin(registry, record.model)
    pairs = [
        ("genkit", then.genkit, now.genkit),
        ("plugin", then.plugin, now.plugin),
        ("torch", then.torch, now.torch),
        ("threads", before.threads, options.threads),
        ("compile", before.compile, options.compile),
        ("processes", record.ranks, ranks.count),
    ]
    if (record.device or "").startswith("cuda"):
        pairs.append(("CUDA graphs", before.cuda_graphs, options.cuda_graphs))
    differences = [f"{name} {old}, now {new}" for name, old, new in pairs if old != new]
    if not differences:
        return []
    return [
        f"the last bits may differ from those of an uninterrupted run: {'; '.join(differences)}"
    ]
