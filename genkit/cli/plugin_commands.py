"""Third-party commands: listed from their packages' metadata, imported when they are run.

A package names a command in the entry-point group `genkit.v1.commands`, with a `typer.Typer` or a
function as its target. So `genkit --help` imports no plugin, whatever is installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from genkit.errors import PluginError, plugin_code
from genkit.registry.entry_points import COMMANDS, enabled, origin


class RootGroup(TyperGroup):
    """genkit's own commands, followed by third-party ones. Built-in names always win."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        found: dict[str, list[EntryPoint]] = {}
        for entry in enabled(entry_points(group=COMMANDS)):
            found.setdefault(entry.name, []).append(entry)
        for name, entries in found.items():
            if name not in self.commands:
                self.commands[name] = _stub(name, entries)


def _stub(name: str, entries: list[EntryPoint]) -> Any:
    """A command that passes its arguments to the real one, which it imports when it runs."""

    def run(context: typer.Context) -> None:
        run_command(name, entries, context.args)

    single = typer.Typer(add_completion=False)
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    single.command(
        name,
        help=f"Provided by {_owners(entries)}.",
        context_settings=settings,
        add_help_option=False,
    )(run)
    return typer.main.get_command(single)


def run_command(name: str, entries: list[EntryPoint], arguments: list[str]) -> None:
    """Import a third-party command and run it; exit with its exit code.

    Raises:
        PluginError: two packages claim the name, or the command cannot be imported, or it fails.
    """
    if len(entries) > 1:
        raise PluginError(
            f"command {name!r} comes from {_owners(entries)}; "
            "set GENKIT_DISABLE_PLUGINS to drop one of them"
        )
    code: str | int | None = 0
    with plugin_code(f"command {name!r} of {_owners(entries)}"):
        try:
            target = entries[0].load()
        except SystemExit as error:
            raise PluginError(f"command {name!r} exits when it is imported ({error})") from error
        if not isinstance(target, typer.Typer):
            if not callable(target):
                raise PluginError(
                    f"command {name!r} is {target!r}, neither a typer.Typer nor a function"
                )
            target, function = typer.Typer(add_completion=False), target
            target.command(name)(function)
        try:
            target(arguments, prog_name=f"genkit {name}")
        except SystemExit as end:  # the usual end of a command, also of one that failed
            code = end.code
    raise SystemExit(code)


def _owners(entries: Iterable[EntryPoint]) -> str:
    return " and ".join(" ".join(origin(entry)) for entry in entries)
