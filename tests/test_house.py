"""The house rules: who may import whom, what stays light, and how modules begin and end.

The layers are contracts of import-linter in pyproject.toml.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure

ROOT = Path(__file__).parents[1]
LIGHT = (
    "errors version specs adversarial_options hookspecs io config registry data report comparison "
    "study cli"
).split()
HEAVY_PACKAGES = {"torch", "torchvision", "torch_fidelity"}
CORE = sorted((ROOT / "genkit").rglob("*.py"))
ENTRY_MODULES = sorted((ROOT / "plugins").glob("*/__init__.py"))
EVERYTHING = [*CORE, *sorted((ROOT / "plugins").rglob("*.py"))]
MOST_LINES = 300
MOST_FILES = 15  # in a folder, its __init__ apart; cli/ has one for each command


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports when it is imported itself, not inside its functions."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not (deferred or typing):
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_layers_and_lightness_hold_as_pyproject_states_them() -> None:
    configure()
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None)


def test_light_modules_leave_torch_unimported() -> None:
    """import-linter reads imports; this test runs them, with those of other packages."""
    core = [module_name(path) for path in CORE]
    light = [name for name in core if name.split(".")[1:2] in [[folder] for folder in LIGHT]]
    modules = ["genkit", *light, *(path.parent.name for path in ENTRY_MODULES)]
    code = f"import sys, {', '.join(modules)}; print(*({HEAVY_PACKAGES!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", ENTRY_MODULES, ids=names)
def test_entry_module_of_a_plugin_imports_only_light_names_of_genkit(path: Path) -> None:
    found = {name.split(".")[1] for name in imported(path) if name.startswith("genkit.")}
    assert found <= {"hookspecs", "specs", "adversarial_options", "errors"}
    assert not {name.split(".")[0] for name in imported(path)} & HEAVY_PACKAGES


@pytest.mark.parametrize("path", EVERYTHING, ids=names)
def test_module_opens_with_a_docstring(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring and docstring.splitlines()[0].strip()


@pytest.mark.parametrize("path", EVERYTHING, ids=names)
def test_file_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_folders_are_small() -> None:
    for folder in {path.parent for path in CORE} - {ROOT / "genkit" / "cli"}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES + 1, folder
