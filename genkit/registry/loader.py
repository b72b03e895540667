"""Loads plugins from their entry points, and calls their hooks.

Each plugin is isolated: if it fails, the reason is recorded and the others work. This module does
not import torch, and an entry module should not.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from genkit import hookspecs
from genkit.config.validation import suggest
from genkit.errors import PluginError
from genkit.registry.entry_points import (
    API_VERSION,
    GROUP,
    VERSIONED,
    enabled,
    origin,
)
from genkit.registry.plugin import Plugin

SLOW_SECONDS = 1.0  # an import that takes longer is noted, as each command waits for it


class Plugins:
    """The loaded plugins. A hook is called on one plugin after the other, each isolated."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("genkit")
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self._records: dict[str, Plugin] = {}  # by the names in `manager`, genkit's own first
        self._muted: set[str] = set()

    def register(self, module: Any, record: Plugin) -> None:
        """Add a plugin; one whose hooks do not fit the hook specs is recorded as failed."""
        self.plugins.append(record)
        name = f"{record.distribution}:{record.name}"
        try:
            self.manager.register(module, name=name)
            self._check_hook_names(module)
        except Exception as error:
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            record.fail(error)
        else:
            self._records[name] = record

    def _check_hook_names(self, module: Any) -> None:
        known = {name for name in vars(hookspecs) if name.startswith(("register_", "on_"))}
        found = [n for n in dir(module) if self.manager.parse_hookimpl_opts(module, n) is not None]
        for name in found:
            if name not in known:
                raise PluginError(f"there is no hook named {name!r}.{suggest(name, known)}")
        if not found:
            raise PluginError("no hook in it: decorate register_trainers or another with hookimpl")

    def _implementations(self, hook: str) -> list[Any]:
        """A hook's implementations, genkit's own first, whatever priority a plugin asks for."""
        found = getattr(self.manager.hook, hook).get_hookimpls()
        return sorted(found, key=lambda one: list(self._records).index(one.plugin_name))

    def call(self, hook: str, **arguments: Any) -> Iterator[tuple[Plugin, Any]]:
        """What each plugin returns from a hook. One that raises is recorded as failed."""
        for implementation in self._implementations(hook):
            record = self._records[implementation.plugin_name]
            try:
                values = [arguments[name] for name in implementation.argnames]
                with record.contained():
                    answer = implementation.function(*values)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                record.fail(error)
                continue
            yield record, answer

    def notify(self, event: str, **arguments: Any) -> list[str]:
        """Call the listeners of a run event. One that raises is muted from then on; returns a line
        for each listener that was muted now."""
        muted = []
        for implementation in self._implementations(event):
            name = implementation.plugin_name
            if name in self._muted:
                continue
            try:
                values = [arguments[argument] for argument in implementation.argnames]
                with self._records[name].contained():
                    implementation.function(*values)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self._muted.add(name)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                muted.append(
                    f"plugin {self._records[name].name} failed in {event} and is muted: {reason}"
                )
        return muted

    def events_of(self, plugin: Plugin) -> list[str]:
        """The run events that a plugin listens to."""
        events = [name for name in vars(hookspecs) if name.startswith("on_")]
        return [
            event
            for event in events
            if any(self._records[one.plugin_name] is plugin for one in self._implementations(event))
        ]

    @property
    def failed(self) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.problem]


def load_plugins() -> Plugins:
    """Load every enabled plugin of this API version, and the files that the environment variable
    GENKIT_PLUGINS names. Plugins of other API versions are reported without being imported."""
    plugins, found = Plugins(), entry_points()
    for entry in enabled(found.select(group=GROUP)):
        _load(plugins, Plugin(entry.name, *origin(entry)), entry.load)
    for path in plugin_files():
        _load(plugins, Plugin(path.stem, str(path), "file"), partial(_import_file, path))
    for group in sorted(found.groups - {GROUP}):
        other = VERSIONED.fullmatch(group)
        if other is None:
            continue
        for entry in enabled(found.select(group=group)):
            record = Plugin(entry.name, *origin(entry))
            record.fail(
                PluginError(
                    f"it is written for plugin API v{other[1]}, and this genkit has "
                    f"v{API_VERSION}: install a version of either that fits"
                )
            )
            plugins.plugins.append(record)
    return plugins


def plugin_files() -> list[Path]:
    """The single-file plugins that GENKIT_PLUGINS names, separated as in PATH; each once."""
    named = dict.fromkeys(os.environ.get("GENKIT_PLUGINS", "").split(os.pathsep))
    return [Path(name) for name in named if name]


def _load(plugins: Plugins, record: Plugin, load: Callable[[], Any]) -> None:
    """Import and register one plugin; a failure is recorded."""
    start, had_torch, module = time.perf_counter(), "torch" in sys.modules, None
    try:
        with record.contained():
            module = load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit and Rust's panics, too
        record.fail(error)
    record.import_seconds = time.perf_counter() - start
    record.imported_torch = not had_torch and "torch" in sys.modules
    if record.import_seconds > SLOW_SECONDS and not record.built_in:
        record.note(f"each command waits {record.import_seconds:.1f} s for it to be imported")
    if record.problem:
        plugins.plugins.append(record)
    else:
        plugins.register(module, record)


def _import_file(path: Path) -> ModuleType:
    """Import a Python file as a module of the same name, so that a target can be "mine:Model".

    It can import the files beside it: its folder is added to sys.path, behind all that is
    installed.
    """
    name = path.stem
    if name == "__init__":
        raise PluginError(f"{path} belongs to a package: install it, with pip install -e FOLDER")
    if not name.isidentifier():
        raise PluginError(f"{path.name} cannot be imported: name it with letters, digits and _")
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    found = find_spec(name) if loaded is None else None
    if loaded is not None or (found and found.origin and not path.samefile(found.origin)):
        raise PluginError(f"a module {name!r} exists already: give {path.name} another name")
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file")
    if (folder := str(path.absolute().parent)) not in sys.path:
        sys.path.append(folder)
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
