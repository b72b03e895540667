"""The TensorBoard plugin: curves and samples of a run, where GENKIT_TENSORBOARD asks for them.

TensorBoard itself is imported when such a run starts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from genkit.errors import UsageError
from genkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from genkit_tensorboard.events import Events

SWITCH = "GENKIT_TENSORBOARD"
_open: dict[Path, Events] = {}  # of the runs that this process trains now


@hookimpl
def on_run_start(run: Path) -> None:
    """Import TensorBoard, if it is asked for; UsageError if it is not installed."""
    if os.environ.get(SWITCH, "") in ("", "0"):
        return
    try:
        from genkit_tensorboard.events import Events
    except ImportError as error:
        raise UsageError(
            f"{SWITCH} is set, but {error.name} is missing: pip install 'torch-genkit[tensorboard]'"
        ) from error
    _open[run] = Events(run)


@hookimpl
def on_log(run: Path, step: int) -> None:
    """Add the lines that are new in metrics.jsonl."""
    if run in _open:
        _open[run].follow(step)


@hookimpl
def on_sample(run: Path, step: int, path: Path) -> None:
    """Add a grid of samples."""
    if run in _open:
        _open[run].follow(step)


@hookimpl
def on_run_end(run: Path) -> None:
    """Add what was logged last, and close the file."""
    if run in _open:
        _open.pop(run).close()
