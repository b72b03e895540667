"""genkit's exceptions. Each message says what happened and what to do.

`exit_code` is the exit status of the command line for the error; nothing here prints.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        super().__init__(f"interrupted; all is saved, go on with: genkit resume {run}")
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


def one_line(error: BaseException) -> str:
    """An exception's type and message in one line, with the place it comes from."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return words
    return f"{words} ({Path(*Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno})"


@contextmanager
def plugin_code(what: str) -> Iterator[None]:
    """Run a plugin's code: what it raises becomes a PluginError that says that `what` failed.

    genkit's own errors pass, so that a plugin can write the message to its user; so do interrupts.
    SystemExit does not pass: it would end the program without a message.
    """
    try:
        yield
    except GenkitError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what} failed: {one_line(error)}{TRACEBACK_HINT}") from error
