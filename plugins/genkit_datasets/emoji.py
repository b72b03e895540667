"""Emoji at 32 x 32 pixels with transparency, which ship with genkit: no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from genkit.data import Split, Splits
from genkit.specs import Config
from genkit_datasets.mini import read_embedded

PATH = Path(__file__).with_name("emoji_mini.npz")
SHA256 = "0a4ec2ce6af5f99707fe5d9517a66e842987d423750a873a476036d2e4f8c913"
SIDE = 32
CATEGORIES = (
    "smileys-emotion",
    "people-body",
    "component",
    "animals-nature",
    "food-drink",
    "travel-places",
    "activities",
    "objects",
    "symbols",
    "flags",
)


def load(config: Config, source: str | None, root: Path) -> Splits:
    """Some 3,400 + 380 emoji, premultiplied RGBA, 4 x 32 x 32; neither argument is used.

    Raises:
        PluginError: the embedded file is damaged.
    """
    arrays = read_embedded(PATH, SHA256)
    train, test = (
        Split(
            arrays[f"{split}_images"].transpose(0, 3, 1, 2),  # (N, H, W, C) -> (N, C, H, W)
            arrays[f"{split}_labels"].astype(np.int64),
        )
        for split in ("train", "test")
    )
    return Splits(train, test, CATEGORIES)
