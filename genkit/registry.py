"""From names to specs: who provides what, who may keep a contested name, "did you mean".

Built-in names always win; a name that two strangers claim belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from genkit.config import suggest
from genkit.errors import PluginError, UsageError
from genkit.options import check_trainer_options
from genkit.plugins import Plugin, Plugins, load_plugins
from genkit.specs import Column, DatasetSpec, FeaturesSpec, MetricSpec, Spec, TrainerSpec

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Entry(Generic[S]):
    """A spec and the plugin that provides it."""

    spec: S
    plugin: Plugin


class Catalogue(dict[str, Entry[S]]):
    """The specs of one kind by name, in the order in which plugins provide them."""

    def __init__(self, kind: str, plugins: Plugins) -> None:
        super().__init__()
        self.kind = kind
        self.plugins = plugins
        self.contested: dict[str, list[Plugin]] = {}

    def add(self, spec: S, plugin: Plugin) -> None:
        name = spec.name
        if name in self.contested:
            self.contested[name].append(plugin)
        elif name not in self:
            self[name] = Entry(spec, plugin)
        elif self[name].plugin.built_in:
            raise PluginError(f"{self.kind} {name!r} is built into genkit and cannot be replaced")
        else:
            self.contested[name] = [self.pop(name).plugin, plugin]

    def find(self, name: str) -> S:
        """The spec of that name; UsageError with the closest name, PluginError if contested."""
        if name in self:
            return self[name].spec
        if name in self.contested:
            owners = " and ".join(f"{p.distribution} {p.version}" for p in self.contested[name])
            raise PluginError(
                f"{self.kind} {name!r} comes from {owners}; "
                "set GENKIT_DISABLE_PLUGINS to drop one of them"
            )
        hint = suggest(name, self) or f" There are: {', '.join(self)}." * bool(self)
        broken = self.plugins.failed
        if broken:
            hint += f" Plugins that failed to load: {', '.join(p.name for p in broken)}."
        if not self.plugins.plugins:
            hint += " No plugins are installed at all: install genkit with pip, as the README says."
        raise UsageError(f"there is no {self.kind} named {name!r}.{hint}")


class Registry:
    """All specs that the loaded plugins provide."""

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self.trainers: Catalogue[TrainerSpec] = Catalogue("model", plugins)
        self.datasets: Catalogue[DatasetSpec] = Catalogue("data set", plugins)
        self.metrics: Catalogue[MetricSpec] = Catalogue("metric", plugins)
        self.features: Catalogue[FeaturesSpec] = Catalogue("feature extractor", plugins)
        self._fill("register_trainers", TrainerSpec, self.trainers)
        self._fill("register_datasets", DatasetSpec, self.datasets)
        self._fill("register_metrics", MetricSpec, self.metrics)
        self._fill("register_features", FeaturesSpec, self.features)

    def _fill(self, hook: str, kind: type[Spec], catalogue: Catalogue[Any]) -> None:
        for plugin, answer in self.plugins.call(hook):
            try:
                if not isinstance(answer, Iterable):
                    raise PluginError(f"{hook}() returned {answer!r}, not a list of specs")
                for spec in answer:
                    if not isinstance(spec, kind):
                        raise PluginError(f"{hook}() returned {spec!r}, not a {kind.__name__}")
                    _check(spec)
                    if isinstance(spec, MetricSpec):
                        self._check_columns(spec)
                    catalogue.add(spec, plugin)
            except Exception as error:
                plugin.fail(error)

    def _check_columns(self, spec: MetricSpec) -> None:
        """Raise PluginError for a column that another metric has: it would hide that one's."""
        for name, entry in self.metrics.items():
            for column in spec.columns:
                if name != spec.name and column.name in {c.name for c in entry.spec.columns}:
                    raise PluginError(
                        f"column {column.name!r} of {spec.name!r} is there already, by {name!r}"
                    )


def _check(spec: Spec) -> None:
    """Raise PluginError for a spec that would fail later, in a command about something else."""
    if not isinstance(spec.summary, str) or len(spec.summary.splitlines()) != 1:
        raise PluginError(f"the summary of {spec.name!r} must be one line of text")
    if isinstance(spec, TrainerSpec):
        check_trainer_options(spec)
    if isinstance(spec, MetricSpec) and not all(isinstance(c, Column) for c in spec.columns):
        raise PluginError(f"each of the columns of {spec.name!r} must be a genkit.specs.Column")


def load_registry() -> Registry:
    """Load all installed plugins and collect what they provide."""
    return Registry(load_plugins())
