"""Runs loaded for use: a model and its averaged weights, out of a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from genkit import checkpoint, sampling
from genkit.config import RunConfig, explain
from genkit.data import ImageData, data_root, open_data, parse_data_name
from genkit.device import choose_device, place
from genkit.errors import PluginError, UsageError, plugin_code
from genkit.model import GenerativeModel
from genkit.registry import Registry
from genkit.rundir import RunDir, read_json
from genkit.specs import ImageShape, TrainerConfig, TrainerSpec
from genkit.stream import derive_seed

if TYPE_CHECKING:
    from PIL import Image


def load_data(registry: Registry, config: RunConfig) -> ImageData:
    """The data set that a run's config names."""
    name, source = parse_data_name(config.data)
    spec = registry.datasets.find(name)
    return open_data(spec, config.data, source, config.data_options, data_root(config.data_root))


def with_absolute_paths(config: RunConfig, registry: Registry) -> RunConfig:
    """The same options, naming data so that they can be used from any folder."""
    changes: dict[str, Any] = {}
    name, source = parse_data_name(config.data)
    if source and registry.datasets.find(name).source == "PATH":
        changes["data"] = f"{name}:{Path(source).expanduser().absolute()}"
    if config.data_root:
        changes["data_root"] = config.data_root.expanduser().absolute()
    return config.model_copy(update=changes)


def build_model(
    spec: TrainerSpec, config: TrainerConfig, shape: ImageShape, seed: int
) -> GenerativeModel:
    """A new model, on the CPU; its weights follow from the seed. torch's random numbers are left
    as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        with plugin_code(f"{spec.name}: building the model for images of {shape}"):
            model = spec.load()(config, shape)
    if not isinstance(model, GenerativeModel):
        raise PluginError(f"{spec.target} made a {type(model).__name__}, not a GenerativeModel")
    return model


def count_parameters(model: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@dataclass
class Run:
    """A run loaded for use: its directory, its config and its model with averaged weights."""

    directory: RunDir
    config: dict[str, Any]
    model: GenerativeModel
    registry: Registry

    @property
    def path(self) -> Path:
        return self.directory.path

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n samples as uint8, (n, C, H, W). Image i of a seed is the same whatever n is."""
        return sampling.draw(self.model, n, seed)

    def grid(self, n: int = 64, seed: int = 0) -> Image.Image:
        """n samples side by side."""
        return sampling.make_grid(self.sample(n, seed))

    @property
    def summary(self) -> dict[str, Any]:
        """Steps, images and seconds of training so far."""
        path = self.path / "summary.json"
        return dict(read_json(path)) if path.exists() else {}


def load_run(path: Path | str, registry: Registry, device: str = "auto") -> Run:
    """Load a run for sampling. Needs its plugin, but neither its data set nor its checkpoints.

    Raises UsageError for a path that is no run or whose plugin is missing, CheckpointError for
    weights that are missing, damaged or of another model.
    """
    directory = RunDir.open(Path(path))
    config = directory.config()
    spec = registry.trainers.find(config["model"])
    options = read_values(spec.config, config["options"], directory)
    model = build_model(spec, options, read_shape(config, directory), seed=0)
    place(model, choose_device(device))
    checkpoint.load_weights(directory.weights_path, model)
    return Run(directory, config, model.eval(), registry)


def read_values(kind: type[BaseModel], values: Mapping[str, Any], directory: RunDir) -> Any:
    """A config out of a run's config.json; UsageError names file and field."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(explain(error, f"{directory.config_path}: ")) from None


def read_shape(config: Mapping[str, Any], directory: RunDir) -> ImageShape:
    """The image shape out of a run's config.json."""
    try:
        shape = ImageShape(**{key: int(value) for key, value in config["image_shape"].items()})
    except (TypeError, ValueError) as error:
        raise UsageError(f"{directory.config_path}: image_shape: {error}") from None
    if min(shape.channels, shape.height, shape.width) < 1:
        raise UsageError(f"{directory.config_path}: image_shape {shape} is no shape")
    return shape
