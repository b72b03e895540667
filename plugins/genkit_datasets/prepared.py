"""A folder that `genkit data prepare` made: images left on disk, mapped into memory."""

from __future__ import annotations

import os
from pathlib import Path

from genkit.data import Splits
from genkit.data.prepared import read_splits
from genkit.specs import Config


def load(config: Config, source: str, root: Path) -> Splits:
    """The splits of the prepared folder `source`; `genkit.data.open_data` checks its fingerprint.

    Raises:
        UsageError: it is no prepared folder, is damaged, or was changed.
    """
    return read_splits(Path(os.path.expanduser(source)))
