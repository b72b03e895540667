"""Entry points of plugins: their groups, distributions and order. Imports almost nothing, since
`genkit --help` looks for commands here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from importlib.metadata import EntryPoint

API_VERSION = 1
GROUP = f"genkit.v{API_VERSION}"  # the plugin API's version is in the group's name
COMMANDS = f"{GROUP}.commands"
VERSIONED = re.compile(r"genkit\.v(\d+)")
DISTRIBUTION = "torch-genkit"


def origin(entry: EntryPoint) -> tuple[str, str]:
    """An entry point's distribution and version; "unknown" where an uninstallation left parts."""
    if entry.dist is None:
        return "unknown", "unknown"
    data = entry.dist.metadata
    name, version = (data[key] if key in data else "unknown" for key in ("Name", "Version"))
    return name, version


def _order(entry: EntryPoint) -> tuple[bool, str, str]:
    """genkit's own plugins first, then by distribution and name, wherever they are installed."""
    distribution, _ = origin(entry)
    return (distribution != DISTRIBUTION, distribution, entry.name)


def enabled(entries: Iterable[EntryPoint]) -> list[EntryPoint]:
    """Entry points in order, without those that the environment variable GENKIT_DISABLE_PLUGINS
    names, by plugin or by distribution, separated by commas."""
    disabled = {n.strip() for n in os.environ.get("GENKIT_DISABLE_PLUGINS", "").split(",")}
    kept = [entry for entry in entries if not {entry.name, origin(entry)[0]} & disabled]
    return sorted(kept, key=_order)
