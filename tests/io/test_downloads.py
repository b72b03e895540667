"""Downloads by other libraries: quiet on stdout, bounded in time, failures in a sentence."""

from __future__ import annotations

import http.client
import socket
import urllib.error

import pytest

from genkit.errors import UsageError
from genkit.io.downloads import TIMEOUT_SECONDS, downloading


def test_what_a_library_prints_goes_to_stderr_and_its_sockets_time_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with downloading("it", "Wait"):
        print("100%")
        assert socket.getdefaulttimeout() == TIMEOUT_SECONDS
    assert socket.getdefaulttimeout() is None
    assert capsys.readouterr() == ("", "100%\n")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError("no route"), "<urlopen error no route>"),
        (TimeoutError(), "TimeoutError()"),
        (RuntimeError("Error\nFile not found or corrupted."), "File not found or corrupted."),
        (http.client.IncompleteRead(b"", 5), "IncompleteRead(0 bytes read, 5 more expected)"),
    ],
)
def test_a_failure_becomes_one_sentence(error: Exception, reason: str) -> None:
    with pytest.raises(UsageError) as caught, downloading("the file F", "Put it at P"):
        raise error
    assert str(caught.value) == f"the file F could not be downloaded ({reason}). Put it at P"
    assert socket.getdefaulttimeout() is None


def test_other_errors_and_interrupts_pass() -> None:
    for error in (KeyboardInterrupt(), ZeroDivisionError()):
        with pytest.raises(type(error)), downloading("it", "Wait"):
            raise error
