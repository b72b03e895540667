"""`genkit new-plugin`: what it writes can be installed, passes its own test, and works at once."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from command_lines import CommandLines, install_plugin, trainer_source

from genkit.cli.new_plugin import DESCRIPTIONS, Kind, new_plugin, next_commands, write_plugin
from genkit.config.resolve import resolve
from genkit.data import Split
from genkit.errors import UsageError
from genkit.runs.build import build_model
from genkit.sampling.draw import draw
from genkit.specs import ImageShape
from genkit.training.loop import Loop
from genkit.training.stream import Stream

pytestmark = pytest.mark.xdist_group("new_plugin")

torch.set_num_threads(1)

KINDS: dict[str, Kind] = {
    "my-model": "trainer",
    "my-shapes": "dataset",
    "my-gap": "metric",
    "my-blocks": "features",
}
MODULES = dict(zip(KINDS, ("model", "data", "metric", "extractor"), strict=True))
TAKEN = {
    "dcgan": "model 'dcgan' is there already",
    "mnist-mini": "data set 'mnist-mini' is there already",
    "fid": "metric 'fid' is there already",
    "digits": "feature extractor 'digits' is there already",
    "recall": "'recall' is a column of metric 'manifold'",
    "noise": "'noise' is a word of the command line",
    "none": "'none' is a word of the command line",
    "datasets": "would be the package genkit_datasets, which is there already, in ",
}


def package_of(name: str) -> str:
    return f"genkit_{name.replace('-', '_')}"


def run(command: list[str], folder: Path, site: Path) -> str:
    """Output of a command that must succeed, with `site` importable and one thread."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    environment |= {"COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A new plugin of each kind, by its name."""
    out = tmp_path_factory.mktemp("projects")
    return {name: write_plugin(name, kind, out) for name, kind in KINDS.items()}


@pytest.fixture(scope="module")
def site(projects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip has installed all of them into."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the packages, is not installed")
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--disable-pip-version-check", "--target", str(target)]
    run([*command, *map(str, projects.values())], target, target)
    return target


# ---- what is written


@pytest.mark.parametrize("name", KINDS)
def test_package_is_named_with_underscores_where_the_name_has_hyphens(
    projects: dict[str, Path], name: str
) -> None:
    project, package = projects[name], package_of(name)
    assert project.name == f"torch-genkit-{name}"
    found = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    assert found == {
        "pyproject.toml",
        "README.md",
        f"{package}/__init__.py",
        f"{package}/{MODULES[name]}.py",
        f"tests/test_{name.replace('-', '_')}.py",
    }


@pytest.mark.parametrize("name", KINDS)
def test_project_names_its_distribution_entry_point_and_dependency(
    projects: dict[str, Path], name: str
) -> None:
    project = tomllib.loads((projects[name] / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == f"torch-genkit-{name}"
    assert project["project"]["dependencies"] == ["torch-genkit"]
    assert project["project"]["entry-points"] == {"genkit.v1": {name: package_of(name)}}
    assert project["project"]["optional-dependencies"].keys() == {"test"}


@pytest.mark.parametrize("name", KINDS)
def test_readme_says_how_to_install_use_test_and_change_it(
    projects: dict[str, Path], name: str
) -> None:
    text = (projects[name] / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# torch-genkit-{name}\n")
    use = DESCRIPTIONS[KINDS[name]].command.format(name)
    commands = ['pip install -e ".[test]"', use, "pytest"]
    assert {f"    {command}" for command in commands} <= set(text.splitlines())
    assert "What to change first" in text and f"`{package_of(name)}/__init__.py`" in text


@pytest.mark.parametrize("name", KINDS)
def test_no_placeholder_is_left_and_each_module_has_a_docstring(
    projects: dict[str, Path], name: str
) -> None:
    for path in projects[name].rglob("*.*"):
        text = path.read_text(encoding="utf-8")
        assert "$" not in text
        if path.suffix == ".py":
            assert ast.get_docstring(ast.parse(text))
            assert len(text.splitlines()) < 60


@pytest.mark.parametrize("name", KINDS)
def test_generated_code_passes_ruff(projects: dict[str, Path], name: str) -> None:
    ruff = shutil.which("ruff", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    if ruff is None:
        pytest.skip("ruff is not installed")
    for command in (["check", "--select", "E,F,I,B,UP,RUF"], ["format", "--check"]):
        run([ruff, *command, "--no-cache", "."], projects[name], projects[name])


def test_entry_modules_import_no_torch(projects: dict[str, Path], tmp_path: Path) -> None:
    for name, project in projects.items():
        shutil.copytree(project / package_of(name), tmp_path / package_of(name))
    code = f"import sys, {', '.join(map(package_of, KINDS))}; print('torch' in sys.modules)"
    assert run([sys.executable, "-W", "error", "-c", code], tmp_path, tmp_path) == "False\n"


def test_command_prints_the_folder_and_three_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_plugin("fresh", out=tmp_path)
    project = tmp_path / "torch-genkit-fresh"
    assert capsys.readouterr().out.splitlines() == [
        str(project),
        "Next:",
        f'  pip install -e "{project}[test]"',
        "  genkit train fresh --budget 60s",
        f'  pytest "{project}"',
    ]
    assert [next_commands("a-b", kind, project)[1] for kind in list(DESCRIPTIONS)[1:]] == [
        "genkit train vae --data a-b --budget 60s",
        "genkit evaluate real --samples 1000",
        "genkit evaluate real --samples 1000 --features a-b",
    ]


# ---- what is refused


@pytest.mark.parametrize("name", ["", "Fresh", "a_b", "a--b", "-a", "a-", "1a", "a b", "../a", "ä"])
def test_bad_name_is_refused_and_nothing_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a name: use small letters, digits and single"):
        write_plugin(name, "trainer", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", DESCRIPTIONS)
@pytest.mark.parametrize("name", TAKEN)
def test_taken_name_is_refused_whatever_kind_has_it(name: str, kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        write_plugin(name, kind, tmp_path)
    assert TAKEN[name] in str(raised.value)
    assert "choose another name" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_names_of_installed_third_party_plugins_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(tmp_path, "stranger", trainer_source("fresh"))
    (tmp_path / "genkit_other.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="model 'fresh' is there already; choose another name"):
        write_plugin("fresh", "metric", tmp_path / "out")
    with pytest.raises(UsageError, match=r"package genkit_other, .* in .*genkit_other\.py; choose"):
        write_plugin("other", "trainer", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    project = tmp_path / "torch-genkit-fresh"
    project.mkdir()
    (project / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="torch-genkit-fresh is there already; choose another"):
        write_plugin("fresh", "trainer", tmp_path)
    assert [path.name for path in project.iterdir()] == ["notes.txt"]
    (project / "notes.txt").unlink()
    write_plugin("fresh", "trainer", tmp_path)
    assert (project / "pyproject.toml").is_file()


def test_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "torch-genkit-fresh").write_text("mine")
    with pytest.raises(UsageError, match="torch-genkit-fresh is there already"):
        write_plugin("fresh", "trainer", tmp_path)
    with pytest.raises(UsageError, match=r"cannot be written \(Not a directory\); choose another"):
        write_plugin("other", "trainer", tmp_path / "torch-genkit-fresh")
    assert (tmp_path / "torch-genkit-fresh").read_text() == "mine"


# ---- what it does once it is installed


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["my-model", *(pytest.param(n, marks=pytest.mark.thorough) for n in [*KINDS][1:])]
)
def test_generated_test_passes_as_written(projects: dict[str, Path], site: Path, name: str) -> None:
    # pytest's own warning is of the finder of an editable genkit.
    quiet = ["-W", "error", "-W", "ignore:Module already imported so cannot be rewritten"]
    command = [sys.executable, "-W", "error", "-m", "pytest", *quiet, "-q"]
    out = run([*command, "-p", "no:cacheprovider"], projects[name], site)
    assert f"{1 if name == 'my-model' else 2} passed" in out


def test_installed_plugins_are_listed_without_a_problem(
    site: Path, command_lines: CommandLines
) -> None:
    listed, health = command_lines("list --json -", "plugins", site=site)
    catalogue = json.loads(listed.out)
    for name, kind in KINDS.items():
        found = catalogue[kind if kind == "features" else f"{kind}s"]
        assert found[name]["from"] == f"torch-genkit-{name}"
        (row,) = (line for line in health.out.splitlines() if line.split()[:1] == [name])
        assert row.split()[1:4] == [f"torch-genkit-{name}", "0.1", name]
        assert row.rstrip().endswith(" ms")
    assert [listed.code, health.code, listed.err, health.err] == [0, 0, "", ""]
    assert health.heavy == []


@pytest.mark.slow
def test_new_metric_and_features_score_the_new_data_set(site: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "genkit", "evaluate", "real", "--json", "-"]
    command += ["--data", "my-shapes", "--features", "my-blocks", "--samples", "200"]
    rows = {r["name"]: r for r in json.loads(run(command, tmp_path, site))}
    assert rows["real"]["card"]["features"].startswith("my-blocks-")
    scores = {name: row["scores"] for name, row in rows.items()}
    assert scores["real"]["fid"] < scores["noise"]["fid"] / 10
    # Uniform noise is 127.5 bright; three quarters and more of these shapes' images are black.
    assert scores["noise"]["my_gap"] > 127.5 * 0.75
    assert scores["real"]["my_gap"] < 4 * rows["real"]["deviations"]["my_gap"]


def test_new_data_set_comes_in_colour_and_in_any_size(site: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "genkit", "inspect", "--data", "my-shapes", "--features"]
    command += ["none", "--data-option", "colour=true", "--data-option", "size=16"]
    facts = json.loads(run(command, tmp_path, site))
    assert (facts["shape"], facts["train_images"], facts["notes"]) == ("3 x 16 x 16", 5000, [])


@pytest.mark.thorough
@pytest.mark.slow
def test_new_model_is_trained_and_compared_like_a_built_in(site: Path, tmp_path: Path) -> None:
    genkit = [sys.executable, "-W", "error", "-m", "genkit"]
    out = run([*genkit, "train", "my-model", "--budget", "3steps"], tmp_path, site)
    assert (tmp_path / out.splitlines()[-1] / "model.safetensors").is_file()
    command = [*genkit, "compare", "vae", "my-model", "--budget", "3steps", "--samples", "64"]
    run([*command, "--out", "out"], tmp_path, site)
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]
    assert {row["name"] for row in rows if row["rank"] is not None} == {"vae", "my-model"}


def test_new_model_learns_to_draw_what_it_was_shown(
    projects: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(projects["my-model"])
    (spec,) = importlib.import_module("genkit_my_model").register_trainers()
    options = resolve(spec, given={"width": 64}).options
    model = build_model(spec, options, ImageShape(1, 8, 8), seed=0)
    halves = np.zeros((40, 1, 8, 8), np.uint8)
    halves[::2, :, :4] = halves[1::2, :, 4:] = 255  # white above, or white below
    stream = Stream(Split(halves), batch_size=64, seed=0, device=torch.device("cpu"))
    loop = Loop(model, stream, seed=0, ema_half_life=options.ema_half_life)
    for _ in range(400):
        loop.iterate()
    images = draw(loop.average, 64, seed=0).float()
    above, below = images[:, :, :4].mean((1, 2, 3)), images[:, :, 4:].mean((1, 2, 3))
    assert (above + below - 255).abs().max() < 30
    assert 16 < (above > 200).sum() < 48 and 16 < (below > 200).sum() < 48
