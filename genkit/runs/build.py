"""Data sets and models made from a run's options."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genkit.compute.seeds import derive_seed
from genkit.config.run import RunConfig
from genkit.data import ImageData
from genkit.data.datasets import data_root, open_data, parse_data_name
from genkit.errors import PluginError, plugin_code
from genkit.model import GenerativeModel
from genkit.registry.catalogue import Registry
from genkit.specs import ImageShape, TrainerConfig, TrainerSpec


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
    if source and registry.datasets.find(name).source == "PATH":
        changes["data"] = f"{name}:{Path(os.path.expanduser(source)).absolute()}"
    if config.data_root:
        changes["data_root"] = Path(os.path.expanduser(config.data_root)).absolute()
    return config.model_copy(update=changes)


def build_model(
    spec: TrainerSpec, config: TrainerConfig, shape: ImageShape, seed: int
) -> GenerativeModel:
    """A new model, on the CPU; its weights follow from the seed. torch's own random numbers are not
    advanced."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        with plugin_code(f"{spec.name}: building the model for images of {shape}"):
            model = spec.load()(config, shape)
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


def count_parameters(model: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
