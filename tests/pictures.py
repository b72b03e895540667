"""Data sets opened by name, and small random images, for tests of data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import genkit_datasets
from genkit.data import ImageData
from genkit.data.datasets import open_data, parse_data_name
from genkit_datasets import mini

SPECS = {spec.name: spec for spec in genkit_datasets.register_datasets()}


def open_named(text: str, root: Path | None = None, **options: object) -> ImageData:
    name, source = parse_data_name(text)
    return open_data(SPECS[name], text, source, options, root)


def open_splits(monkeypatch: pytest.MonkeyPatch, splits: object) -> ImageData:
    """What `open_data` makes of a loader's answer."""
    monkeypatch.setattr(mini, "load", lambda config, source, root: splits)
    return open_named("mnist-mini")


def images(count: int = 8, channels: int = 1, side: int = 4, seed: int = 0) -> np.ndarray:
    shape = (count, channels, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_images(place: Path, count: int = 4, side: int = 32) -> np.ndarray:
    """Random colour PNGs 0.png, 1.png, ... in `place`; returns them as (N, 3, side, side)."""
    place.mkdir(parents=True, exist_ok=True)
    pixels = images(count, 3, side)
    for number, image in enumerate(pixels):
        Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{number}.png")
    return pixels


def all_images(data: ImageData) -> np.ndarray:
    return np.concatenate([data.train.images, data.test.images])


def result(out: Path) -> dict[str, bytes]:
    """All that a prepared folder holds."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}
