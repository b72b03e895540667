"""Models of strangers that fail while they run, files as plugins, other API versions, commands."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from conftest import Answer, CommandLines, install_plugin, trainer_source

MODEL = """
import torch
from torch import nn
from genkit.hookspecs import hookimpl
from genkit.model import GenerativeModel, Phase
from genkit.specs import TrainerConfig, TrainerSpec

@hookimpl
def register_trainers():
    return [TrainerSpec(name="{name}", summary="A model.", target="{module}:Model")]

class Model(GenerativeModel):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.level = nn.Parameter(torch.zeros(()))
        {init}

    def phases(self):
        phases = [Phase(name="fit", loss=self.loss, optimizer=torch.optim.SGD([self.level], 0.1))]
        return {phases}

    def loss(self, batch):
        loss = (batch.images.mean() - self.level) ** 2
        return {loss}

    def sample(self, n, labels=None, *, generator):
        s = self.image_shape
        images = self.level.expand(n, s.channels, s.height, s.width).clamp(-1, 1)
        return {sample}
"""
GOOD = {"init": "pass", "phases": "phases", "loss": "loss, {}", "sample": "images"}

# What is wrong with a model, what genkit says of it, and the exit code.
FAULTS = {
    "built": ({"init": "raise RuntimeError('no room')"}, "building the model.*no room", 3),
    "refuses": (
        {"init": "from genkit.errors import UsageError; raise UsageError('give squares')"},
        "Error: give squares",
        2,
    ),
    "phaseless": ({"phases": "None"}, "phases() must return a list of Phase, got None", 3),
    "no_phase": ({"phases": "[]"}, "phases() must return phases with names of their own", 3),
    "twice": ({"phases": "phases * 2"}, "phases with names of their own, got ['fit', 'fit']", 3),
    "phases_fail": ({"phases": "[][1]"}, "Model.phases() failed: IndexError", 3),
    "loss_fails": ({"loss": "{}['loss']"}, "loss of phase 'fit' in step 1 failed: KeyError", 3),
    "no_pair": ({"loss": "loss"}, "loss of phase 'fit' in step 1 failed: TypeError", 3),
    "no_scalar": ({"loss": "loss.expand(3), {}"}, "it is no scalar: (3,)", 3),
    "nan": ({"loss": "loss * float('nan'), {}"}, "loss of phase 'fit' became nan in step 1", 1),
    "detached": ({"loss": "loss.detach(), {}"}, "loss of phase 'fit' in step 1", 3),
    "sample_fails": ({"sample": "[][1]"}, "Model.sample() failed: IndexError", 3),
    "wrong_shape": ({"sample": "images[:, 0]"}, "Model.sample(64) returned (64, 8, 8), not", 3),
    "no_tensor": ({"sample": "images.tolist()"}, "Model.sample(64) returned list, not", 3),
    "not_finite": ({"sample": "images / 0"}, "Model.sample() returned values that are not", 3),
    "elsewhere": ({"sample": "images.to('meta')"}, "Model.sample()", 3),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with models, and a small data set."""
    folder = tmp_path_factory.mktemp("models")
    for name, (changes, _, _) in {**FAULTS, "fine": ({}, "", 0)}.items():
        parts = {**GOOD, **changes, "name": name.replace("_", "-"), "module": f"their_{name}"}
        text = MODEL
        for key, value in parts.items():
            text = text.replace("{" + key + "}", value)
        (folder / f"their_{name}.py").write_text(text)
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images)
    return folder


def train(folder: Path, name: str) -> str:
    return (
        f"train {name.replace('_', '-')} --plugin {folder}/their_{name}.py --budget 2steps "
        f"--data npz:{folder / 'data.npz'} --grids 1 --run-dir {folder}/run-{name}"
    )


@pytest.fixture(scope="module")
def trained(folder: Path, command_lines: CommandLines) -> dict[str, Answer]:
    names = [*FAULTS, "fine"]
    return dict(zip(names, command_lines(*(train(folder, n) for n in names)), strict=True))


@pytest.mark.parametrize("name", FAULTS)
def test_model_that_fails_is_named_with_what_went_wrong(
    name: str, trained: dict[str, Answer]
) -> None:
    answer, (_, words, code) = trained[name], FAULTS[name]
    assert answer.code == code, answer.err
    last = answer.err.strip().splitlines()[-1]
    for part in words.split(".*"):
        assert part in last
    assert "Traceback" not in answer.err


def test_failure_in_a_plugin_says_where(trained: dict[str, Answer]) -> None:
    assert "their_loss_fails.py:" in trained["loss_fails"].err
    assert "GENKIT_TRACEBACK=1 shows all of it" in trained["loss_fails"].err


def test_all_of_the_traceback_is_shown_when_asked_for(
    folder: Path, command_lines: CommandLines
) -> None:
    line = train(folder, "loss_fails") + "-again"
    (answer,) = command_lines(line, variables=[{"GENKIT_TRACEBACK": "1"}])
    assert "Traceback (most recent call last)" in answer.err
    assert "return {}['loss'], {}" in answer.err or "{}['loss']" in answer.err


# ---- files as plugins


def test_file_is_a_plugin_for_the_command_that_names_it(
    folder: Path, trained: dict[str, Answer], command_lines: CommandLines
) -> None:
    assert trained["fine"].code == 0, trained["fine"].err
    run, path = folder / "run-fine", folder / "their_fine.py"
    without, with_file, by_variable = command_lines(
        f"sample {run} -n 2 -o {folder}/a.png",
        f"--plugin={path} sample {run} -n 2 -o {folder}/b.png",
        f"sample {run} -n 2 -o {folder}/c.png",
        variables=[{}, {}, {"GENKIT_PLUGINS": str(path)}],
    )
    assert without.code == 2 and "there is no model named 'fine'" in without.err
    assert with_file.code == by_variable.code == 0, with_file.err
    assert (folder / "b.png").read_bytes() == (folder / "c.png").read_bytes()


def test_files_are_listed_with_their_path_and_that_they_import_torch(
    folder: Path, command_lines: CommandLines
) -> None:
    (answer,) = command_lines(["plugins", "--plugin", str(folder / "their_fine.py")])
    (line,) = (line for line in answer.out.splitlines() if "their_fine" in line)
    assert str(folder / "their_fine.py") in line and "at import" in line and "fine" in line


@pytest.mark.slow
def test_processes_of_a_comparison_know_the_file(folder: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    data = f"npz:{folder / 'data.npz'}"
    words = ["compare", "fine", "--budget", "2steps", "--data", data, "--features", "none"]
    words += ["--plugin", str(folder / "their_fine.py"), "--samples", "16", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "genkit", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["rows"][0]["name"] == "fine"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("json.py", "", "a module 'json' exists already"),
        ("my-model.py", "", "name it with letters, digits and _"),
        ("broken_file.py", "import nowhere_at_all", "No module named 'nowhere_at_all'"),
    ],
)
def test_file_that_cannot_be_a_plugin_is_a_problem_of_its_own(
    tmp_path: Path, command_lines: CommandLines, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content)
    (answer,) = command_lines(["plugins", "--plugin", str(tmp_path / name)])
    assert answer.code == 0
    assert words in answer.out and "dcgan" in answer.out


def test_file_that_does_not_exist_is_refused(command_lines: CommandLines) -> None:
    missing, nothing = command_lines("list --plugin nowhere.py", "list --plugin")
    assert missing.code == nothing.code == 2
    assert "--plugin nowhere.py is no file; give the path of a Python file" in missing.err
    assert "--plugin needs the path of a Python file" in nothing.err


# ---- installed packages


def test_plugin_of_another_api_version_is_reported_without_being_imported(
    tmp_path: Path, command_lines: CommandLines
) -> None:
    install_plugin(tmp_path, "newer", "raise RuntimeError('it was imported')")
    entry_points = tmp_path / "torch_genkit_newer-0.1.dist-info" / "entry_points.txt"
    entry_points.write_text(entry_points.read_text().replace("genkit.v1", "genkit.v2"))
    plugins, listed = command_lines("plugins", "list", site=tmp_path)
    assert "written for plugin API v2, and this genkit has v1" in plugins.out
    assert "imported" not in plugins.out + plugins.err
    assert "Plugins with problems: newer" in listed.err and "dcgan" in listed.out


def test_plugin_with_one_bad_spec_leaves_nothing_behind(
    tmp_path: Path, command_lines: CommandLines
) -> None:
    """Also of its other hooks, and of good specs that came before the bad one."""
    source = trainer_source("half") + dedent(
        """
        from genkit.specs import DatasetSpec

        @hookimpl
        def register_datasets():
            return [
                DatasetSpec(name="good-data", summary="Good.", target="a:B"),
                DatasetSpec(name="mnist-mini", summary="Squats.", target="a:B"),
            ]
        """
    )
    install_plugin(tmp_path, "half", source)
    listed, plugins = command_lines("list --json -", "plugins", site=tmp_path)
    found = json.loads(listed.out)
    assert "half" not in found["trainers"] and "good-data" not in found["datasets"]
    assert "data set 'mnist-mini' is built into genkit and cannot be replaced" in plugins.out


def test_strict_mode_ends_with_the_first_problem(
    tmp_path: Path, command_lines: CommandLines
) -> None:
    install_plugin(tmp_path, "raises", "raise RuntimeError('broken')")
    variables = [{"GENKIT_STRICT_PLUGINS": "1"}, {"GENKIT_STRICT_PLUGINS": "0"}]
    strict, lax = command_lines("list", "list", site=tmp_path, variables=variables)
    assert strict.code == 3
    assert "plugin 'raises' of torch-genkit-raises 0.1: RuntimeError: broken" in strict.err
    assert lax.code == 0


def test_plugin_that_imports_torch_is_shown_to_do_so(
    tmp_path: Path, command_lines: CommandLines
) -> None:
    install_plugin(tmp_path, "heavy", "import torch\n" + trainer_source("heavy"))
    (answer,) = command_lines("plugins", site=tmp_path)
    (line,) = (line for line in answer.out.splitlines() if line.split()[:1] == ["heavy"])
    assert "at import" in line
    assert sum("at import" in line for line in answer.out.splitlines()) == 1


# ---- commands


def install_command(site: Path, name: str, source: str, target: str, command: str) -> None:
    install_plugin(site, name, source)
    info = site / f"torch_genkit_{name.replace('-', '_')}-0.1.dist-info"
    (info / "entry_points.txt").write_text(f"[genkit.v1.commands]\n{command} = {target}\n")


TYPER = """
import typer
app = typer.Typer()

@app.command()
def count(number: int, twice: bool = False):
    "Count to a number."
    print("counted to", number * (2 if twice else 1))
"""


@pytest.fixture(scope="module")
def commanded(
    tmp_path_factory: pytest.TempPathFactory, command_lines: CommandLines
) -> dict[str, Answer]:
    site = tmp_path_factory.mktemp("site")
    install_command(site, "app", TYPER, "stranger_app:app", "count")
    function = "import torch\ndef hello(name: str = 'you'):\n    print('hello', name)"
    install_command(site, "function", function, "stranger_function:hello", "hello")
    install_command(
        site, "squats", "def train(): print('SQUATTED')", "stranger_squats:train", "train"
    )
    install_command(site, "fails", "def fail(): raise KeyError('x')", "stranger_fails:fail", "fail")
    install_command(site, "missing", "import nowhere_at_all", "stranger_missing:app", "missing")
    install_command(site, "leaves", "raise SystemExit(0)", "stranger_leaves:app", "leaves")
    install_command(site, "number", "app = 3", "stranger_number:app", "number")
    for name in ("one", "two"):
        install_command(site, name, "def both(): pass", f"stranger_{name}:both", "both")
    lines = ["--help", "count 4 --twice", "count --help", "count four", "train --help", "hello"]
    lines += ["fail", "missing", "leaves", "number", "both"]
    return dict(zip(lines, command_lines(*lines, site=site), strict=True))


def test_strangers_commands_are_listed_without_importing_them(
    commanded: dict[str, Answer],
) -> None:
    answer = commanded["--help"]
    assert answer.code == 0 and answer.heavy == [] and answer.err == ""
    assert "Provided by torch-genkit-app 0.1." in answer.out
    assert "Provided by torch-genkit-one 0.1 and torch-genkit-two 0.1." in answer.out


def test_strangers_command_gets_its_arguments_and_its_own_help(
    commanded: dict[str, Answer],
) -> None:
    assert (commanded["count 4 --twice"].code, commanded["count 4 --twice"].out) == (
        0,
        "counted to 8\n",
    )
    assert "Count to a number." in commanded["count --help"].out
    assert "--twice" in commanded["count --help"].out
    assert commanded["count four"].code == 2
    assert commanded["hello"].out == "hello you\n"


def test_built_in_command_cannot_be_replaced(commanded: dict[str, Answer]) -> None:
    assert "SQUATTED" not in commanded["train --help"].out
    assert "dcgan" in commanded["train --help"].out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fail", "command 'fail' of torch-genkit-fails 0.1 failed: KeyError: 'x'"),
        ("missing", "No module named 'nowhere_at_all'"),
        ("leaves", "command 'leaves' exits when it is imported"),
        ("number", "command 'number' is 3, no typer.Typer and no function"),
        ("both", "comes from torch-genkit-one 0.1 and torch-genkit-two 0.1; set GENKIT_DISABLE"),
    ],
)
def test_faulty_command_is_a_plugin_error(
    line: str, words: str, commanded: dict[str, Answer]
) -> None:
    assert commanded[line].code == 3
    assert words in commanded[line].err
    assert "Traceback" not in commanded[line].err
