"""Standard streams: closed, full or gone, and error messages on them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any


def complain_of_output(error: OSError) -> int:
    complain(f"the output could not be written: {error.strerror or error}")
    return 1


def complain(message: str) -> None:
    """Say what went wrong, if there is still somebody who listens."""
    with suppress(OSError):
        print(f"Error: {message}", file=sys.stderr)


def occupy_closed_streams() -> None:
    """Give closed standard streams to the null device, lest a file of a run be opened in their
    place and what something prints end up in it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


def let_go(stream: Any) -> None:
    """Send what a stream still holds to the null device: Python would complain of it at the end."""
    with suppress(OSError, ValueError):  # ValueError: it is no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
