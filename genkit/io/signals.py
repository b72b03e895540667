"""Signals that end a run: noted during a step, acted on after it. Old handlers are restored."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HANGUP = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # the terminal was closed


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Note SIGINT, SIGTERM and a closed terminal instead of dying in the middle of a step.

    A SIGINT after the first signal interrupts at once. The others never do: they often come twice,
    for instance from a shell and from its terminal. SIGKILL ends the process at once.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted  # only the main thread may handle signals
        return

    def note(number: int, frame: object) -> None:
        if noted and number == signal.SIGINT:
            raise KeyboardInterrupt
        noted.append(number)

    with handled(note, signal.SIGINT, signal.SIGTERM, *HANGUP):
        yield noted


@contextmanager
def signals_raised() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and when the terminal is closed, so that running work is cleaned
    up. Later ones do not disturb that: they often come twice, as from `timeout`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    left = False

    def leave(number: int, frame: object) -> None:
        nonlocal left
        if not left:
            left = True
            raise SystemExit(128 + number)

    with handled(leave, signal.SIGTERM, *HANGUP):
        yield


@contextmanager
def handled(handler: Callable[[int, object], None], *numbers: signal.Signals) -> Iterator[None]:
    """Handle signals this way for a while; those that the process ignores stay ignored."""
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
