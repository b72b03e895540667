"""Finds studies: those that plugins ship, by name, and files by path."""

from __future__ import annotations

from pathlib import Path

from genkit.config.validation import suggest
from genkit.errors import PluginError, UsageError
from genkit.registry.catalogue import Registry, recording_problems
from genkit.registry.plugin import Plugin
from genkit.study.file import StudyFile, read_study


def shipped_studies(registry: Registry, by: Plugin | None = None) -> dict[str, Path]:
    """The files of all studies that plugins ship, or one of them, by name, which is the file's;
    genkit's first."""
    found: dict[str, Path] = {}
    for plugin, answer in registry.plugins.call("register_studies"):
        if by not in (None, plugin):
            continue
        with recording_problems(plugin):
            for path in answer:
                if not isinstance(path, Path) or path.suffix != ".toml":
                    raise PluginError(f"register_studies() returned {path!r}, not a Path to .toml")
                found.setdefault(path.stem, path)
    return found


def find_study(name: str, registry: Registry) -> tuple[str, StudyFile]:
    """The name and the content of a study, given by name or by the path of its file."""
    known = shipped_studies(registry)
    if name in known:
        return name, read_study(known[name])
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        return path.stem, read_study(path)
    hint = suggest(name, known) or f" There are: {', '.join(known)}."
    raise UsageError(f"there is no study named {name!r}, and no such file.{hint}")
