"""Work that takes processor time, in a module that a spawned process can import."""

from __future__ import annotations

import time
from typing import Any


def burn(seconds: float) -> None:
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass


def burn_now_and_then(gate: Any) -> None:
    """A worker that computes when a message comes, and stays."""
    gate.recv()
    burn(0.2)
    gate.send("done")
    gate.recv()
