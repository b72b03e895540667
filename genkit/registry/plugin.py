"""One plugin: where it comes from, what went wrong, and the isolation of its code."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from genkit.errors import PluginError, printable
from genkit.registry.entry_points import DISTRIBUTION


@dataclass
class Plugin:
    """One plugin and how its loading went. `problem` is one line, None if all is well; `notes` are
    lines on what it should not do, such as a slow import."""

    name: str
    distribution: str
    version: str
    problem: str | None = None
    error: BaseException | None = None
    import_seconds: float = 0.0
    imported_torch: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def built_in(self) -> bool:
        return self.distribution == DISTRIBUTION

    @property
    def file_hash(self) -> str | None:
        """The SHA-256 of the file that it consists of; None for an installed package."""
        if self.version != "file":
            return None
        with suppress(OSError):
            return hashlib.sha256(Path(self.distribution).read_bytes()).hexdigest()
        return None

    def fail(self, error: BaseException) -> None:
        """Record what went wrong; the first reason stays."""
        if self.problem is None:
            words = "" if isinstance(error, PluginError) else f"{type(error).__name__}: "
            with suppress(Exception):  # str() of a plugin's own exception may fail
                words += str(error)
            self.problem = printable(" ".join(words.split()))
            self.error = error

    def note(self, line: str) -> None:
        """Record something that is not a failure; the same line only once."""
        if line not in self.notes:
            self.notes.append(line)

    @contextmanager
    def contained(self) -> Iterator[None]:
        """Run this plugin's code. What it prints goes to stderr, so that it does not mix with
        results. What it changes of the whole process is put back and noted."""
        before, threads = _process_state(), threading.active_count()
        try:
            with redirect_stdout(sys.stderr):
                yield
        finally:
            for what, (value, put) in _process_state().items():
                former = before[what][0] if what in before else FRESH_TORCH[what]
                if value != former:
                    with suppress(OSError, TypeError):  # a folder that is gone, a handler in C
                        put(former)
                    self.note(f"it changed {what}, which was put back")
            if threading.active_count() > threads:
                self.note("it started a thread: what that prints may mix with results")


# What torch has when it is imported.
FRESH_TORCH = {"torch's default type": "torch.float32", "torch's gradients": True}


def _process_state() -> dict[str, tuple[Any, Callable[[Any], object]]]:
    """What a plugin must not change in the process: each value now, and the function that puts it
    back."""
    state: dict[str, tuple[Any, Callable[[Any], object]]] = {
        "sys.argv": (list(sys.argv), partial(setattr, sys, "argv")),
        "the working directory": ("", os.chdir),
    }
    with suppress(OSError):  # the folder may be gone
        state["the working directory"] = (os.getcwd(), os.chdir)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler, put = signal.getsignal(number), partial(signal.signal, number)
            state[f"the handler of {number.name}"] = (handler, put)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_default_dtype"):
        state["torch's default type"] = (str(torch.get_default_dtype()), partial(_set_type, torch))
        state["torch's gradients"] = (torch.is_grad_enabled(), torch.set_grad_enabled)
    return state


def _set_type(torch: ModuleType, name: str) -> None:
    torch.set_default_dtype(getattr(torch, name.removeprefix("torch.")))
