"""The house rules: who may import whom, what stays light, and how modules begin and end."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The order in which data flows: a module imports only modules above it.
ORDER = """errors machine entries specs hookspecs budget config options plugins registry locks
    rundir decode card ranking report model_card show scoreboard pictures thumbnails curves verdict
    views parts page preview progress signals journal walk data film prepared draft
    decoders prepare provenance model ranks stream device intake checkpoint loop threads sampling
    exhibits runs onnx_network export likelihood features metrics neighbours memorisation
    preflight evaluation watch record runner training promises spec_promises trial data_promises
    feature_promises metric_promises model_promises sample_promises exhibit_promises testing
    pytest_plugin crew launch protocol entrants comparison arguments train_command sample_command
    evaluate_command compare_command export_command data_command commands new_plugin cli""".split()
NEEDS_TORCH = """provenance model ranks stream device intake checkpoint loop threads sampling
    exhibits runs onnx_network export likelihood features metrics neighbours memorisation
    preflight evaluation watch record runner training promises spec_promises trial data_promises
    feature_promises metric_promises model_promises sample_promises exhibit_promises
    testing""".split()
LIGHT = [name for name in ORDER if name not in NEEDS_TORCH]
HEAVY_PACKAGES = {"torch", "torchvision", "torch_fidelity"}
CORE = sorted(path for path in (ROOT / "genkit").glob("*.py"))
ENTRY_MODULES = sorted((ROOT / "plugins").glob("*/__init__.py"))
PLUGINS = [path.parent.name for path in ENTRY_MODULES]
EVERYTHING = [*CORE, *sorted((ROOT / "plugins").rglob("*.py"))]
MOST_LINES = 300


def imported(path: Path, everywhere: bool = False) -> Iterator[str]:
    """Modules that a file imports when it is imported itself, or at all if `everywhere`."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if everywhere or not (deferred or typing):
            for child in ast.iter_child_nodes(node):
                yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_core_module_has_its_place_in_the_order() -> None:
    modules = {path.stem for path in CORE} - {"__init__", "__main__"}
    assert modules == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("module", ORDER)
def test_module_imports_only_modules_above_it(module: str) -> None:
    above = set(ORDER[: ORDER.index(module)])
    found = {
        name.split(".")[1]
        for name in imported(ROOT / "genkit" / f"{module}.py")
        if name.startswith("genkit.")
    }
    assert found & set(ORDER) <= above


@pytest.mark.parametrize(
    "path", [ROOT / "genkit" / f"{m}.py" for m in ["__init__", *LIGHT]] + ENTRY_MODULES, ids=names
)
def test_light_module_names_no_heavy_package(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & HEAVY_PACKAGES


def test_light_modules_leave_torch_unimported() -> None:
    modules = ["genkit", *(f"genkit.{name}" for name in LIGHT), *PLUGINS]
    code = f"import sys, {', '.join(modules)}; print(*({HEAVY_PACKAGES!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", CORE, ids=names)
def test_core_never_imports_a_plugin(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path, everywhere=True)} & set(PLUGINS)


@pytest.mark.parametrize("path", ENTRY_MODULES, ids=names)
def test_entry_module_of_a_plugin_imports_only_light_names_of_genkit(path: Path) -> None:
    found = {name.split(".")[1] for name in imported(path) if name.startswith("genkit.")}
    assert found <= {"hookspecs", "specs", "errors"}


@pytest.mark.parametrize("path", EVERYTHING, ids=names)
def test_module_opens_with_a_docstring(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring and docstring.splitlines()[0].strip()


@pytest.mark.parametrize("path", EVERYTHING, ids=names)
def test_file_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
