"""The data set `prepared`: a folder that `genkit data prepare` made, left on disk."""

from __future__ import annotations

import os
from pathlib import Path

from genkit.data import Splits, read_prepared
from genkit.specs import Config


def load(config: Config, source: str, root: Path) -> Splits:
    """The splits of the prepared folder `source`, mapped into memory.

    Raises:
        UsageError: it is not a prepared folder, is damaged, or was changed.
    """
    return read_prepared(Path(os.path.expanduser(source)))
