"""Continues a run from its newest whole checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from genkit.compute.device import check_compiler, choose_device, cpu_threads
from genkit.compute.ranks import Ranks, joined
from genkit.config.run import RunConfig
from genkit.config.validation import to_json, validate
from genkit.errors import CheckpointError, UsageError
from genkit.io.files import parse_json, write_json
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir
from genkit.registry.catalogue import Registry
from genkit.runs import checkpoint
from genkit.runs.build import build_model, load_data, with_absolute_paths
from genkit.runs.provenance import describe_origin
from genkit.runs.run import Run, load_run, read_values
from genkit.training.runner import Runner
from genkit.training.train import _check_batch, _settled, _with_threads

CHANGEABLE = (
    *("budget", "log_every", "grids", "watch", "checkpoint_seconds", "threads", "compile"),
    *("data", "data_root", "data_option"),  # where it lies; its fingerprint stays
)


def resume(
    path: Path, registry: Registry, *, reporter: Reporter | None = None, **changes: Any
) -> Run:
    """Go on with a run from its newest whole checkpoint.

    Args:
        changes: other values for some of the run's options, those in `CHANGEABLE`.

    Raises:
        UsageError: config.json or the data is not what the run was trained with, or a change is
            none that can be made.
        CheckpointError: no checkpoint of the run is whole, or none fits the model.
    """
    directory = RunDir.open(path)
    config = directory.config()
    spec = registry.trainer_of(config)
    for name in ("precision", "device"):  # other commands do without
        if name not in config:
            raise UsageError(f"{directory.config_path} is no run's config: {name!r} is missing")
    with joined() as ranks, ExitStack() as stack:
        if ranks.first:
            stack.enter_context(directory.locked())
        state, notes = _newest_state(directory)
        if state:
            _check_settled(directory, config, state)
        before = read_values(RunConfig, config["run"], directory)
        run = _changed(before, changes)
        with registry.as_made(config):
            options = read_values(spec.config, config["options"], directory)
        data = load_data(registry, run)
        recorded = config.get("data", {}).get("fingerprint")
        if data.fingerprint != recorded:
            raise UsageError(
                f"the data set {run.data!r} is not the one this run was trained on: its "
                f"fingerprint is {data.fingerprint[:12]}, recorded is {str(recorded)[:12]}"
            )
        model = build_model(spec, options, data.shape, run.seed)
        _check_batch(model, ranks)
        device = choose_device(config["device"])
        run = _with_threads(run, model, data, config["precision"], device, ranks)
        if run.compile:
            check_compiler(device)
        settled = json.dumps(_settled(config))
        notes += _other_bits(config, before, run, registry, ranks)
        ranks.wait()  # until all have read what the first may change now
        if ranks.first and (run != before or config.get("ranks") != ranks.count):
            config |= {"run": to_json(with_absolute_paths(run, registry)), "ranks": ranks.count}
            write_json(directory.config_path, config)
        runner = Runner(directory, config, settled, run, data, model, registry, reporter, ranks)
        if ranks.first:
            _sweep(directory)
        if state:
            with registry.as_made(config):
                state, damaged = checkpoint.load_state(directory.checkpoints, runner.fits)
            runner.restore(state)
            notes = damaged + notes
        if runner.spent >= 1:
            notes.append(f"the budget of {run.budget} is spent; for more give --budget")
        for note in dict.fromkeys(notes):
            runner.reporter.say(note)
        with cpu_threads(run.threads):
            runner.run()
        ranks.wait()
        return load_run(path, registry, config["device"])


def _newest_state(directory: RunDir) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole training state and notes on damaged ones; no state if the run ended before
    any was saved, so that nothing is lost by beginning anew."""
    try:
        return checkpoint.load_state(directory.checkpoints)
    except CheckpointError:
        if directory.weights_path.exists() or (directory.checkpoints / "last.json").exists():
            raise
    return None, ["the run ended before its first checkpoint and begins anew"]


def _sweep(directory: RunDir) -> None:
    """Remove what a training that was killed had half written, or had just replaced."""
    for folder in (directory.path, directory.samples, directory.checkpoints):
        for torn in folder.glob(".*.tmp"):
            if not torn.name.startswith(".evaluation.json."):  # of a scoring, perhaps just now
                torn.unlink(missing_ok=True)
    if best := checkpoint.read_best(directory.checkpoints):
        for weights in directory.checkpoints.glob("best-*.safetensors"):
            if weights.name != best.file:
                weights.unlink(missing_ok=True)


def _changed(run: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """A run's options with some changed; UsageError for one that stays for good."""
    for name in changes:
        if name not in CHANGEABLE:
            raise UsageError(
                f"{name!r} cannot change in the middle of a run; train anew, or change one of: "
                f"{', '.join(CHANGEABLE)}"
            )
    values = {name: getattr(run, name) for name in RunConfig.model_fields}
    return validate(RunConfig, {**values, **changes})


def _check_settled(directory: RunDir, config: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Raise UsageError, with each difference, if config.json was changed since the checkpoint in
    what cannot change."""
    try:
        then = dict(parse_json(state["settled"]))
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"the checkpoint in {directory.checkpoints} does not say what it is of"
        ) from None
    now = _settled(config)
    changed = [
        f"{name} is {now.get(name)!r}, was {then.get(name)!r}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if changed:
        raise UsageError(
            f"{directory.config_path} was changed in what cannot change in the middle of a run: "
            f"{'; '.join(changed)}. Put it back, or train anew"
        )


def _other_bits(
    config: Mapping[str, Any], before: RunConfig, run: RunConfig, registry: Registry, ranks: Ranks
) -> list[str]:
    """A line for what may change the last bits of the results from here on."""
    origin = config.get("provenance", {})
    now = describe_origin(registry, config["model"])
    then: dict[str, Any] = {name: origin.get(name) for name in ("genkit", "plugin", "torch")}
    pairs = [(name, value, now[name]) for name, value in then.items()]
    pairs.append(("threads", before.threads, run.threads))
    pairs.append(("compile", before.compile, run.compile))
    pairs.append(("processes", config.get("ranks", 1), ranks.count))
    changed = [f"{name} {old}, now {new}" for name, old, new in pairs if old != new]
    if not changed:
        return []
    return [f"the last bits may differ from those of a run in one go: {'; '.join(changed)}"]
