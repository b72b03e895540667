"""Runs that a model uses and does not train: a teacher or a first stage, copied into its run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from genkit.config.validation import run_options
from genkit.errors import CheckpointError, UsageError
from genkit.io.files import write_atomic
from genkit.io.run_directory import RunDir
from genkit.io.run_records import FrozenRecord
from genkit.runs.build import RunSource, kept_runs, named_runs
from genkit.specs import ImageShape, TrainerConfig, TrainerSpec


def with_absolute_runs(spec: TrainerSpec, options: TrainerConfig) -> TrainerConfig:
    """The same options, with the paths of runs such that they can be used from any folder."""
    paths = {name: getattr(options, name) for name in run_options(spec.config)}
    absolute = {
        name: Path(os.path.expanduser(path)).absolute() for name, path in paths.items() if path
    }
    return options.model_copy(update=absolute) if absolute else options


def find_runs(
    spec: TrainerSpec, options: TrainerConfig, shape: ImageShape
) -> tuple[dict[str, RunSource], dict[str, FrozenRecord]]:
    """The runs that a model's options name, with what is recorded of them.

    Raises:
        UsageError: one is not a run, has no weights yet, or makes images of another shape.
    """
    sources, records = named_runs(spec, options, shape), {}
    for name, source in sources.items():
        try:
            digest = hashlib.sha256(source.weights()).hexdigest()
        except CheckpointError as error:
            raise UsageError(f"--{name.replace('_', '-')}: {error}") from None
        sources[name] = replace(source, sha256=digest)
        records[name] = FrozenRecord(model=RunDir(source.path).record().model, sha256=digest)
    return sources, records


def copy_runs(sources: Mapping[str, RunSource], directory: RunDir) -> None:
    """Copy what is needed of other runs into a run's directory, with the runs that these use.

    Raises:
        CheckpointError: one has changed since it was found, or is damaged.
    """
    for name, source in sources.items():
        other, copy = RunDir(source.path), RunDir(directory.frozen_path(name))
        record = other.record()
        copy.path.mkdir(parents=True)
        copy_runs(kept_runs(other, record), copy)
        write_atomic(copy.weights_path, source.weights())
        record.write(copy.config_path)


def check_kept(runs: Mapping[str, RunSource]) -> None:
    """Raise CheckpointError if a run that another keeps is not what was recorded."""
    for source in runs.values():
        source.weights()
