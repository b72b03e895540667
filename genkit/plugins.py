"""Plugins: found by entry point, loaded one by one, called one at a time.

A plugin that fails is reported with its reason and hurts nothing else. Never imports torch
itself; a well-made plugin's entry module does not either.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from genkit import hookspecs
from genkit.config import suggest
from genkit.errors import PluginError

GROUP = "genkit.v1"  # the plugin API's version is in the group's name
DISTRIBUTION = "torch-genkit"


@dataclass
class Plugin:
    """One plugin and how its loading went. `problem` is one line, None if all is well."""

    name: str
    distribution: str
    version: str
    problem: str | None = None
    error: BaseException | None = None
    import_seconds: float = 0.0

    @property
    def built_in(self) -> bool:
        return self.distribution == DISTRIBUTION

    def fail(self, error: BaseException) -> None:
        """Record what went wrong; the first reason stays."""
        if self.problem is None:
            name = "" if isinstance(error, PluginError) else f"{type(error).__name__}: "
            self.problem = " ".join(f"{name}{error}".split())
            self.error = error


class Plugins:
    """The loaded plugins. Hooks are called on one plugin after the other, each on its own."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("genkit")
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self._records: dict[str, Plugin] = {}  # by the names in `manager`, genkit's own first
        self._muted: set[str] = set()

    def register(self, module: Any, record: Plugin) -> None:
        """Add a plugin; one whose hooks do not fit is recorded as failed and left out."""
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
        """Each plugin's answer to a hook. One that raises is recorded and skipped."""
        for implementation in self._implementations(hook):
            record = self._records[implementation.plugin_name]
            try:
                values = [arguments[name] for name in implementation.argnames]
                with redirect_stdout(sys.stderr):
                    answer = implementation.function(*values)
            except (Exception, SystemExit) as error:
                record.fail(error)
                continue
            yield record, answer

    def notify(self, event: str, **arguments: Any) -> list[str]:
        """Tell listeners of a run event. One that raises is muted from then on; returns a line
        for each listener muted now."""
        muted = []
        for implementation in self._implementations(event):
            name = implementation.plugin_name
            if name in self._muted:
                continue
            try:
                values = [arguments[argument] for argument in implementation.argnames]
                with redirect_stdout(sys.stderr):
                    implementation.function(*values)
            except (Exception, SystemExit) as error:
                self._muted.add(name)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                muted.append(
                    f"plugin {self._records[name].name} failed in {event} and is muted: {reason}"
                )
        return muted

    @property
    def failed(self) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.problem]


def _origin(entry: EntryPoint) -> tuple[str, str]:
    """An entry point's distribution and version; what a broken removal left behind has neither."""
    if entry.dist is None:
        return "unknown", "unknown"
    data = entry.dist.metadata
    name, version = (data[key] if key in data else "unknown" for key in ("Name", "Version"))
    return name, version


def _order(entry: EntryPoint) -> tuple[bool, str, str]:
    """genkit's own plugins first, then by distribution and name, wherever they are installed."""
    distribution, _ = _origin(entry)
    return (distribution != DISTRIBUTION, distribution, entry.name)


def load_plugins() -> Plugins:
    """Load every installed plugin of this API version, except those that the environment
    variable GENKIT_DISABLE_PLUGINS names (plugins or distributions, separated by commas)."""
    disabled = {n.strip() for n in os.environ.get("GENKIT_DISABLE_PLUGINS", "").split(",")}
    plugins = Plugins()
    for entry in sorted(entry_points(group=GROUP), key=_order):
        distribution, version = _origin(entry)
        if {entry.name, distribution} & disabled:
            continue
        record = Plugin(entry.name, distribution, version)
        start = time.perf_counter()
        try:
            with redirect_stdout(sys.stderr):  # what a plugin prints must not mix with results
                module = entry.load()
        except (Exception, SystemExit) as error:
            record.fail(error)
            plugins.plugins.append(record)
            continue
        record.import_seconds = time.perf_counter() - start
        plugins.register(module, record)
    return plugins
