"""The contracts of every plugin and of every spec, whatever its kind."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

from genkit.config.validation import suggest
from genkit.contracts.contract import Violations
from genkit.errors import UsageError
from genkit.hookspecs import hookimpl
from genkit.registry.catalogue import Catalogue, Registry, load_registry
from genkit.registry.entry_points import GROUP
from genkit.registry.loader import Plugins
from genkit.registry.plugin import Plugin
from genkit.specs import Spec

__tracebackhide__ = True

TORCH_IN_FRESH_PYTHON = (
    "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; "
    "sys.exit('imports torch' if 'torch' in sys.modules else 0)"
)


@dataclass(frozen=True)
class Subject:
    """A spec and where it comes from.

    Args:
        hook: the hook that registers specs of its kind.
        modules: the plugin's entry module and the config's; they must not import torch.
    """

    spec: Any
    hook: str
    modules: tuple[str, ...]


def find_subject(kind: str, name_or_spec: str | Spec) -> Subject:
    """An installed spec by its name, or a spec as it is.

    `kind` is "trainers", "datasets", "metrics" or "features". Raises UsageError for a name that is
    not installed, with the reasons of plugins that failed to load.
    """
    modules: list[str] = []
    spec: Any = name_or_spec
    if isinstance(name_or_spec, str):
        registry = load_registry()
        catalogue: Catalogue[Any] = getattr(registry, kind)
        known = name_or_spec in catalogue or name_or_spec in catalogue.contested
        if not known and (failed := registry.plugins.failed):
            reasons = "; ".join(f"{plugin.name}: {plugin.problem}" for plugin in failed)
            raise UsageError(f"no plugin offers {name_or_spec!r}, and some failed: {reasons}")
        spec = catalogue.find(name_or_spec)
        modules += entry_modules(catalogue[name_or_spec].plugin.name)
    config = spec.config.__module__
    if not config.startswith("genkit.") and config != spec.target.partition(":")[0]:
        modules.append(config)  # except in a plugin of a single file, which has to import torch
    return Subject(spec, f"register_{kind}", tuple(dict.fromkeys(modules)))


def entry_modules(plugin: str) -> list[str]:
    """Modules that genkit imports to list what a plugin provides; none for a plugin of one file."""
    return [found.module for found in entry_points(group=GROUP, name=plugin)]


@dataclass(frozen=True)
class Loading:
    """An installed plugin, how its loading went, and the modules that were imported for it."""

    plugin: Plugin
    modules: tuple[str, ...]


def find_loading(name: str) -> Loading:
    """An installed plugin by the name of its entry point; UsageError if there is none."""
    plugins = load_registry(strict=False).plugins.plugins
    found = [plugin for plugin in plugins if plugin.name == name]
    if not found:
        known = [plugin.name for plugin in plugins]
        raise UsageError(f"there is no plugin named {name!r}.{suggest(name, known)}")
    return Loading(next((p for p in found if p.problem), found[0]), tuple(entry_modules(name)))


def plugin_is_without_problem(loading: Loading) -> Violations:
    """The plugin must load, and register all that it provides, without a problem."""
    if isinstance(loading.plugin.error, Exception):
        raise loading.plugin.error  # for its traceback
    if loading.plugin.problem:
        yield loading.plugin.problem


def spec_is_accepted(subject: Subject) -> Violations:
    """The spec must be one that genkit's registry takes."""
    plugins, record = Plugins(), Plugin(subject.spec.name, "a test", "0")
    module = SimpleNamespace(**{subject.hook: hookimpl(lambda: [subject.spec])})
    plugins.register(module, record)
    Registry(plugins)
    if record.problem:
        yield record.problem


def config_explains_itself(subject: Subject) -> Violations:
    """Every field of the config must have a default and a description."""
    for name, field in subject.spec.config.model_fields.items():
        if field.is_required():
            yield f"{name!r} has no default"
        if not field.description:
            yield f"{name!r} has no description"
    subject.spec.config()


def entry_module_imports_no_torch(subject: Subject | Loading) -> Violations:
    """The modules of plugin, spec and config must not import torch, so that `genkit list` stays
    fast.
    """
    for module in subject.modules:
        done = subprocess.run(
            [sys.executable, "-c", TORCH_IN_FRESH_PYTHON, module],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            yield f"{module}: {done.stderr.strip().splitlines()[-1]}"


def target_can_be_loaded(subject: Subject) -> Violations:
    """The target must be there to import, as "package.module:Name" says."""
    if not callable(subject.spec.load()):
        yield f"{subject.spec.target} cannot be called"


PLUGIN_CONTRACTS = (plugin_is_without_problem, entry_module_imports_no_torch)
SPEC_CONTRACTS = (
    spec_is_accepted,
    config_explains_itself,
    entry_module_imports_no_torch,
    target_can_be_loaded,
)
