"""What can go wrong, as exceptions whose message says what happened and what to do.

`exit_code` is what the command line returns for the error; nothing here prints.
"""


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


class Interrupted(GenkitError):
    """Training was asked to stop by a signal; it finished its step and saved."""

    def __init__(self, number: int, run: object) -> None:
        super().__init__(f"interrupted; all is saved, go on with: genkit resume {run}")
        self.exit_code = 128 + number
