"""The picture of the layers and the list of files say what the code says."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OUTSIDE = {"__init__", "__main__", "pytest_plugin"}  # ways in: they are not drawn


@pytest.fixture(scope="module")
def layers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("layers", DOCS / "layers.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def picture() -> ElementTree.Element:
    return ElementTree.parse(DOCS / "layers.svg").getroot()


def imported(node: ast.AST) -> Iterator[str]:
    """What a file imports of genkit, also within functions, but not for type checkers."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
        for child in ast.iter_child_nodes(node):
            yield from imported(child)


def imports_of_files() -> set[tuple[str, str]]:
    """Pairs of units of genkit of which the first imports the second, read without grimp."""
    pairs = set()
    for path in (ROOT / "genkit").rglob("*.py"):
        unit = path.relative_to(ROOT / "genkit").parts[0].removesuffix(".py")
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            parts = name.split(".")
            if parts[0] == "genkit" and len(parts) > 1 and unit not in OUTSIDE:
                pairs.add((unit, parts[1]))
    return {(unit, other) for unit, other in pairs if unit != other}


def arrows(picture: ElementTree.Element) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in picture.iter("{http://www.w3.org/2000/svg}path"):
        if path.get("class") == "arrow":
            found.setdefault(path.attrib["data-from"], set()).add(path.attrib["data-to"])
    return found


def test_picture_is_what_the_code_says(layers: ModuleType) -> None:
    stored = (DOCS / "layers.svg").read_text(encoding="utf-8")
    assert stored == layers.draw(*layers.read_imports()), f"stale; run: {layers.COMMAND}"


def test_every_import_follows_the_arrows_and_every_arrow_is_an_import(
    picture: ElementTree.Element,
) -> None:
    drawn, direct = arrows(picture), imports_of_files()

    def leads(start: str, end: str) -> bool:
        return any(each == end or leads(each, end) for each in drawn.get(start, ()))

    assert all(leads(unit, other) for unit, other in direct)
    assert {(unit, other) for unit, others in drawn.items() for other in others} <= direct


def test_every_arrow_leads_down_and_every_folder_is_drawn(picture: ElementTree.Element) -> None:
    places = {
        str(text.text).strip("/"): float(text.attrib["y"])
        for text in picture.iter("{http://www.w3.org/2000/svg}text")
    }
    assert all(places[a] < places[b] for a, others in arrows(picture).items() for b in others)
    units = {path.stem for path in (ROOT / "genkit").glob("*.py")} - OUTSIDE
    units |= {path.parent.name for path in (ROOT / "genkit").glob("*/__init__.py")}
    assert units <= set(places)


def test_every_file_is_listed_once_below_its_folder() -> None:
    page = (DOCS / "contributing.md").read_text(encoding="utf-8")
    listed = [
        f"{folder}{name}"
        for folder, text in re.findall(
            r"^### `(genkit/.*?)`$(.*?)(?=^#|^<!--|\Z)", page, re.M | re.S
        )
        for name in re.findall(r"^\| `(\w+\.py)` \| .+ \|$", text, re.M)
    ]
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "genkit").rglob("*.py")}
    packages = {name for name in files if name.endswith("/__init__.py")} - {"genkit/__init__.py"}
    assert sorted(listed) == sorted(files - packages)


def test_imports_that_others_imply_are_not_drawn(layers: ModuleType) -> None:
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"c"}}
    assert layers.essential(graph) == {"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c"}}
    assert layers.rows_of(graph) == [["a", "d"], ["b"], ["c"]]


def test_stale_picture_is_named_with_the_command_that_writes_it(
    layers: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(layers, "DOCS", tmp_path)
    assert layers.main(["--check"]) == 1
    assert capsys.readouterr().err == "stale: layers.svg; run: python docs/layers.py\n"
    assert layers.main([]) == 0 and layers.main(["--check"]) == 0


@pytest.mark.parametrize("page", ["architecture", "contributing", "training-loop", "trust"])
def test_paths_on_a_page_exist(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:genkit|plugins|tests|docs)/[\w/.-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
