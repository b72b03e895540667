"""Data sets and models made from a run's options."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from genkit.compute.device import place
from genkit.compute.seeds import derive_seed
from genkit.config.run import RunConfig
from genkit.config.validation import run_options, validate
from genkit.data import ImageData
from genkit.data.datasets import data_root, open_data, parse_data_name
from genkit.errors import CheckpointError, PluginError, UsageError, plugin_code, reason_of
from genkit.io.files import read_file
from genkit.io.run_directory import RunDir
from genkit.io.run_records import RunRecord
from genkit.model import RUNS, GenerativeModel
from genkit.registry.catalogue import Registry, load_registry
from genkit.runs import checkpoint
from genkit.specs import Config, ImageShape, TrainerConfig, TrainerSpec

C = TypeVar("C", bound=Config)


def load_data(registry: Registry, config: RunConfig) -> ImageData:
    """The data set that a run's config names, or the default one."""
    text = registry.data_name(config.data)
    name, source = parse_data_name(text)
    spec = registry.datasets.find(name)
    spec = replace(spec, features=registry.features_name(spec.features))
    return open_data(spec, text, source, config.data_options, data_root(config.data_root))


def with_absolute_paths(config: RunConfig, registry: Registry) -> RunConfig:
    """The same options, naming the data, and such that they can be used from any folder."""
    changes: dict[str, Any] = {"data": registry.data_name(config.data)}
    name, source = parse_data_name(changes["data"])
    kinds = (registry.datasets.find(name).source or "").split()  # such as PATH, or PATH or NAME
    if source and "PATH" in kinds:
        path = Path(os.path.expanduser(source)).absolute()
        if len(kinds) == 1 or path.exists():
            changes["data"] = f"{name}:{path}"
    for option in ("data_root", "from_run"):
        if path := getattr(config, option):
            changes[option] = Path(os.path.expanduser(path)).absolute()
    return config.model_copy(update=changes)


def read_values(kind: type[C], values: Mapping[str, Any], directory: RunDir) -> C:
    """A config out of a run's config.json; UsageError names file and field."""
    return validate(kind, values, f"{directory.config_path}: ", strict=True)


@dataclass(frozen=True)
class RunSource:
    """Where the weights of a run lie that a model uses, and their SHA-256, if it is known."""

    path: Path
    sha256: str | None = None

    def weights(self) -> bytes:
        """The content of model.safetensors; CheckpointError if it is not what was recorded."""
        path = RunDir(self.path).weights_path
        try:
            content = read_file(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {reason_of(error)}") from None
        if self.sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one recorded")
        return content


class FrozenRuns:
    """Opens the runs that a model's options name, each once and when it is first asked for.

    A copy of the model, such as its average, has the same ones.
    """

    def __init__(self, sources: Mapping[str, RunSource]) -> None:
        self.sources = sources
        self.opened: dict[str, GenerativeModel] = {}

    def __deepcopy__(self, memo: object) -> FrozenRuns:
        return self

    def open(self, name: str, device: torch.device) -> GenerativeModel:
        """The model of a run, on a device.

        Raises:
            UsageError: the option names no run, or the run is not kept.
        """
        if name not in self.sources:
            option = name.replace("_", "-")
            raise UsageError(f"--{option}: name the run to use, such as --{option} runs/NAME")
        if name not in self.opened:
            source = self.sources[name]
            with torch.device("cpu"):
                source.weights()
                directory = RunDir.open(source.path)
                model = load_model(directory, directory.record(), load_registry())
            self.opened[name] = model.eval().requires_grad_(False)
        model = self.opened[name]
        if device.type == "meta":  # of a plan, which holds no values
            return copy.deepcopy(model).to(device)
        place(model, device)
        return model


def named_runs(spec: TrainerSpec, config: TrainerConfig, shape: ImageShape) -> dict[str, RunSource]:
    """The runs that a model's options name, where they lie now, by the option.

    Raises:
        UsageError: one is not a run, or makes images of another shape.
    """
    paths = {name: getattr(config, name) for name in run_options(spec.config)}
    found = {name: RunSource(path) for name, path in paths.items() if path is not None}
    for name, source in found.items():
        option = f"--{name.replace('_', '-')}"
        try:
            made = RunDir.open(source.path).record().image_shape.shape()
        except UsageError as error:
            raise UsageError(f"{option}: {error}") from None
        if (made.channels, made.height, made.width) != (shape.channels, shape.height, shape.width):
            raise UsageError(
                f"{option} {source.path} makes images of {made}, those of the data are {shape}"
            )
    return found


def kept_runs(directory: RunDir, record: RunRecord) -> dict[str, RunSource]:
    """The copies of other runs that a run keeps, by the option that names them."""
    return {
        name: RunSource(directory.frozen_path(name), each.sha256)
        for name, each in record.runs.items()
        if name.isidentifier()  # the file may come from anybody
    }


def make_model(
    spec: TrainerSpec,
    config: TrainerConfig,
    shape: ImageShape,
    runs: Mapping[str, RunSource] | None = None,
) -> Any:
    """What a trainer's target makes of its options; it may open the runs that these name."""
    make = spec.load()
    before = RUNS.set(FrozenRuns(named_runs(spec, config, shape) if runs is None else runs))
    try:
        return make(config, shape)
    finally:
        RUNS.reset(before)


def build_model(
    spec: TrainerSpec,
    config: TrainerConfig,
    shape: ImageShape,
    seed: int,
    runs: Mapping[str, RunSource] | None = None,
) -> GenerativeModel:
    """A new model, on the CPU; its weights follow from the seed. torch's own random numbers are not
    advanced.

    Args:
        runs: where the runs lie that its options name; by default where they say.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        with plugin_code(f"{spec.name}: building the model for images of {shape}"):
            model = make_model(spec, config, shape, runs)
    if not isinstance(model, GenerativeModel):
        raise PluginError(f"{spec.target} made a {type(model).__name__}, not a GenerativeModel")
    if spec.sampler.model_fields:  # else the name is the model's own
        model.sampler = spec.sampler()
    with plugin_code(f"{type(model).__name__}.state_dict()"):
        for name, value in model.state_dict().items():
            if not isinstance(value, Tensor):
                raise PluginError(
                    f"{name!r} in the state_dict of {spec.target} is a {type(value).__name__}, not "
                    "a tensor; make it a buffer"
                )
    return model


def load_model(
    directory: RunDir,
    record: RunRecord,
    registry: Registry,
    *,
    best: bool = False,
    device: torch.device | None = None,
) -> GenerativeModel:
    """The model of a run with its averaged weights, on a device, by default the CPU.

    Args:
        best: take the weights whose samples scored best in training, not the last ones.

    Raises:
        UsageError: its plugin is missing, or config.json holds what it cannot use.
        CheckpointError: the weights are missing, damaged or of another model.
    """
    spec = registry.trainer_of(record)
    with registry.as_made(record):
        options = read_values(spec.config, record.options, directory)
        shape, runs = record.model_shape(), kept_runs(directory, record)
        weights = checkpoint.best_weights(directory.checkpoints) if best else directory.weights_path
        try:  # config.json may ask for a model that fills any memory: first build it without any
            with torch.device("meta"):
                plan = build_model(spec, options, shape, 0, runs)
        except PluginError:  # not every model can be built without memory
            plan = build_model(spec, options, shape, 0, runs)
        tensors = checkpoint.read_weights(weights, plan)
        model = build_model(spec, options, shape, 0, runs)
        place(model, device or torch.device("cpu"))
        checkpoint.copy_weights(tensors, model)
    return model


def count_parameters(model: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
