"""Third-party models that fail while they run, files as plugins, other API versions, commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from command_lines import Answer, CommandLines, install_plugin, trainer_source

pytestmark = pytest.mark.xdist_group("strangers")  # its fixtures take long

MODEL = """
import torch
from torch import nn
from genkit.hookspecs import hookimpl
from genkit.model import GenerativeModel, Phase
from genkit.specs import TrainerConfig, TrainerSpec

@hookimpl
def register_trainers():
    return [TrainerSpec(name="{name}", summary="A model.", target="{module}:Model",
                        config={config})]

{more}

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
GOOD |= {"config": "TrainerConfig", "more": ""}
KEEP = """
def keep(phases, thing):
    phases[0].optimizer.state[phases[0].optimizer.param_groups[0]["params"][0]]["kept"] = thing
    return phases
"""
CONFIG = """
from pydantic import model_validator

class Options(TrainerConfig):
    @model_validator(mode="after")
    def check(self):
        return {}["width"]
"""

# What is wrong with a model, what genkit says of it, and the exit code.
FAULTS = {
    "built": ({"init": "raise RuntimeError('no room')"}, "building the model.*no room", 3),
    "refuses": (
        {"init": "from genkit.errors import UsageError; raise UsageError('give squares')"},
        "Error: give squares",
        2,
    ),
    "phaseless": ({"phases": "None"}, "phases() returned None, not a list of Phase", 3),
    "no_phase": ({"phases": "[]"}, "their names are []", 3),
    "twice": ({"phases": "phases * 2"}, "their names are ['fit', 'fit']", 3),
    "phases_fail": ({"phases": "[][1]"}, "Model.phases() failed: IndexError", 3),
    "loss_fails": ({"loss": "{}['loss']"}, "loss of phase 'fit' failed: KeyError", 3),
    "no_pair": ({"loss": "loss"}, "'fit' returned Tensor, not (loss, extras)", 3),
    "no_scalar": (
        {"loss": "loss.expand(3), {}"},
        "'loss' of 'fit' is (3,), not a scalar",
        3,
    ),
    "nan": ({"loss": "loss * float('nan'), {}"}, "loss of phase 'fit' became nan in step 1", 1),
    "detached": ({"loss": "loss.detach(), {}"}, "the loss of 'fit' has no gradient", 3),
    "sample_fails": ({"sample": "[][1]"}, "Model.sample() failed: IndexError", 3),
    "wrong_shape": ({"sample": "images[:, 0]"}, "sample(2) gave (2, 8, 8), not (2, 1, 8, 8)", 3),
    "no_tensor": ({"sample": "images.tolist()"}, "sample(2) gave list", 3),
    "not_finite": ({"sample": "images / 0"}, "sample(2) gave values that are not finite", 3),
    "elsewhere": (
        {"sample": "images.to('meta')"},
        "sample(2) gave a tensor on meta, not on cpu",
        3,
    ),
    "step_fails": (
        {"phases": "[phases[0], setattr(phases[0].optimizer, 'step', lambda: {}['m'])][:1]"},
        "the optimizer of phase 'fit' in step 1 failed: KeyError: 'm'",
        3,
    ),
    "schedule_fails": (
        {
            "phases": "[Phase(name='fit', loss=self.loss, optimizer=phases[0].optimizer, "
            "schedule=lambda step: 1 / step)]"
        },
        "the optimizer of phase 'fit' in step 1 failed: ZeroDivisionError",
        3,
    ),
    "exits": ({"loss": "exit(0), {}"}, "loss of phase 'fit' failed: SystemExit: 0", 3),
    "reconstructs": (
        {"sample": "images\n\n    def reconstruct(self, images):\n        return [][1]"},
        "Model.reconstruct() failed: IndexError",
        3,
    ),
    "keeps_function": (
        {"phases": "keep(phases, lambda: 0)", "more": KEEP},
        "the training state cannot be saved: loop.optimizers.0.state.0.kept is a function; ",
        3,
    ),
    "keeps_object": (
        {"phases": "keep(phases, __import__('pathlib').Path())", "more": KEEP},
        "loop.optimizers.0.state.0.kept is a PosixPath; a model's and an optimizer's state_dict",
        3,
    ),
    "keeps_numpy": (
        {"phases": "keep(phases, __import__('numpy').float64(1))", "more": KEEP},
        "loop.optimizers.0.state.0.kept is a float64; ",
        3,
    ),
    "extra_state": (
        {"sample": "images\n\n    def get_extra_state(self):\n        return 3"},
        "'_extra_state' in the state_dict of stranger_extra_state:Model is a int, not a tensor",
        3,
    ),
    "validates": (
        {"config": "Options", "more": CONFIG},
        "Options's own check failed: KeyError: 'width'",
        3,
    ),
}


def hyphens(name: str) -> str:
    return name.replace("_", "-")


def model(name: str, module: str, changes: Mapping[str, str]) -> str:
    """The source of a plugin with a model, some parts of it changed."""
    text = MODEL
    for key, value in {**GOOD, **changes, "name": hyphens(name), "module": module}.items():
        text = text.replace("{" + key + "}", value)
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed packages, each with a model that has a fault, a file with a good model, and a
    small data set."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "site").mkdir()
    for name, (changes, _, _) in FAULTS.items():
        install_plugin(folder / "site", hyphens(name), model(name, f"stranger_{name}", changes))
    (folder / "their_fine.py").write_text(model("fine", "their_fine", {}))
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images)
    return folder


def train(folder: Path, name: str, run: str | None = None) -> str:
    return (
        f"train {hyphens(name)} --budget 2steps --data npz:{folder / 'data.npz'} --grids 1 "
        f"--run-dir {folder}/{run or f'run-{name}'}"
    )


@pytest.fixture(scope="module")
def trained(folder: Path, command_lines: CommandLines) -> dict[str, Answer]:
    """Trainings with all of the faulty packages installed, and of the good file beside them."""
    lines = [*(train(folder, name) for name in FAULTS), train(folder, "fine")]
    lines[-1] += f" --plugin {folder / 'their_fine.py'}"
    answers = command_lines(*lines, site=folder / "site")
    return dict(zip([*FAULTS, "fine"], answers, strict=True))


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
    assert "site/stranger_loss_fails.py:" in trained["loss_fails"].err
    assert "GENKIT_TRACEBACK=1 shows all of it" in trained["loss_fails"].err


def test_all_of_the_traceback_is_shown_when_asked_for(
    folder: Path, command_lines: CommandLines
) -> None:
    line, variables = train(folder, "loss_fails", "again"), [{"GENKIT_TRACEBACK": "1"}]
    (answer,) = command_lines(line, site=folder / "site", variables=variables)
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
    assert without.code == 2 and f"give --plugin {path}" in without.err
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
        ("__init__.py", "", "belongs to a package: install it, with pip install -e FOLDER"),
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
    assert "--plugin nowhere.py is not a file; give the path of a Python file" in missing.err
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


def test_third_party_commands_are_listed_without_importing_them(
    commanded: dict[str, Answer],
) -> None:
    answer = commanded["--help"]
    assert answer.code == 0 and answer.heavy == [] and answer.err == ""
    assert "Provided by torch-genkit-app 0.1." in answer.out
    assert "Provided by torch-genkit-one 0.1 and torch-genkit-two 0.1." in answer.out


def test_third_party_command_gets_its_arguments_and_its_own_help(
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
        ("number", "command 'number' is 3, neither a typer.Typer nor a function"),
        ("both", "comes from torch-genkit-one 0.1 and torch-genkit-two 0.1; set GENKIT_DISABLE"),
    ],
)
def test_faulty_command_is_a_plugin_error(
    line: str, words: str, commanded: dict[str, Answer]
) -> None:
    assert commanded[line].code == 3
    assert words in commanded[line].err
    assert "Traceback" not in commanded[line].err


# ---- runs whose plugin is gone, or another


def install_version(site: Path, version: str, source: str) -> None:
    """Another version of the package of the good model."""
    site.mkdir()
    install_plugin(site, "fine", source)
    metadata = site / "torch_genkit_fine-0.1.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("0.1", version))


DEPTH = """
from pydantic import Field

class Options(TrainerConfig):
    depth: int = Field(2, description="layers")
"""


@pytest.fixture(scope="module")
def outlived(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, command_lines: CommandLines
) -> dict[str, dict[str, Answer]]:
    """What commands say of a run of torch-genkit-fine 0.1 without it, and with later versions."""
    base = tmp_path_factory.mktemp("outlived")
    options = {"config": "Options", "more": DEPTH}
    old = model("fine", "stranger_fine", options)
    sites = {
        "as it was": ("0.1", old),
        "without the field": ("0.2", model("fine", "stranger_fine", {})),
        "with another shape": ("0.3", old.replace("torch.zeros(())", "torch.zeros((1,))")),
        "with a fault": ("0.4", "import nowhere_at_all"),
    }
    for name, (version, source) in sites.items():
        install_version(base / name, version, source)
    run = base / "run"
    line = train(folder, "fine").replace(f"{folder}/run-fine", str(run))
    (made,) = command_lines(line, site=base / "as it was")
    assert made.code == 0, made.err
    lines = {
        "sample": f"sample {run} -n 2 -o {base}/NAME.png",
        "resume": f"resume {run} --budget 3steps",
        "evaluate": f"evaluate {run} -n 10 --features none --alone",
        "plugins": "plugins",
        "report": f"report {run}",
    }
    (scored,) = command_lines(lines["evaluate"], site=base / "as it was")
    assert scored.code == 0, scored.err
    found = {}
    for name in ("gone", *list(sites)[1:]):
        words = [line.replace("NAME", name.replace(" ", "-")) for line in lines.values()]
        site = base / name if name != "gone" else None
        found[name] = dict(zip(lines, command_lines(*words, site=site), strict=True))
    return found


@pytest.mark.parametrize("command", ["sample", "resume", "evaluate"])
def test_run_of_a_removed_plugin_names_distribution_and_version(
    command: str, outlived: dict[str, dict[str, Answer]]
) -> None:
    answer = outlived["gone"][command]
    assert answer.code == 2
    words = "Error: model 'fine' comes from torch-genkit-fine 0.1, which is not installed"
    assert words in answer.err and "Traceback" not in answer.err


def test_stored_scores_are_shown_without_the_plugin(
    outlived: dict[str, dict[str, Answer]],
) -> None:
    assert outlived["gone"]["report"].code == 0
    assert "fine" in outlived["gone"]["report"].out


@pytest.mark.parametrize("command", ["sample", "resume", "evaluate"])
@pytest.mark.parametrize(
    ("version", "words", "code"),
    [
        ("without the field", "config.json: depth is not an option here", 2),
        ("with another shape", "'level' has shape (), the model (1,)", 1),
    ],
)
def test_run_of_another_version_of_a_plugin_says_so(
    command: str, version: str, words: str, code: int, outlived: dict[str, dict[str, Answer]]
) -> None:
    answer = outlived[version][command]
    number = {"without the field": "0.2", "with another shape": "0.3"}[version]
    assert answer.code == code, answer.err
    if command != "resume" or code == 2:
        assert words in answer.err
    made = f"; it was made with torch-genkit-fine 0.1, and torch-genkit-fine {number} is here"
    assert answer.err.rstrip().endswith(made), answer.err


@pytest.mark.parametrize("command", ["sample", "resume", "evaluate"])
def test_run_of_a_plugin_that_fails_says_why(
    command: str, outlived: dict[str, dict[str, Answer]]
) -> None:
    answer = outlived["with a fault"][command]
    assert answer.code == 3
    assert "model 'fine' comes from torch-genkit-fine 0.4, which fails: ModuleNotF" in answer.err


def test_fault_at_the_checkpoint_leaves_no_part_of_one(
    folder: Path, trained: dict[str, Answer]
) -> None:
    for name in ("keeps_function", "keeps_object", "keeps_numpy"):
        assert list((folder / f"run-{name}" / "checkpoints").iterdir()) == []
        assert not (folder / f"run-{name}" / "model.safetensors").exists()
