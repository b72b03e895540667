"""No command prints a traceback, wherever it runs: each in a list of hostile environments."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import genkit

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # linux/prctl.h, linux/capability.h

# Runs command lines one after the other; says how each ended and what it wrote to stderr.
DRIVER = """
import contextlib, io, json, os, sys, traceback
from genkit.cli import main

answers = {}
for name, arguments in json.loads(sys.argv[2]).items():
    with contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = main(arguments)
        except BaseException:
            code = 99
            traceback.print_exc()
    answers[name] = [code, err.getvalue()]
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump(answers, file)
"""
# A container whose user id is in no list of users.
UNKNOWN_USER = """
import pwd

def unknown(*_):
    raise KeyError("uid not found")

pwd.getpwuid = pwd.getpwnam = unknown
"""


def stay_out() -> None:
    """Have root, too, obey permissions, from the next program on."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    genkit.train(
        "vae", preset="quick", run_dir=path, budget="1steps", grids=0, watch=0, progress="none",
        width=4, hidden=8,
    )  # fmt: skip
    return path


def commands(run: Path, folder: Path) -> dict[str, list[str]]:
    """A command line of each command, without paths that could be written to."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(4):
        pixels = np.full((8, 8), 50 * number, np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    (folder / "empty.npz").touch()
    np.savez(folder / "none.npz", images=np.zeros((0, 28, 28), np.uint8))
    small = ["-n", "10", "--features", "none", "--likelihood-images", "1", "--draws", "1"]
    train = ["train", "vae", "--preset", "quick", "--budget", "1steps", "--grids", "0"]
    return {
        "help": ["--help"],
        "help of train": ["train", "vae", "--help"],
        "list": ["list"],
        "info": ["info", "mnist-mini"],
        "plugins": ["plugins"],
        "data": ["data", "prepare", str(pictures), "--out", "prepared", "--size", "8"],
        "new-plugin": ["new-plugin", "thing"],
        "train": [*train, "--watch", "0", "--width", "4", "--hidden", "8"],
        "resume": ["resume", str(run)],
        "sample": ["sample", str(run), "-n", "1"],
        "evaluate": ["evaluate", str(run), *small],
        "report": ["report", str(run)],
        "export": ["export", str(run), "--to", "exported"],
        "an empty file": ["evaluate", str(folder / "empty.npz")],
        "no images": ["evaluate", str(folder / "none.npz")],
        "empty data": [*train, "--data", f"npz:{folder / 'empty.npz'}"],
        "inspect": ["inspect", "--features", "none"],
        "compare": ["compare", str(run), "--features", "none", "-n", "10"],
    }


def start(
    run: Path,
    folder: Path,
    *,
    before: str = "",
    variables: dict[str, str | None] | None = None,
    readonly: bool = False,
) -> dict[str, tuple[int, str]]:
    """Exit code and stderr of each command, in a fresh interpreter in an empty folder.

    Args:
        before: of the shell, before the interpreter starts.
        variables: of the environment; None removes one.
    """
    work, answers = folder / "work", folder / "answers.json"
    work.mkdir()
    answers.touch()
    environment = {**os.environ, **(variables or {})}
    if readonly:
        work.chmod(0o555)
    arguments = [str(answers), json.dumps(commands(run, folder))]
    done = subprocess.run(
        ["sh", "-c", f'{before} exec "$@"', "sh", sys.executable, "-c", DRIVER, *arguments],
        cwd=work,
        env={name: value for name, value in environment.items() if value is not None},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        preexec_fn=stay_out if readonly else None,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr + done.stdout
    found = json.loads(answers.read_text(encoding="utf-8"))
    for name, (_, err) in found.items():
        assert "Traceback" not in err, (name, err)
    return {name: (code, err) for name, (code, err) in found.items()}


REFUSED = {"an empty file", "no images", "empty data"}  # by every environment


def failures(answers: dict[str, tuple[int, str]]) -> set[str]:
    for code, err in answers.values():
        assert code in (0, 1, 2), err
        assert code == 0 or err.count("Error: ") == 1, err
    return {name for name, (code, _) in answers.items() if code}


def no_home(folder: Path) -> dict[str, Any]:
    (folder / "sitecustomize.py").write_text(UNKNOWN_USER, encoding="utf-8")
    home = dict.fromkeys(("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "GENKIT_CACHE"))
    return {"variables": {**home, "PYTHONPATH": str(folder), "TMPDIR": str(folder)}}


ENVIRONMENTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "no home, unknown user": no_home,
    "C locale": lambda _: {
        "variables": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    },
    "closed stdout": lambda _: {"before": "exec >&-;"},
    "dumb terminal": lambda _: {"variables": {"TERM": "dumb"}},
    "20 columns": lambda _: {"variables": {"COLUMNS": "20"}},
}


def sparing(environment: str) -> object:
    """One environment is part of the suite, the others are thorough."""
    marks = () if environment == "C locale" else pytest.mark.thorough
    return pytest.param(environment, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize("environment", [*map(sparing, ENVIRONMENTS)])
def test_every_command_works_in_a_hostile_environment(
    run: Path, tmp_path: Path, environment: str
) -> None:
    answers = start(run, tmp_path, **ENVIRONMENTS[environment](tmp_path))
    assert failures(answers) == REFUSED, answers


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="root obeys permissions by prctl only")
def test_in_a_read_only_folder_commands_that_write_say_so_in_a_sentence(
    run: Path, tmp_path: Path
) -> None:
    answers = start(run, tmp_path, readonly=True)
    writing = {"data", "new-plugin", "train", "sample", "export", "compare"}
    assert failures(answers) == REFUSED | writing, answers
    assert all("Permission denied" in answers[name][1] for name in writing), answers


@pytest.mark.slow
def test_in_a_folder_that_is_gone_every_command_says_so(run: Path, tmp_path: Path) -> None:
    answers = start(run, tmp_path, before='rmdir "$PWD";')
    gone = (2, "Error: the current folder is gone; change to another one\n")
    assert set(answers.values()) == {gone}
