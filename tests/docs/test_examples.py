"""The packages under examples/ are installed by pip into an environment of their own and used
through the command line, as those of a third party are."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import site
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("examples")

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch-genkit-nice", "torch-genkit-sprites", "torch-genkit-broken-likelihoods")
FEW_SPRITES = ["size=16", "train_images=200", "test_images=64"]
TINY_NICE = ["--width", "8", "--couplings", "2", "--batch-size", "8"]


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees what is installed beside these tests, and an empty folder to
    work in."""

    python: Path
    work: Path

    @classmethod
    def create(cls, folder: Path) -> Environment:
        venv.create(folder / "environment", symlinks=os.name != "nt")
        scripts = folder / "environment" / ("Scripts" if os.name == "nt" else "bin")
        made = cls(scripts / Path(sys.executable).name, folder / "work")
        made.work.mkdir()
        # Unlike a plain path, addsitedir() follows .pth files in there: editable installations.
        lines = [f"import site; site.addsitedir({one!r})" for one in site.getsitepackages()]
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = Path(made.run("-c", code).strip())
        (own / "beside_these_tests.pth").write_text("\n".join(lines), encoding="utf-8")
        return made

    def run(self, *arguments: object, code: int = 0) -> str:
        """What its Python prints; with an exit code other than 0, what it says on stderr."""
        done = _run([self.python, *arguments], self.work)
        assert done.returncode == code, done.stdout[-4000:] + done.stderr
        return done.stderr if code else done.stdout

    def genkit(self, *arguments: object, code: int = 0) -> str:
        """What a command line of genkit prints, or says on stderr."""
        return self.run("-W", "error", "-m", "genkit", *arguments, code=code)

    def pip(self, command: str, *arguments: object) -> None:
        """Run the pip of these tests' environment on this one."""
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check"]
        done = _run([*pip, command, *arguments], self.work)
        assert done.returncode == 0, done.stderr

    def install(self, *packages: str) -> None:
        """Build packages of examples/ from their sources and install them."""
        options = ["--no-deps", "--no-build-isolation", "--no-index"]
        self.pip("install", *options, *(ROOT / "examples" / package for package in packages))


def _run(command: list[object], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)),
        env={**environment, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with all packages."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the packages, is not installed")
    made = Environment.create(tmp_path_factory.mktemp("examples"))
    made.install(*PACKAGES)
    return made


def scored(environment: Environment, out: Path, *arguments: object) -> dict[str, dict[str, Any]]:
    """The rows of a small comparison that wrote into a folder, by name."""
    table = out.with_suffix(".json")
    environment.genkit(
        *("compare", *arguments, "--budget", "3steps", "--samples", "64", "--device", "cpu"),
        *("--out", out, "--json", table),
    )
    return {row["name"]: row for row in json.loads(table.read_text(encoding="utf-8"))}


def test_packages_are_listed_without_importing_torch(environment: Environment) -> None:
    code = (
        "import sys; from genkit.cli import main; assert main(sys.argv[1:]) == 0;"
        "assert not {'torch', 'torchvision', 'torch_fidelity'} & set(sys.modules)"
    )
    found = environment.run("-W", "error", "-c", code, "list")
    for name in ("nice", "sprites", "palette", "sprite-features", "unshifted-map"):
        assert name in found.split(), found


def test_packages_are_without_problems(environment: Environment) -> None:
    rows = [line.split() for line in environment.genkit("plugins").splitlines() if line.strip()]
    last = {row[0]: " ".join(row[-2:]) for row in rows}
    assert "problem" in rows[0]
    for name in ("nice", "sprites", "broken-likelihoods"):  # no torch and no problem
        assert re.fullmatch(r"\d+ ms", last[name]), rows


def test_options_of_a_third_party_model_are_in_its_help(environment: Environment) -> None:
    found = environment.genkit("train", "nice", "--help")
    for option in ("--couplings", "--width", "--ema-half-life"):
        assert option in found


@pytest.mark.thorough
def test_nice_is_compared_with_a_built_in_model(environment: Environment, tmp_path: Path) -> None:
    rows = scored(environment, tmp_path / "comparison", "vae", "nice")
    assert {"vae", "nice", "real", "noise"} <= set(rows)
    assert rows["nice"]["scores"]["fid"] > rows["real"]["scores"]["fid"]
    assert rows["nice"]["card"]["features"].startswith("digits-")
    assert (tmp_path / "comparison" / "nice" / "model.safetensors").is_file()


@pytest.mark.slow
def test_sprites_are_scored_by_their_own_features_and_palette(
    environment: Environment, tmp_path: Path
) -> None:
    options = [part for option in FEW_SPRITES for part in ("--data-option", option)]
    rows = scored(environment, tmp_path / "comparison", "vae", "--data", "sprites", *options)
    scores = {name: rows[name]["scores"] for name in ("vae", "real", "noise")}
    for metric in ("fid", "kid", "palette_distance"):
        assert scores["real"][metric] < min(scores["vae"][metric], scores["noise"][metric])
    assert 0 < scores["real"]["palette_distance"] < 1
    assert rows["vae"]["deviations"]["palette_distance"] > 0
    assert rows["vae"]["card"]["features"].startswith("sprite-features-")


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_tests_of_the_package_pass_where_it_is_installed(
    environment: Environment, package: str
) -> None:
    tests = ROOT / "examples" / package / "tests"
    assert " passed" in environment.run(*pytest_in(package), tests)


@pytest.mark.thorough
def test_checks_of_the_broken_package_fail_by_what_is_wrong(environment: Environment) -> None:
    """As anyone finds out about an installed plugin: `pytest --genkit NAME`."""
    name = "torch-genkit-broken-likelihoods"
    # An editable genkit may be older than the entry point of its pytest plugin.
    installed = entry_points(group="pytest11", name="genkit")
    plugin = () if installed else ("-p", "genkit.pytest_plugin")
    command = [*pytest_in(name), *plugin, "--genkit", name, "-m", "genkit"]
    done = _run([environment.python, *command], environment.work)
    assert done.returncode == 1 and "5 failed, 2 passed" in done.stdout, done.stdout[-4000:]
    found = dict(re.findall(r"^_+ check_trainer\[(.*)\] _+\n(.*)$", done.stdout, re.MULTILINE))
    for model, wrong in {
        "unshifted-map": "a map from right to left needs a shift by a row",
        "mask-b-first": "the first layer needs mask A",
        "taps-padded-below": "kernels need their padding at the top",
        "colours-see-each-other": "a colour of a pixel sees itself or a later colour",
        "nats-in-bits": "the unit must be nats per image",
    }.items():
        assert "the probabilities of all images must sum to 1" in found[model]
        assert wrong in found[model]


def pytest_in(package: str) -> list[object]:
    """Arguments of Python: pytest with the options of a package of examples/."""
    return [
        "-B",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",  # of an editable genkit, whose finder is loaded before pytest
        "ignore:Module already imported:pytest.PytestAssertRewriteWarning",
        "-c",
        ROOT / "examples" / package / "pyproject.toml",
    ]


@pytest.mark.thorough
def test_uninstalling_takes_the_model_away_and_leaves_everything_else(
    environment: Environment, tmp_path: Path
) -> None:
    nice, vae = tmp_path / "nice", tmp_path / "vae"
    common = ["--budget", "1steps", "--device", "cpu", "--run-dir"]
    environment.genkit("train", "nice", *TINY_NICE, *common, nice)
    environment.genkit("sample", nice, "-n", 2, "-o", tmp_path / "nice.png")
    environment.pip("uninstall", "--yes", "torch-genkit-nice")
    try:
        refused = environment.genkit("sample", nice, "-n", 2, "-o", tmp_path / "more.png", code=2)
        assert refused == (
            "Error: model 'nice' comes from torch-genkit-nice 0.1.0, which is not installed; "
            "install it again\n"
        )
        assert "nice" not in environment.genkit("list").split()
        assert "No such command 'nice'" in environment.genkit("train", "nice", code=2)
        environment.genkit("train", "vae", *common, vae)
        environment.genkit("sample", vae, "-n", 2, "-o", tmp_path / "vae.png")
    finally:
        environment.install("torch-genkit-nice")
    environment.genkit("sample", nice, "-n", 2, "-o", tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "nice.png").read_bytes()
