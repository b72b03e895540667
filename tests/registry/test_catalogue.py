"""Which data set is taken if none is named."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from genkit.config.run import RunConfig
from genkit.errors import ChangedFile, UsageError
from genkit.hookspecs import hookimpl
from genkit.io.run_records import Provenance
from genkit.registry.catalogue import Registry, load_registry
from genkit.registry.loader import Plugins
from genkit.registry.plugin import Plugin
from genkit.runs.build import load_data, with_absolute_paths
from genkit.specs import DatasetSpec, TrainerSpec


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


def test_file_that_has_changed_since_the_training_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("first")
    plugin = Plugin("mine", str(path), "file")
    plugins = Plugins()
    spec = TrainerSpec(name="mine", summary="X.", target="mine:Model")
    hooks = SimpleNamespace(register_trainers=hookimpl(lambda: [spec]))
    plugins.register(hooks, plugin)
    registry = Registry(plugins)
    then = plugin.file_hash
    assert then == hashlib.sha256(b"first").hexdigest()
    record = SimpleNamespace(
        model="mine", provenance=Provenance(plugin=f"{path} file", plugin_hash=then)
    )
    with warnings.catch_warnings(), registry.as_made(record):
        warnings.simplefilter("error")
    path.write_text("second")
    with pytest.warns(ChangedFile, match="not the file that the run was trained with"):
        with registry.as_made(record):
            pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with registry.as_made(SimpleNamespace(model="mine", provenance=Provenance())):
            pass  # of a run that was made before hashes were recorded


def test_installed_package_has_no_file_hash() -> None:
    assert Plugin("vae", "torch-genkit", "0.1").file_hash is None
