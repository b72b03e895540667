"""Signals that end running work in order."""

import signal

import pytest

from genkit.io.signals import signals_raised


def test_a_second_signal_does_not_disturb_the_cleaning_up_after_the_first():
    before, cleaned = signal.getsignal(signal.SIGTERM), []
    with pytest.raises(SystemExit) as end, signals_raised():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # as `timeout` sends it to the group
            cleaned.append(True)
    assert cleaned and end.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
