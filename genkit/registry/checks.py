"""Which functions of `genkit.testing` check a plugin and what it provides. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterator

from genkit.config.validation import suggest
from genkit.errors import UsageError
from genkit.registry.catalogue import Registry
from genkit.registry.plugin import Plugin

CHECKS = {
    "check_trainer": "trainers",
    "check_dataset": "datasets",
    "check_metric": "metrics",
    "check_features": "features",
}


def find_plugins(registry: Registry, name: str) -> list[Plugin]:
    """The plugins of a distribution, or those of that entry point or file.

    Capitals do not count, nor does whether words are joined by - or by _.

    Raises:
        UsageError: there are none.
    """
    plugins = registry.plugins.plugins
    found = [p for p in plugins if _plain(name) in (_plain(p.name), _plain(p.distribution))]
    if not found:
        known = {known for p in plugins for known in (p.name, p.distribution)}
        raise UsageError(f"there is no plugin named {name!r}.{suggest(name, known)}")
    return found


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def checks_of(registry: Registry, plugin: Plugin) -> Iterator[tuple[str, str]]:
    """The checks of a plugin and of what it provides, each with the name of its subject."""
    yield "check_plugin", plugin.name
    for check, kind in CHECKS.items():
        catalogue = getattr(registry, kind)
        yield from ((check, name) for name, one in catalogue.items() if one.plugin is plugin)
        yield from ((check, name) for name, all_ in catalogue.contested.items() if plugin in all_)


def checks_by_name(registry: Registry, name: str) -> list[tuple[str, str]]:
    """The checks of a plugin and all that it provides, or of the model, data set, metric or feature
    extractor of that name.

    Raises:
        UsageError: there is neither; the message names plugins that failed to load.
    """
    found = [(check, name) for check, kind in CHECKS.items() if name in getattr(registry, kind)]
    try:
        plugins = find_plugins(registry, name)
    except UsageError as error:
        if found:
            return found
        known = [each for kind in CHECKS.values() for each in getattr(registry, kind)]
        hint = "" if "Did you mean" in str(error) else suggest(name, known)
        reasons = "; ".join(f"{p.name}: {p.problem}" for p in registry.plugins.failed)
        hint += f" Plugins that failed to load: {reasons}" if reasons else ""
        raise UsageError(f"{error}{hint}") from None
    return [each for plugin in plugins for each in checks_of(registry, plugin)]
