"""Finds specs by name, and suggests the closest name for one that is not there.

Built-in names cannot be replaced. A name that two third-party plugins claim is contested: neither
gets it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from genkit.config.options import check_trainer_options
from genkit.config.validation import suggest
from genkit.errors import ChangedFile, CheckpointError, PluginError, UsageError
from genkit.io.machine import is_switched_on
from genkit.io.run_records import RunRecord
from genkit.registry.loader import Plugins, load_plugins
from genkit.registry.plugin import Plugin
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

    def check(self, spec: S) -> None:
        """Raise PluginError if the spec has a built-in name."""
        if spec.name in self and self[spec.name].plugin.built_in:
            raise PluginError(
                f"{self.kind} {spec.name!r} is built into genkit and cannot be replaced"
            )

    def add(self, spec: S, plugin: Plugin) -> None:
        """Add a spec; a name that is there already becomes contested, and is removed."""
        name = spec.name
        if name in self.contested:
            self.contested[name].append(plugin)
        elif name in self:
            self.contested[name] = [self.pop(name).plugin, plugin]
        else:
            self[name] = Entry(spec, plugin)

    def claims(self, name: str) -> str:
        """A message: who claims a contested name, and what to do."""
        owners = " and ".join(f"{p.distribution} {p.version}" for p in self.contested[name])
        return (
            f"{self.kind} {name!r} comes from {owners}; "
            "set GENKIT_DISABLE_PLUGINS to drop one of them"
        )

    def find(self, name: str) -> S:
        """The spec of that name; UsageError with the closest name, PluginError if contested."""
        if name in self:
            return self[name].spec
        if name in self.contested:
            raise PluginError(self.claims(name))
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
        hooks: dict[str, tuple[type[Spec], Catalogue[Any]]] = {
            "register_trainers": (TrainerSpec, self.trainers),
            "register_datasets": (DatasetSpec, self.datasets),
            "register_metrics": (MetricSpec, self.metrics),
            "register_features": (FeaturesSpec, self.features),
        }
        offers: dict[int, list[tuple[Catalogue[Any], Spec]]] = {}  # by the plugin
        for hook, (kind, catalogue) in hooks.items():
            for plugin, answer in plugins.call(hook):
                with recording_problems(plugin):
                    specs = _checked(hook, kind, answer)
                    offers.setdefault(id(plugin), []).extend((catalogue, s) for s in specs)
        for plugin in plugins.plugins:  # all that a plugin offers, or nothing
            with recording_problems(plugin):
                offered = [] if plugin.problem else offers.get(id(plugin), [])
                self._check_names(offered)
                for catalogue, spec in offered:
                    catalogue.add(spec, plugin)
        for _, catalogue in hooks.values():
            for name, claimants in catalogue.contested.items():
                for plugin in claimants:
                    plugin.note(catalogue.claims(name))

    @property
    def default_data(self) -> str | None:
        """The first data set that is marked as the default, None if there is none."""
        return next((name for name, entry in self.datasets.items() if entry.spec.default), None)

    def features_name(self, given: str | None) -> str:
        """`given`, or the default feature extractor if it is None, or else "none"."""
        defaults = (name for name, entry in self.features.items() if entry.spec.default)
        return next(defaults, "none") if given is None else given

    def data_name(self, given: str | None) -> str:
        """`given`, or the default data set if it is None; UsageError if there is neither."""
        name = self.default_data if given is None else given
        if name is None:
            raise UsageError("no installed plugin has a default data set; name one with --data")
        return name

    def trainer_of(self, record: RunRecord) -> TrainerSpec:
        """The trainer that a run's config.json names.

        Raises:
            UsageError: it is not installed; the message names its distribution and version.
            PluginError: its plugin fails, or two plugins claim its name.
        """
        name, made_with = record.model, record.provenance.plugin or ""
        distribution, _, version = made_with.rpartition(" ")
        if name in self.trainers or name in self.trainers.contested or not distribution:
            return self.trainers.find(name)
        for plugin in self.plugins.failed:
            if plugin.distribution == distribution:
                owner = f"{distribution} {plugin.version}"
                raise PluginError(
                    f"model {name!r} comes from {owner}, which fails: {plugin.problem}"
                )
        if version == "file":
            raise UsageError(f"model {name!r} comes from a file; give --plugin {distribution}")
        raise UsageError(
            f"model {name!r} comes from {made_with}, which is not installed; install it again"
        )

    @contextmanager
    def as_made(self, record: RunRecord) -> Iterator[None]:
        """Add the plugin's versions to errors about a run, if another version made the run. Warn of
        a file that is not the one that the run was trained with."""
        then, plugin = record.provenance, self.trainers[record.model].plugin
        if then.plugin_hash and plugin.file_hash not in (None, then.plugin_hash):
            warnings.warn(
                f"{plugin.distribution} is not the file that the run was trained with: its SHA-256 "
                f"is {str(plugin.file_hash)[:12]}, recorded is {then.plugin_hash[:12]}",
                ChangedFile,
                stacklevel=3,
            )
        try:
            yield
        except (UsageError, CheckpointError) as error:
            now = f"{plugin.distribution} {plugin.version}"
            if then.plugin in (None, now):
                raise
            raise type(error)(
                f"{error}; it was made with {then.plugin}, and {now} is here"
            ) from error

    def _check_names(self, offered: list[tuple[Catalogue[Any], Spec]]) -> None:
        """Raise PluginError for a name that is built in or provided twice, and for a score column
        that another metric has."""
        names = [(catalogue.kind, spec.name) for catalogue, spec in offered]
        for (catalogue, spec), name in zip(offered, names, strict=True):
            catalogue.check(spec)
            if names.count(name) > 1:
                raise PluginError(f"it provides the {catalogue.kind} {spec.name!r} twice")
        own = {spec.name: spec for _, spec in offered if isinstance(spec, MetricSpec)}
        metrics = {name: entry.spec for name, entry in self.metrics.items()} | own
        owners: dict[str, str] = {}
        for metric in metrics.values() if own else ():
            for column in metric.columns:
                if column.name in owners:
                    raise PluginError(
                        f"column {column.name!r} of {metric.name!r} is there already, by "
                        f"{owners[column.name]!r}"
                    )
                owners[column.name] = metric.name


@contextmanager
def recording_problems(plugin: Plugin) -> Iterator[None]:
    """Record what goes wrong with a plugin's specs as that plugin's problem."""
    try:
        with plugin.contained():
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        plugin.fail(error)


def _checked(hook: str, kind: type[Spec], answer: Any) -> list[Spec]:
    """The specs that a hook returned; PluginError if it returned anything else."""
    if not isinstance(answer, Iterable):
        raise PluginError(f"{hook}() returned {answer!r}, not a list of specs")
    specs = list(answer)
    for spec in specs:
        if not isinstance(spec, kind):
            raise PluginError(f"{hook}() returned {spec!r}, not a {kind.__name__}")
        _check(spec)
    return specs


def _check(spec: Spec) -> None:
    """Raise PluginError for a spec that would fail later, in a command about something else."""
    if not isinstance(spec.summary, str) or len(spec.summary.splitlines()) != 1:
        raise PluginError(f"the summary of {spec.name!r} must be one line of text")
    if isinstance(spec, TrainerSpec):
        check_trainer_options(spec)
    if isinstance(spec, MetricSpec) and not all(isinstance(c, Column) for c in spec.columns):
        raise PluginError(f"each of the columns of {spec.name!r} must be a genkit.specs.Column")


def load_registry(strict: bool | None = None) -> Registry:
    """Load all installed plugins and collect what they provide.

    Args:
        strict: raise PluginError if one has a problem; by default if the environment variable
            GENKIT_STRICT_PLUGINS is 1.
    """
    registry = Registry(load_plugins())
    if strict is None:
        strict = is_switched_on("GENKIT_STRICT_PLUGINS")
    for plugin in registry.plugins.failed if strict else []:
        raise PluginError(
            f"plugin {plugin.name!r} of {plugin.distribution} {plugin.version}: {plugin.problem}"
        )
    return registry
