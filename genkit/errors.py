"""genkit's exceptions. Each message says what happened and what to do.

`exit_code` is the exit status of the command line for the error; nothing here prints.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

OWN = f"{Path(__file__).parent}{os.sep}"  # genkit's files
PYTHON = f"{Path(os.__file__).parent}{os.sep}"  # those of Python's library
TRACEBACK_HINT = "; GENKIT_TRACEBACK=1 shows all of it"


class GenkitError(Exception):
    """Something failed that is neither the user's input nor a plugin."""

    exit_code = 1


class UsageError(GenkitError):
    """The user's input cannot be used: an option, a name, a file or a folder."""

    exit_code = 2


class PluginError(GenkitError):
    """A plugin failed to load or broke its contract."""

    exit_code = 3


class TrainingError(GenkitError):
    """Training had to stop, for instance because a loss was not finite."""


class CheckpointError(GenkitError):
    """A file of weights or of training state is damaged or belongs to something else."""


class WriteError(GenkitError):
    """A file could not be written: the disk is full, the folder is gone or may not be changed."""


class Interrupted(GenkitError):
    """Training was asked to stop by a signal; it finished its step and saved."""

    def __init__(self, number: int, run: object) -> None:
        super().__init__(f"interrupted; all is saved; to resume from there: genkit resume {run}")
        self.exit_code = 128 + number


class ChangedFile(UserWarning):
    """A model's file is not the one that a run was trained with."""


def printable(text: object) -> str:
    """The text on one line, with escapes for what a terminal would not show but act on: line
    breaks, control characters, marks that change the direction of writing."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def reason_of(error: BaseException) -> str:
    """What the system says of a failed call, such as "No space left on device", or the error's
    own words."""
    return str(getattr(error, "strerror", None) or error)


def one_line(error: BaseException, code: object = None) -> str:
    """An exception's type and message in one line, with the place it comes from: the last line of
    the plugin's own file, or else where `code`, a function of the plugin, begins."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    place = _place(traceback.extract_tb(error.__traceback__), code)
    return f"{words} ({Path(*Path(place[0]).parts[-2:])}:{place[1]})" if place else words


def _place(frames: Sequence[traceback.FrameSummary], code: object) -> tuple[str, int] | None:
    """File and line to name for an error."""
    called = frames[2:] if frames and frames[0].filename == __file__ else frames  # by plugin_code
    outside = [frame for frame in called if _is_plugins(frame.filename)]
    if outside:
        folder = Path(outside[0].filename).parent
        frames = [frame for frame in outside if Path(frame.filename).parent == folder]
    else:
        function = getattr(getattr(code, "__func__", code), "__code__", None)
        if function is not None:
            return function.co_filename, function.co_firstlineno
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else None


def _is_plugins(filename: str) -> bool:
    """Whether a file may be a plugin's: it is not of genkit, of Python or of torch."""
    parts = Path(filename).parts
    if filename.startswith("<") or {"torch", "numpy", "pydantic"} & {*parts}:
        return False
    if "site-packages" in parts or "dist-packages" in parts:
        return not filename.startswith(OWN)
    return not filename.startswith((OWN, PYTHON))


@contextmanager
def plugin_code(what: str, code: object = None) -> Iterator[None]:
    """Run a plugin's code: what it raises becomes a PluginError that says that `what` failed.

    `code` is the plugin's function that is called, if there is one. genkit's own errors pass, so
    that a plugin can write the message to its user; so do interrupts. SystemExit does not pass: it
    would end the program without a message.
    """
    try:
        yield
    except GenkitError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what} failed: {one_line(error, code)}{TRACEBACK_HINT}") from error
