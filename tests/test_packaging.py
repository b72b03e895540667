"""The wheel holds what the entry points name, and the data files that its modules read."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

import genkit

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_version_is_the_same_in_package_and_project(project: dict[str, Any]) -> None:
    assert project["project"]["version"] == genkit.__version__


def test_wheel_packages_are_core_and_the_plugin_folders(project: dict[str, Any]) -> None:
    folders = {f"plugins/{path.parent.name}" for path in ROOT.glob("plugins/*/__init__.py")}
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(packages) == sorted({"genkit", *folders})


def test_each_plugin_folder_has_an_entry_point(project: dict[str, Any]) -> None:
    folders = sorted(path.parent.name for path in ROOT.glob("plugins/*/__init__.py"))
    assert sorted(project["project"]["entry-points"]["genkit.v1"].values()) == folders


def test_python_and_typer_are_bounded_as_the_code_needs(project: dict[str, Any]) -> None:
    assert project["project"]["requires-python"] == ">=3.11"
    typer = next(d for d in project["project"]["dependencies"] if d.startswith("typer"))
    assert "<" in typer  # the command line is built on parts of it that change between versions


@pytest.mark.slow
def test_built_wheel_holds_types_data_and_entry_points(
    project: dict[str, Any], tmp_path: Path
) -> None:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--no-index", "-w", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        files = set(wheel.namelist())
        (points,) = (f for f in files if f.endswith("entry_points.txt"))
        parser = ConfigParser(delimiters=["="])
        parser.read_string(wheel.read(points).decode())
    assert "genkit/py.typed" in files
    for name in ("mnist_mini.npz", "digits.safetensors"):
        assert [f for f in files if f.endswith(f"/{name}")], f"{name} is not in the wheel"
    sources = {*ROOT.glob("genkit/**/*"), *ROOT.glob("plugins/*/**/*")}
    missing = {
        str(path.relative_to(ROOT)).removeprefix("plugins/")
        for path in sources
        if path.is_file() and "__pycache__" not in path.parts
    } - files
    assert not missing
    assert {"genkit/report/page.html", "genkit/report/model_card.md"} <= files
    assert [f for f in files if f.startswith("genkit/cli/templates/")]
    assert dict(parser["genkit.v1"]) == project["project"]["entry-points"]["genkit.v1"]
    assert dict(parser["console_scripts"]) == project["project"]["scripts"]
    for module in parser["genkit.v1"].values():
        assert f"{module}/__init__.py" in files
    assert not [f for f in files if f.startswith(("plugins/", "tests/"))]
