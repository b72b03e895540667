"""Standard streams that may be closed, full or gone, and error messages on them."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from typing import Any

from genkit.errors import reason_of

ENCODE_ALL = "genkit.encode_all"  # name of an error handler for streams


def encode_all(error: UnicodeError) -> tuple[bytes, int]:
    """A question mark for each character that the terminal lacks, as in a C locale. Bytes of file
    names that are not text, which Python holds as surrogates, stay as they are."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    encoded = (bytes([ord(c) - 0xDC00]) if 0xDC80 <= ord(c) <= 0xDCFF else b"?" for c in text)
    return b"".join(encoded), error.end


codecs.register_error(ENCODE_ALL, encode_all)


def complain_of_output(error: OSError) -> int:
    """Report that stdout could not be written; returns the exit code."""
    complain(f"the output could not be written: {reason_of(error)}")
    return 1


def complain(message: str) -> None:
    """Write an error message to stderr, if that is still possible."""
    with suppress(OSError):
        print(f"Error: {message}", file=sys.stderr)


def occupy_closed_streams() -> None:
    """Connect closed standard streams to the null device. Otherwise the next file that is opened
    would get the number of a standard stream, and printed text would end up in it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


def let_go(stream: Any) -> None:
    """Send the rest of a stream to the null device; otherwise Python reports an error at exit."""
    with suppress(OSError, ValueError):  # ValueError: it is not a file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
