"""Why start-up stays fast with many plugins: `--help` imports none of them, `list` no target."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from command_lines import install_plugin, trainer_source

from genkit.cli.app import app, app_for

COUNT = 10  # plugins with trainers, and as many with commands
RUNNER = """
import contextlib, io, sys
from genkit.cli import main

with contextlib.redirect_stdout(io.StringIO()):
    code = main(sys.argv[1:])
print(code, *sys.modules)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty plugins; a command's module ends with an error where it is imported."""
    site = tmp_path_factory.mktemp("site")
    for number in range(COUNT):
        install_plugin(site, f"model{number}", trainer_source(f"model{number}"))
        name = f"command{number}"
        install_plugin(site, name, "raise RuntimeError('imported')")
        points = site / f"torch_genkit_{name}-0.1.dist-info" / "entry_points.txt"
        points.write_text(f"[genkit.v1.commands]\n{name} = stranger_{name}:app\n")
    return site


def imported(site: Path, *arguments: str) -> set[str]:
    """The modules that a command line imports in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUNNER, *arguments],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    code, *modules = done.stdout.split()
    assert code == "0" and done.stderr == ""
    return set(modules)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("evaluate", "--help")])
def test_help_imports_no_plugin_though_twenty_are_installed(
    site: Path, arguments: tuple[str, ...]
) -> None:
    modules = imported(site, *arguments)
    assert not {name for name in modules if name.startswith("stranger_")}
    assert not modules & {"torch", "numpy", "genkit_vae", "genkit_fidelity", "pluggy", "jinja2"}
    assert "genkit.cli.plugin_commands" in modules


def test_list_imports_the_entry_modules_and_nothing_that_they_name(site: Path) -> None:
    modules = imported(site, "list")
    strangers = {name for name in modules if name.startswith("stranger_")}
    assert strangers == {f"stranger_model{number}" for number in range(COUNT)}
    assert not modules & {"torch", "numpy", "genkit_vae.model"}


def test_commands_of_all_twenty_are_listed(site: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "genkit", "--help"],
        env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    for number in range(COUNT):
        assert f"Provided by torch-genkit-command{number} 0.1." in done.stdout


def test_a_command_builds_its_own_options_only_and_says_what_the_whole_app_says() -> None:
    whole = typer.main.get_command(app)
    assert app_for([]) is app_for(["--version"]) is app_for(["nothing"]) is app
    for name in whole.list_commands(whole.make_context("genkit", ["list"])):
        small = typer.main.get_command(app_for([name, "--help"]))
        assert set(small.commands) == {name}
        assert type(small.commands[name]) is type(whole.commands[name])
        assert small.commands[name].help == whole.commands[name].help
    assert len(app.registered_commands) > 9  # untouched


HEAVY = {"torchvision", "torch_fidelity", "torch._dynamo.utils", "torch._inductor", "scipy"}
COMMANDS = """
import contextlib, io, sys
from genkit.cli import main
from genkit.compute.dynamo import defer_dynamo

defer_dynamo()  # as the command does
codes = []
for line in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()):
        codes.append(main(line.split()))
print(codes, *sys.modules)
"""


@pytest.mark.slow
def test_training_sampling_and_scoring_import_no_compiler_and_no_torchvision(
    tmp_path: Path,
) -> None:
    quick = "--preset quick --budget 2steps --watch 16 --grids 1 --progress none"
    done = subprocess.run(
        [
            *(sys.executable, "-c", COMMANDS),
            f"train vae {quick} --run-dir {tmp_path}/vae",
            f"train dcgan {quick} --run-dir {tmp_path}/dcgan",
            f"sample {tmp_path}/vae -o {tmp_path}/grid.png",
            f"evaluate {tmp_path}/dcgan -n 100",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.startswith("[0, 0, 0, 0] "), done.stdout[:100] + done.stderr
    assert not HEAVY & set(done.stdout.split())
    assert (tmp_path / "grid.png").exists()


@pytest.mark.slow
def test_a_command_that_used_torch_leaves_at_once_and_loses_nothing() -> None:
    """Exit code, all output, and what others do at the end of a process; torch's own end is left
    out: it would find the object below."""
    program = """
import atexit, sys
import torch
import genkit.cli

cli = sys.modules["genkit.cli.app"]

class Late:
    def __del__(self):
        print("taken apart")

sys.kept = Late()

def main():
    atexit.register(print, "the last words")
    assert any(type(finder).__module__ == "genkit.compute.dynamo" for finder in sys.meta_path)
    sys.stdout.write("x" * 100_000 + "\\n")
    return 7

cli.main = main
cli.script()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout == "x" * 100_000 + "\nthe last words\n"
