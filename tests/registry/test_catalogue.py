"""Which data set is taken if none is named."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from genkit.config.run import RunConfig
from genkit.errors import UsageError
from genkit.hookspecs import hookimpl
from genkit.registry.catalogue import Registry, load_registry
from genkit.registry.loader import Plugins
from genkit.registry.plugin import Plugin
from genkit.runs.build import load_data, with_absolute_paths
from genkit.specs import DatasetSpec


def registry_of(*specs: DatasetSpec) -> Registry:
    """A registry with one plugin for each data set, in this order."""
    plugins = Plugins()
    for spec in specs:
        module = SimpleNamespace(register_datasets=hookimpl(lambda spec=spec: [spec]))
        plugins.register(module, Plugin(spec.name, "torch-genkit-mine", "1"))
    return Registry(plugins)


def data_set(name: str, default: bool) -> DatasetSpec:
    return DatasetSpec(name=name, summary="X.", target="mine:load", default=default)


def test_the_first_data_set_that_is_marked_as_the_default_is_the_default() -> None:
    registry = registry_of(data_set("a", False), data_set("b", True), data_set("c", True))
    assert registry.plugins.failed == [] and list(registry.datasets) == ["a", "b", "c"]
    assert registry.default_data == registry.data_name(None) == "b"
    assert registry.data_name("c:path") == "c:path" and registry.data_name("") == ""


def test_without_a_default_data_set_one_has_to_be_named() -> None:
    registry = registry_of(data_set("a", False))
    assert registry.default_data is None and registry.data_name("a") == "a"
    with pytest.raises(UsageError, match="no installed plugin has a default data set; name one"):
        load_data(registry, RunConfig())


def test_the_default_data_set_comes_with_genkit_and_is_recorded_by_its_name() -> None:
    registry = load_registry()
    assert sum(entry.spec.default for entry in registry.datasets.values()) == 1
    assert with_absolute_paths(RunConfig(), registry).data == registry.default_data
    assert load_data(registry, RunConfig()).name == registry.default_data == "mnist-mini"
