"""The data set `zip`: images in a zip file, into memory."""

from __future__ import annotations

import os
from pathlib import Path

from genkit.data import Splits, read_zip
from genkit_datasets import FolderConfig


def load(config: FolderConfig, source: str, root: Path) -> Splits:
    """All images in the zip file `source`, as `read_zip` gives them.

    Raises:
        UsageError: it is not a zip file, or no image in it can be used.
    """
    return read_zip(
        Path(os.path.expanduser(source)),
        size=config.size,
        channels=config.channels,
        window=config.window,
        splits=config.splits == "auto",
        fit=config.fit,
        resample=config.resample,
    )
