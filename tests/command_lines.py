"""Command lines in fresh interpreters, and plugins of third parties, for several test files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

# Runs command lines one after the other and says of each whether torch has been imported by then.
DRIVER = """
import contextlib, io, json, os, sys
from genkit.cli import main

answers = []
for variables, arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    os.environ.update(variables)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    for name in variables:
        del os.environ[name]
    heavy = [m for m in ("torch", "torchvision", "torch_fidelity") if m in sys.modules]
    answers.append([code, out.getvalue(), err.getvalue(), heavy])
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Answer:
    """How a command line ended: exit code, output, and the heavy packages imported so far."""

    code: int
    out: str
    err: str
    heavy: list[str]


class CommandLines:
    """Runs command lines of genkit in one fresh interpreter, with third-party packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        *lines: str | Sequence[str],
        site: Path | None = None,
        variables: Sequence[Mapping[str, str]] | None = None,
    ) -> list[Answer]:
        words = [line.split() if isinstance(line, str) else list(line) for line in lines]
        work = list(zip(variables or [{}] * len(words), words, strict=True))
        environment = {
            **os.environ,
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "PYTHONPATH": str(site) if site else "",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", DRIVER, json.dumps(work)],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [Answer(*answer) for answer in json.loads(done.stdout)]


def install_plugin(
    site: Path,
    name: str,
    source: str,
    *,
    distribution: str | None = None,
    target: str | None = None,
) -> None:
    """Lay an importable module and its distribution's metadata into a folder, as pip would."""
    module = f"stranger_{name.replace('-', '_')}"
    distribution = distribution or f"torch-genkit-{name}"
    (site / f"{module}.py").write_text(dedent(source), encoding="utf-8")
    metadata = site / f"{distribution.replace('-', '_')}-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.1\n", encoding="utf-8"
    )
    (metadata / "entry_points.txt").write_text(
        f"[genkit.v1]\n{name} = {target or module}\n", encoding="utf-8"
    )


def trainer_source(name: str, fields: str = "", extra: str = "", config: str = "Options") -> str:
    """The entry module of a plugin with one trainer whose target is never imported here."""
    return f"""
from pathlib import Path
from typing import Any, Literal
from pydantic import Field
from genkit.hookspecs import hookimpl
from genkit.specs import TrainerConfig, TrainerSpec

class Options(TrainerConfig):
    {fields or "pass"}

@hookimpl
def register_trainers():
    return [TrainerSpec(name={name!r}, summary="A stranger's model.", target="nowhere:Model",
                        config={config}{extra})]
"""


def error_of(captured: Any) -> str:
    """What a command line said on stderr, without the frame and the line breaks of its box."""
    text = captured.err
    assert "Traceback" not in text, text
    return " ".join(" ".join(line.strip("│╭╰─╮╯ ") for line in text.splitlines()).split())
