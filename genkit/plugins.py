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
            self.problem = f"{type(error).__name__}: {error}".splitlines()[0]
            self.error = error


class Plugins:
    """The loaded plugins. Hooks are called on one plugin after the other, each on its own."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("genkit")
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self._records: dict[Any, Plugin] = {}
        self._muted: set[Any] = set()

    def register(self, module: Any, record: Plugin) -> None:
        """Add a plugin; one whose hooks do not fit is recorded as failed and left out."""
        self.plugins.append(record)
        try:
            self.manager.register(module, name=f"{record.distribution}:{record.name}")
            self._check_hook_names(module)
        except Exception as error:
            if self.manager.is_registered(module):
                self.manager.unregister(module)
            record.fail(error)
        else:
            self._records[module] = record

    def _check_hook_names(self, module: Any) -> None:
        known = {name for name in vars(hookspecs) if name.startswith(("register_", "on_"))}
        for name in dir(module):
            if self.manager.parse_hookimpl_opts(module, name) is not None and name not in known:
                raise pluggy.PluginValidationError(module, f"unknown hook {name!r}")

    def call(self, hook: str, **arguments: Any) -> Iterator[tuple[Plugin, Any]]:
        """Each plugin's answer to a hook. One that raises is recorded and skipped."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            record = self._records[implementation.plugin]
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
        for implementation in getattr(self.manager.hook, event).get_hookimpls():
            if implementation.plugin in self._muted:
                continue
            try:
                implementation.function(*[arguments[n] for n in implementation.argnames])
            except Exception as error:
                self._muted.add(implementation.plugin)
                record = self._records[implementation.plugin]
                muted.append(f"plugin {record.name} failed in {event} and is muted: {error}")
        return muted

    @property
    def failed(self) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.problem]


def _order(entry: EntryPoint) -> tuple[bool, str, str]:
    """genkit's own plugins first, then by distribution and name, wherever they are installed."""
    distribution = entry.dist.name if entry.dist else ""
    return (distribution != DISTRIBUTION, distribution, entry.name)


def load_plugins() -> Plugins:
    """Load every installed plugin of this API version, except those that the environment
    variable GENKIT_DISABLE_PLUGINS names (plugins or distributions, separated by commas)."""
    disabled = {n.strip() for n in os.environ.get("GENKIT_DISABLE_PLUGINS", "").split(",")}
    plugins = Plugins()
    for entry in sorted(entry_points(group=GROUP), key=_order):
        distribution = entry.dist.name if entry.dist else "unknown"
        if {entry.name, distribution} & disabled:
            continue
        version = entry.dist.version if entry.dist else "unknown"
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
