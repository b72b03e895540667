"""Built-in plugins import only what third-party plugins may, and the core names none of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from genkit.registry.catalogue import Registry, load_registry

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
TABLE = {
    module: set(re.findall(r"`(\w+)`", names))
    for module, names in re.findall(
        r"^\| `(genkit\.\w+)` \| (.+) \|$", PAGE.partition("## What will not change")[2], re.M
    )
}
PLUGIN_FILES = sorted((ROOT / "plugins").rglob("*.py"))
CORE_FILES = sorted(p for p in (ROOT / "genkit").rglob("*") if p.suffix in (".py", ".js", ".html"))

# Names that are also words or terms of their own, such as the `clip` of a phase. They count where
# they are a whole string, as a lookup would need it.
ALSO_WORDS = set(
    "classes classifier clip confident coverage datasets density digits fidelity folder is "
    "manifold npz precision prepared recall studies tensorboard torchvision zip".split()
)
# What may stay, by file and name.
ALLOWED = {
    ("genkit/cli/arguments.py", "inception"): "--inception-weights, an old name of an option",
    ("genkit/cli/new_plugin.py", "vae"): "a command to try, printed for the plugin's author",
    ("genkit/data/__init__.py", "folder"): "the module genkit.data.folder",
    ("genkit/data/__init__.py", "prepared"): "the module genkit.data.prepared",
}
# Whole strings that mean something else: the precision of a run, the classes of a data set, the
# data sets and studies of a registry, a library that is recorded.
OTHER_MEANINGS = {"precision", "classes", "datasets", "studies", "torchvision"}


def imports_of_genkit(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of each import from genkit in a file, in functions and for types, too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "genkit":
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            yield from ((name, "") for name in names if name.split(".")[0] == "genkit")


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_built_in_plugin_imports_only_names_of_the_plugin_interface(path: Path) -> None:
    hooks = TABLE["genkit.hookspecs"]
    assert "hookimpl" in hooks and len(TABLE) == 12
    found = list(imports_of_genkit(path))
    assert [(m, n) for m, n in found if n not in TABLE.get(m, ())] == []


def test_imports_in_functions_and_for_types_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "plugin.py"
    path.write_text(
        "import genkit.io\nif TYPE_CHECKING:\n    from genkit.a import b\n"
        "def f():\n    from genkit import train\n    from genkit_vae import c\n"
    )
    assert sorted(imports_of_genkit(path)) == [
        ("genkit", "train"),
        ("genkit.a", "b"),
        ("genkit.io", ""),
    ]


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Names of the built-in plugins, of all they provide, and of what they are made with."""
    registry = load_registry()
    found = {"torch-fidelity", "torch_fidelity"}
    for plugin in registry.plugins.plugins:
        found |= {plugin.name, f"genkit_{plugin.name}"} if plugin.built_in else set()
    found |= set(provided(registry))
    assert {"vae", "mnist-mini", "kid", "fid_corrected", "inception", "genkit_dcgan"} <= found
    return found


def provided(registry: Registry) -> Iterator[str]:
    """Names of models, data sets, features, metrics and columns that come with genkit."""
    kinds = (registry.trainers, registry.datasets, registry.features, registry.metrics)
    for catalogue in kinds:
        yield from (name for name, entry in catalogue.items() if entry.plugin.built_in)
    for entry in registry.metrics.values():
        yield from (column.name for column in entry.spec.columns if entry.plugin.built_in)


def strings_and_identifiers(path: Path) -> tuple[list[str], list[str]]:
    """Of a Python file without its docstrings; another file's text is one string."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [text], []
    strings, identifiers = [], []
    tree = ast.parse(text)
    statements = (node for node in ast.walk(tree) if isinstance(node, ast.Expr))
    docstrings = {id(node.value) for node in statements}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in docstrings:
                strings.append(node.value)
        for field in ("id", "attr", "name", "arg"):
            identifiers.append(str(getattr(node, field, "")))
    return strings, identifiers


def named(strings: list[str], identifiers: list[str], names: set[str]) -> set[str]:
    """Which of the names stand in strings or are identifiers, whatever their case."""
    terms = "|".join(map(re.escape, names - ALSO_WORDS))
    pattern = re.compile(rf"(?<![\w-])({terms})(?![\w-])", re.I)
    found = {match.lower() for text in strings for match in pattern.findall(text)}
    found |= {name.lower() for name in identifiers} & (names - ALSO_WORDS)
    return found | set(strings) & (names & ALSO_WORDS) - OTHER_MEANINGS


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_names_no_built_in(path: Path, names: set[str]) -> None:
    place = path.relative_to(ROOT).as_posix()
    allowed = {name for file, name in ALLOWED if file == place}
    assert named(*strings_and_identifiers(path), names) <= allowed


def test_a_name_in_code_or_in_a_message_is_seen() -> None:
    names = {"vae", "mnist-mini", "folder", "fid"}
    assert named(["train the VAE.", "mnist-mini-2", "VAEs", "a folder"], [], names) == {"vae"}
    assert named(["folder", "GLOSSARY"], ["folder", "FID"], names) == {"folder", "fid"}
    assert named([], ["folder", "fidelity"], names) == set()
