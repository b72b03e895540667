"""Downloads by other libraries, torchvision's and torch's: quiet on stdout, bounded in time."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
from collections.abc import Iterator

from genkit.errors import UsageError

# Without a limit a firewall that drops packets holds the command up for many minutes.
TIMEOUT_SECONDS = 20.0


@contextlib.contextmanager
def downloading(what: str, remedy: str) -> Iterator[None]:
    """Let a library download: what it prints goes to stderr, what it raises becomes a UsageError.

    Args:
        what: begins the error's message, such as "the file F is missing and https://U".
        remedy: ends it.
    """
    timeout_seconds = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    # URLError is an OSError; a file with another hash is a RuntimeError.
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[-1]
        raise UsageError(f"{what} could not be downloaded ({reason}). {remedy}") from error
    finally:
        socket.setdefaulttimeout(timeout_seconds)
