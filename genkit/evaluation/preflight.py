"""Checks before hours of training: which data, and whether it can be scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genkit.compute.device import choose_device, visible_devices
from genkit.config.run import RunConfig
from genkit.config.sampler import split_target
from genkit.config.validation import validate
from genkit.evaluation.reference import find_features, on_white
from genkit.io.run_directory import RunDir
from genkit.registry.catalogue import Registry
from genkit.report.data_facts import DataFacts, ImageFactsRecord
from genkit.runs.build import load_data, read_values
from genkit.sampling.grids import make_grid, save_png

GRID_IMAGES = 64


def choose_data(target: str, chosen: Mapping[str, Any]) -> RunConfig:
    """The data options to score a target by: those chosen, beside the ones a run was trained on.
    Another data set than the run's takes none of the recorded one's options."""
    directory = RunDir(Path(split_target(target)[0]))
    if not directory.config_path.is_file():
        return validate(RunConfig, chosen)
    recorded = directory.record().run
    if "data" in chosen:
        recorded = {**recorded, "data_option": []}
    config: RunConfig = read_values(RunConfig, {**recorded, **chosen}, directory)
    return config


def inspect_data(
    registry: Registry,
    chosen: Mapping[str, Any],
    features: str | None,
    weights: str | None,
    device: str,
    grid: Path | None,
) -> DataFacts:
    """What a comparison has to know before it starts; writes test images to `grid`, if given.

    Raises:
        UsageError: the data cannot be loaded, or the features cannot score it.
    """
    data = load_data(registry, validate(RunConfig, chosen))
    name = features or data.features
    if name != "none":
        target, config = find_features(registry, name, weights)
        target.check(config, on_white(data))
    if grid:
        save_png(make_grid(torch.from_numpy(data.test.look(GRID_IMAGES))), grid)
    chosen_device = choose_device(device)
    return DataFacts(
        device=chosen_device.type,
        devices=tuple(visible_devices(chosen_device)),
        shape=str(data.shape),
        train_images=len(data.train.images),
        image_facts=ImageFactsRecord.of(data.facts),
        features=name,
        notes=tuple(data.notes),
    )
