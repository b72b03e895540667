"""The data set `folder`: images from a folder into memory."""

from __future__ import annotations

import os
from pathlib import Path

from genkit.data import Splits, read_folder
from genkit_datasets import FolderConfig


def load(config: FolderConfig, source: str, root: Path) -> Splits:
    """All images below the folder `source`, as `read_folder` gives them.

    Raises:
        UsageError: there is no such folder, or no image in it can be used.
    """
    folder = Path(os.path.expanduser(source))
    return read_folder(
        folder,
        size=config.size,
        channels=config.channels,
        window=config.window,
        splits=config.splits == "auto",
        fit=config.fit,
        resample=config.resample,
    )
