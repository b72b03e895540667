"""The command line, a file for each command. Imports torch only inside commands that need it."""

from genkit.cli.app import app, main, script

__all__ = ["app", "main", "script"]
