"""Every command in the documentation is run by a test, or says why not; all of genkit's parse.

A command is a line of a ```sh block, or of an indented one. One that no test can run has a comment
before its block: `<!-- not run: needs a GPU -->`. The pages in READ are followed by test_pages.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from genkit.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.stem: path for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}
PROGRAMS = ["genkit", "python", "python3", "pip", "pytest", "source", "sphinx-build", "torchrun"]
PROGRAMS += [".venv/bin/genkit", ".venv/bin/pip", ".venv/bin/pytest", ".venv/bin/ruff"]
STRANGERS = {"uncover", "energy", "tinyflow"}  # models that pages write themselves
READ = ["README", "quickstart", "own-images", "families", "comparing"]
FOLLOWED = {"tutorial": "tests/test_tutorial.py", **dict.fromkeys(READ, "tests/test_pages.py")}
# Commands of these and other pages that another test or .ci/run runs, and those that none can.
RUN_ELSEWHERE = {
    ("README", ".venv"): ".ci/run",
    ("contributing", "python3 -m venv"): ".ci/run",
    ("contributing", ".venv/bin/p"): ".ci/run",  # pip and pytest
    ("README", "python3 -m venv"): ".ci/run",
    ("data", "genkit data prepare"): "tests/test_data_command.py",
    ("data", "genkit train dcgan --data prepared:"): "tests/test_data_command.py",
    ("export", "genkit export"): "tests/test_export.py",
    ("export", "genkit train vae --budget 5m --preview"): "tests/test_progress.py",
    ("metrics", "genkit evaluate runs/"): "tests/test_evaluation.py",
    ("metrics", "genkit evaluate samples.npz"): "tests/test_evaluation.py",
    ("metrics", "genkit evaluate my-images/"): "tests/test_evaluation.py",
    ("metrics", "genkit report"): "tests/test_cli.py",
    ("several-processes", "genkit train dcgan --devices 2"): "tests/test_launch.py",
    ("several-processes", "genkit resume"): "tests/test_launch.py",
    ("testing", "pytest --genkit"): "tests/test_pytest_plugin.py",
    ("trust", "python tests/fuzz.py"): "tests/test_fuzz.py",
}
NOT_RUN = {
    ("several-processes", "torchrun"): "needs eight GPUs, or several machines",
    ("contributing", ".venv/bin/ruff"): "it is no test of what is documented",
}


@dataclass(frozen=True)
class Command:
    """A command of a page; `reason` says why no test runs it, if its block does."""

    page: str
    text: str
    reason: str | None = None

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def commands(page: str) -> Iterator[Command]:
    """The commands of a page, in order, those joined by && one by one."""
    text = PAGES[page].read_text(encoding="utf-8")
    block = r"(?:^<!-- not run: (.+?) -->\n+)?(?:^```(\w*)\n(.*?)^```$|((?:^    \S[^\n]*\n)+))"
    for reason, language, fenced, indented in re.findall(block, text, re.M | re.S):
        if not indented and language not in ("sh", "bash", "console"):
            continue
        lines = re.sub(r"\\\n\s*", "", fenced or indented).splitlines()
        for line in filter(None, map(str.strip, lines)):
            for part in line.split(" && "):
                yield Command(page, part.removeprefix("$ "), reason or None)


ALL = [command for page in PAGES for command in commands(page)]
GENKIT = [c for c in ALL if Path(c.words[0]).name == "genkit" or "-m genkit" in c.text]


def named(command: Command) -> str:
    return f"{command.page}: {command.text[:60]}"


def parse(words: list[str]) -> Any:
    """What Typer makes of a command line of genkit, without running it."""
    context = typer.main.get_command(app).make_context("genkit", list(words))
    while hasattr(context.command, "commands"):
        group: Any = context.command
        name, command, rest = group.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        context = command.make_context(name, rest, parent=context)
    return context


def known(words: list[str]) -> list[str]:
    """genkit's arguments in a command line, with the VAE in place of a page's own model."""
    place = next(i for i, word in enumerate(words) if Path(word).name == "genkit")
    kept = iter(words[place + 1 :])
    words = [word for word in kept if word != "--plugin" or not next(kept)]
    return ["vae" if word in STRANGERS and words[0] == "train" else word for word in words]


def test_there_are_commands_and_all_begin_with_a_program() -> None:
    assert len(ALL) > 50 and len(GENKIT) > 35
    for command in ALL:
        assert command.words[0] in PROGRAMS, named(command)


@pytest.mark.parametrize("command", GENKIT, ids=named)
def test_command_is_understood(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        parse(known(command.words))
    except typer.Exit as end:  # of --help
        assert end.exit_code == 0 and "--help" in command.words


@pytest.mark.parametrize("line", ["compare vae --seedz 3", "sample", "sample x -n many", "fly"])
def test_command_that_is_wrong_is_seen(line: str) -> None:
    with pytest.raises((typer.Exit, typer.TyperException)):
        parse(line.split())


def test_options_named_in_the_text_exist() -> None:
    generated = "".join(PAGES[page].read_text("utf-8") for page in ("commands", "options"))
    there = set(re.findall(r"`(-[-\w]+)`", generated)) | {"--help"}
    there |= set(re.findall(r'"(--[-\w]+)"', "".join(p.read_text() for p in DOCS.glob("*.py"))))
    others = {"--genkit", "--mutants", "--quick", "--peers-python", "--pytorch-generative"}
    others |= {"--resume", "--write", "--install-completion", "--width", "--looks", "--key"}
    found = 0
    for page, path in PAGES.items():
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        for code in re.findall(r"`([^`\n]+)`", text):
            for option in re.findall(r"(?<!\S)--[a-z][-\w]*", code):
                found += 1
                assert option in there | others, (page, code)
    assert found > 80


def why(command: Command) -> str | None:
    """What runs a command, or why nothing does; None if that is not known."""
    if command.reason:
        return command.reason
    for (page, start), answer in {**RUN_ELSEWHERE, **NOT_RUN}.items():
        if page == command.page and command.text.startswith(start):
            return answer
    return FOLLOWED.get(command.page)


@pytest.mark.parametrize("command", ALL, ids=named)
def test_command_is_run_by_a_test_or_says_why_not(command: Command) -> None:
    answer = why(command)
    assert answer, (
        f"{command.page}.md: no test runs {command.text!r}: put <!-- not run: REASON --> before "
        "its block, or name the test that does in RUN_ELSEWHERE"
    )
    if answer.startswith(("tests/", ".ci/")):
        assert (ROOT / answer).is_file()


def test_no_exception_outlives_its_command() -> None:
    for page, start in [*RUN_ELSEWHERE, *NOT_RUN]:
        assert any(c.page == page and c.text.startswith(start) for c in ALL), (page, start)
