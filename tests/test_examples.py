"""The packages under examples/ are installed by pip and used through the command line, as by a
stranger."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch-genkit-flow", "torch-genkit-sprites")
FEW_SPRITES = ["size=16", "train_images=200", "test_images=64"]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both packages, built and installed by pip from copies of their sources."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the packages, is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--disable-pip-version-check", "--no-compile", "--target", folder]
    command += [str(ROOT / "examples" / name) for name in PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def genkit(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command line with both packages; returns what it printed. `driver` replaces
    `-m genkit`."""
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"}
    work = tmp_path_factory.mktemp("work")

    def run(*arguments: object, driver: tuple[str, ...] = ("-m", "genkit")) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", *driver, *map(str, arguments)],
            env=environment,
            cwd=work,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def scored(genkit: Run, out: Path, *arguments: object) -> dict[str, dict[str, Any]]:
    """The rows of a small comparison that wrote into a folder, by name."""
    table = out.with_suffix(".json")
    genkit(
        *("compare", *arguments, "--budget", "3steps", "--samples", "64", "--device", "cpu"),
        *("--out", out, "--json", table),
    )
    return {row["name"]: row for row in json.loads(table.read_text(encoding="utf-8"))}


def test_both_packages_are_listed_without_importing_torch(genkit: Run) -> None:
    code = (
        "import sys; from genkit.cli import main; assert main(sys.argv[1:]) == 0;"
        "assert not {'torch', 'torchvision', 'torch_fidelity'} & set(sys.modules)"
    )
    found = genkit("list", driver=("-c", code))
    for name in ("flow", "sprites", "palette", "sprite-features"):
        assert name in found.split(), found


def test_both_packages_are_without_problems(genkit: Run) -> None:
    rows = [line.split() for line in genkit("plugins").splitlines() if line.strip()]
    last = {row[0]: " ".join(row[-2:]) for row in rows}
    assert rows[0][-1] == "problem"
    for name in ("flow", "sprites"):  # the cells for torch and for the problem are empty
        assert re.fullmatch(r"\d+ ms", last[name]), rows


def test_options_of_a_stranger_are_in_its_help(genkit: Run) -> None:
    found = genkit("train", "flow", "--help")
    for option in ("--steps", "--solver", "--width", "--ema-half-life"):
        assert option in found


@pytest.mark.slow
def test_flow_is_compared_with_a_built_in_model(genkit: Run, tmp_path: Path) -> None:
    rows = scored(genkit, tmp_path / "comparison", "vae", "flow")
    assert {"vae", "flow", "real", "noise"} <= set(rows)
    assert rows["flow"]["scores"]["fid"] > rows["real"]["scores"]["fid"]
    assert rows["flow"]["card"]["features"].startswith("digits-")
    assert (tmp_path / "comparison" / "flow" / "model.safetensors").is_file()


@pytest.mark.slow
def test_sprites_are_scored_by_their_own_features_and_palette(genkit: Run, tmp_path: Path) -> None:
    options = [part for option in FEW_SPRITES for part in ("--data-option", option)]
    rows = scored(genkit, tmp_path / "comparison", "vae", "--data", "sprites", *options)
    scores = {name: rows[name]["scores"] for name in ("vae", "real", "noise")}
    for metric in ("fid", "kid", "palette_distance"):
        assert scores["real"][metric] < min(scores["vae"][metric], scores["noise"][metric])
    assert 0 < scores["real"]["palette_distance"] < 1
    assert rows["vae"]["deviations"]["palette_distance"] > 0
    assert rows["vae"]["card"]["features"].startswith("sprite-features-")


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_tests_of_the_package_pass_where_it_is_installed(
    site: Path, tmp_path: Path, package: str
) -> None:
    folder = ROOT / "examples" / package
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder / "tests"]
    done = subprocess.run(
        [*command, "-c", folder / "pyproject.toml"],
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-4000:]
