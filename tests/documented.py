"""The commands of the documentation: where they stand, and which test runs each of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.stem: path for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}
PROGRAMS = ["genkit", "python", "python3", "pip", "pytest", "source", "sphinx-build", "torchrun"]
PROGRAMS += [".venv/bin/genkit", ".venv/bin/pip", ".venv/bin/pytest", ".venv/bin/ruff"]
STRANGERS = {"uncover", "energy", "tinyflow"}  # models that pages write themselves
READ = ["README", "quickstart", "own-images", "families", "comparing"]
FOLLOWED = {
    "tutorial": "tests/docs/test_tutorial.py",
    **dict.fromkeys(READ, "tests/docs/test_pages.py"),
}
# Commands of these and other pages that another test or .ci/run runs, and those that none can.
RUN_ELSEWHERE = {
    ("README", ".venv"): ".ci/run",
    ("contributing", "python3 -m venv"): ".ci/run",
    ("contributing", ".venv/bin/p"): ".ci/run",  # pip and pytest
    ("README", "python3 -m venv"): ".ci/run",
    ("data", "genkit data prepare"): "tests/cli/test_data.py",
    ("data", "genkit train dcgan --data prepared:"): "tests/cli/test_data.py",
    ("export", "genkit export"): "tests/runs/test_export.py",
    ("export", "genkit train vae --budget 5m --preview"): "tests/io/test_progress.py",
    ("metrics", "genkit evaluate runs/"): "tests/evaluation/test_evaluator.py",
    ("metrics", "genkit evaluate samples.npz"): "tests/evaluation/test_evaluator.py",
    ("metrics", "genkit evaluate my-images/"): "tests/evaluation/test_evaluator.py",
    ("metrics", "genkit report"): "tests/cli/test_app.py",
    ("several-processes", "genkit train dcgan --devices 2"): "tests/io/test_processes.py",
    ("several-processes", "genkit resume"): "tests/io/test_processes.py",
    ("studies", "genkit study width.toml"): "tests/cli/test_study.py",
    ("studies", "genkit study"): "tests/study/test_find.py",
    ("testing", "pytest --genkit"): "tests/test_pytest_plugin.py",
    ("testing", "genkit check"): "tests/cli/test_check.py",
    ("trust", "python tests/fuzz.py"): "tests/security/test_fuzz.py",
}
NOT_RUN = {
    ("several-processes", "torchrun"): "needs eight GPUs, or several machines",
    ("README", "genkit study"): "trains twelve models",
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


def why(command: Command) -> str | None:
    """What runs a command, or why nothing does; None if that is not known."""
    if command.reason:
        return command.reason
    for (page, start), answer in {**RUN_ELSEWHERE, **NOT_RUN}.items():
        if page == command.page and command.text.startswith(start):
            return answer
    return FOLLOWED.get(command.page)
