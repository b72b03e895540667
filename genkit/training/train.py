"""Training assembled: config, data, model and loop into a run directory, and resumed there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from genkit.compute.device import check_compiler, choose_device, choose_precision, cpu_threads
from genkit.compute.ranks import Ranks, joined
from genkit.config.resolve import Resolved, resolve
from genkit.config.run import RunConfig
from genkit.config.validation import to_json
from genkit.data import ImageData
from genkit.errors import UsageError
from genkit.io.files import write_json
from genkit.io.progress import Reporter
from genkit.io.run_directory import SCHEMA, RunDir, new_run_path
from genkit.model import GenerativeModel
from genkit.registry.catalogue import Registry
from genkit.runs.build import build_model, count_parameters, load_data, with_absolute_paths
from genkit.runs.provenance import describe_data, describe_origin
from genkit.runs.run import Run, load_run
from genkit.specs import TrainerSpec
from genkit.training.autothreads import fastest_threads
from genkit.training.runner import Runner


def train(
    spec: TrainerSpec,
    resolved: Resolved,
    run_path: Path,
    registry: Registry,
    reporter: Reporter | None = None,
) -> Run:
    """Train a new model into a new run directory and return the run. Processes that torchrun
    started together train it together."""
    with joined() as ranks:
        data = load_data(registry, resolved.run)
        device = choose_device(resolved.run.device)
        precision = choose_precision(resolved.run.precision, device)
        model = build_model(spec, resolved.options, data.shape, resolved.run.seed)
        _check_batch(model, ranks)
        run = _with_threads(resolved.run, model, data, precision, device, ranks)
        if run.compile:
            check_compiler(device)
        directory = RunDir(run_path)
        config = {
            "schema": SCHEMA,
            "model": spec.name,
            "run": to_json(with_absolute_paths(run, registry)),
            "options": to_json(resolved.options),
            "sources": resolved.sources,
            "image_shape": asdict(data.shape),
            "data": describe_data(data),
            "precision": precision,
            "device": str(device),
            "ranks": ranks.count,
            "parameters": count_parameters(model),
            "provenance": describe_origin(registry, spec.name),
        }
        with ExitStack() as stack:
            if ranks.first:
                directory = RunDir.create(run_path)
                stack.enter_context(directory.locked())
                write_json(directory.config_path, config)
                directory.metrics_path.touch()
            directory = RunDir(Path(ranks.text(str(directory.path))))  # all wait for the first
            settled = json.dumps(_settled(config))
            runner = Runner(directory, config, settled, run, data, model, registry, reporter, ranks)
            with cpu_threads(run.threads):
                runner.run()
        ranks.wait()
        return load_run(directory.path, registry, str(device))


def _check_batch(model: GenerativeModel, ranks: Ranks) -> None:
    size = model.config.batch_size
    if size < ranks.count:
        raise UsageError(
            f"a batch of {size} images cannot be shared by {ranks.count} processes; give a larger "
            "--batch-size"
        )


def _with_threads(
    run: RunConfig,
    model: GenerativeModel,
    data: ImageData,
    precision: str,
    device: torch.device,
    ranks: Ranks,
) -> RunConfig:
    """The run's options with a number of threads, which are timed for "auto"."""
    if run.threads:
        return run
    threads = fastest_threads(model, data.train, device, precision, ranks)
    return run.model_copy(update={"threads": threads})


def _settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's config.json stays as it is for good, by dotted names: to change it would make
    another run. The data may move, as long as its fingerprint stays."""
    flat = {"model": config.get("model")}
    flat |= {f"options.{name}": value for name, value in config.get("options", {}).items()}
    flat |= {f"run.{name}": config.get("run", {}).get(name) for name in ("seed", "accumulate")}
    flat |= {f"image_shape.{name}": size for name, size in config.get("image_shape", {}).items()}
    flat |= {name: config.get(name) for name in ("precision", "device")}
    return {**flat, "data.fingerprint": config.get("data", {}).get("fingerprint")}


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
    data = registry.data_name(resolved.run.data)
    path = run_dir or new_run_path(model, data, resolved.run.seed)
    return train(spec, resolved, path, registry, reporter)
