"""Every command in the documentation is run by a test, or says why not; all of genkit's parse.

A command is a line of a ```sh block, or of an indented one. One that no test can run has a comment
before its block: `<!-- not run: needs a GPU -->`. The pages in READ are followed by test_pages.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from documented import (
    DOCS,
    NOT_RUN,
    PAGES,
    PROGRAMS,
    ROOT,
    RUN_ELSEWHERE,
    STRANGERS,
    Command,
    commands,
    why,
)

from genkit.cli import app
from genkit.registry.catalogue import load_registry
from genkit.specs import TrainerSpec

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


def trainer_named(words: list[str]) -> TrainerSpec | None:
    """The trainer of runs/TRAINER-DATA-sSEED, which is not there."""
    names = (word.removeprefix("runs/").split("-")[0] for word in words if word[:5] == "runs/")
    return next((load_registry().trainers.find(name) for name in names), None)


def test_there_are_commands_and_all_begin_with_a_program() -> None:
    assert len(ALL) > 50 and len(GENKIT) > 35
    for command in ALL:
        assert command.words[0] in PROGRAMS, named(command)


@pytest.mark.parametrize("command", GENKIT, ids=named)
def test_command_is_understood(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("genkit.cli.sampler_options.trainer_of", trainer_named)
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
    scripts = [*DOCS.glob("*.py"), *DOCS.parent.glob("tests/bench/*.py")]
    there |= set(re.findall(r'"(--[-\w]+)"', "".join(path.read_text("utf-8") for path in scripts)))
    others = {"--genkit", "--mutants", "--resume", "--install-completion", "--width", "--key"}
    others |= {"--teacher", "--contrast"}
    found = 0
    for page, path in PAGES.items():
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        for code in re.findall(r"`([^`\n]+)`", text):
            for option in re.findall(r"(?<!\S)--[a-z][-\w]*", code):
                found += 1
                assert option in there | others, (page, code)
    assert found > 80


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
