"""The tutorial works as it stands: its files are written and its commands run, in their order; and
every page of the documentation can be reached, without a dead link.

Two things differ. Budgets are cut, to a step for every 12 seconds, and so is the number of scored
images. And `pip install` goes into a folder of the test's own, without network, which is then on
the path.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genkit.config.budget import Budget

pytestmark = pytest.mark.xdist_group("tutorial")

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "tutorial.md"
RUN = Path("runs/uncover-mnist-mini-s0")
INSTALL = "--no-deps --no-build-isolation --no-index --disable-pip-version-check --target"
PYTHON = [sys.executable, "-P", "-W", "error", "-m"]


def blocks() -> list[tuple[str, str]]:
    """The page's code blocks as (language, content)."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def cut(command: str) -> str:
    """The command with a step in place of every 12 seconds of its budget, and 64 images scored."""

    def steps(match: re.Match[str]) -> str:
        return f"--budget {int(Budget.parse(match[1]).amount / 12)}steps"

    return re.sub(r"--budget (\S+)", steps, command).replace("-n 1000", "-n 64")


class Reader:
    """Does what the page says, in a folder."""

    def __init__(self, folder: Path, change: Callable[[str], str] = cut) -> None:
        self.folder = folder
        self.change = change
        self.site = folder / "site"
        self.outputs: dict[str, str] = {}  # by the command as it stands in the page

    def read(self) -> None:
        for language, content in blocks():
            if language == "python":
                self.write(content)
            else:
                assert language == "sh"
                for command in content.splitlines():
                    self.outputs[command] = self.run(shlex.split(self.change(command)))

    def write(self, content: str) -> None:
        """Save a block as the file that its first line names."""
        name, _, place = content.partition("\n")[0].removeprefix("# ").partition(", ")
        path = self.folder / name
        if place:
            assert place == "in place of its last line"
            kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]
            content = "".join(kept) + content.partition("\n")[2]
        assert path.parent.is_dir()
        path.write_text(content, encoding="utf-8")

    def run(self, words: list[str]) -> str:
        """What a command prints; it must succeed, and without a warning."""
        if words[:3] == ["pip", "install", "-e"]:
            project, extra = re.fullmatch(r"(.*)\[(\w+)\]", words[3]).groups()
            assert extra == "test"
            words = [*words[:2], *INSTALL.split(), str(self.site), f"./{project}"]
        command = PYTHON if words[0] != "pip" else [sys.executable, "-m"]
        paths = [str(self.site), os.environ.get("PYTHONPATH", "")]
        done = subprocess.Popen(
            [*command, *words],
            cwd=self.folder,
            env={
                **os.environ,
                "COLUMNS": "200",
                "NO_COLOR": "1",
                "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        out, err = done.communicate(timeout=600)
        assert done.returncode == 0, f"{words}\n{out}\n{err}"
        return out


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """A reader who has done all that the page says."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the package, is not installed")
    reader = Reader(tmp_path_factory.mktemp("tutorial"))
    reader.read()
    return reader


def output(reader: Reader, start: str) -> str:
    """What the only command that starts like this printed."""
    (found,) = (out for command, out in reader.outputs.items() if command.startswith(start))
    return found


def picture(reader: Reader, name: str) -> np.ndarray:
    """A PNG file's levels."""
    with Image.open(reader.folder / name) as image:
        return np.asarray(image)


def code(text: str) -> list[str]:
    """Lines that are neither blank nor a comment."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_page_has_no_command_outside_of_its_code_blocks() -> None:
    text = re.sub(r"^```(\w*)\n.*?^```$", "", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert not re.search(r"^(    |\t|\$ )", text, re.M)
    assert "@@" not in text


def test_budget_of_a_minute_is_cut_to_five_steps() -> None:
    assert cut("genkit train x --budget 60s -n 2") == "genkit train x --budget 5steps -n 2"
    assert cut("genkit evaluate x -n 1000") == "genkit evaluate x -n 64"
    assert cut("genkit resume x --budget 2m") == "genkit resume x --budget 10steps"
    assert cut("genkit plugins") == "genkit plugins"


@pytest.mark.slow
@pytest.mark.thorough
def test_package_has_less_than_60_lines_of_python(reader: Reader) -> None:
    project = reader.folder / "torch-genkit-uncover"
    sources = {path.name: code(path.read_text(encoding="utf-8")) for path in project.rglob("*.py")}
    assert sources.keys() == {"__init__.py", "model.py", "test_uncover.py"}
    assert sum(map(len, sources.values())) < 60


@pytest.mark.slow
@pytest.mark.thorough
def test_package_holds_the_improved_file(reader: Reader) -> None:
    """The page shows the model twice; line for line the two must be the same."""
    package = reader.folder / "torch-genkit-uncover" / "genkit_uncover"
    parts = [code((package / name).read_text("utf-8")) for name in ("__init__.py", "model.py")]
    single = code((reader.folder / "uncover.py").read_text("utf-8"))
    moved = [line.replace('"uncover:', '"genkit_uncover.model:') for line in single]
    assert sorted(moved) == sorted(parts[0] + parts[1])


@pytest.mark.slow
@pytest.mark.thorough
def test_resumed_run_used_up_both_budgets(reader: Reader) -> None:
    summary = json.loads((reader.folder / RUN / "summary.json").read_text("utf-8"))
    assert (summary["step"], summary["weights"]) == (10, "ema")
    names = sorted(path.name for path in (reader.folder / RUN / "samples").iterdir())
    assert {"step-000000000.png", "step-000000010.png"} <= set(names)


@pytest.mark.slow
@pytest.mark.thorough
def test_improvement_turns_the_same_digits_from_black_and_white_to_grey(reader: Reader) -> None:
    first, second = picture(reader, "first.png"), picture(reader, "second.png")
    inside = first != 96  # the grid's own grey
    assert set(np.unique(first[inside])) == {0, 255}
    assert len(np.unique(second[inside])) > 10


@pytest.mark.slow
@pytest.mark.thorough
def test_package_samples_the_run_of_the_file(reader: Reader) -> None:
    assert output(reader, f"genkit sample {RUN} -n 16").strip() == "third.png"
    assert picture(reader, "third.png").shape == (4 * 30 + 2, 4 * 30 + 2)


@pytest.mark.slow
@pytest.mark.thorough
def test_package_is_without_problems_and_its_own_test_passes(reader: Reader) -> None:
    assert "1 passed" in output(reader, "pytest")
    rows = [line.split() for line in output(reader, "genkit plugins").splitlines()]
    (row,) = (row for row in rows if row[:1] == ["uncover"])
    assert row[1:4] == ["torch-genkit-uncover", "0.1", "uncover"] and row[-1] == "ms"
    for option in ("--width", "--looks", "--ema-half-life", "--precision", "--accumulate"):
        assert option in output(reader, "genkit train uncover --help")


@pytest.mark.slow
@pytest.mark.thorough
def test_model_is_ranked_beside_the_vae(reader: Reader) -> None:
    rows = json.loads((reader.folder / "table" / "compare.json").read_text("utf-8"))["rows"]
    assert {row["name"] for row in rows if row["rank"]} == {"vae", "uncover"}
    assert {row["name"] for row in rows} == {"vae", "uncover", "real", "copy", "noise"}


# ---- the pages


def test_index_lists_every_page() -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[.+\]\((\S+\.md)\) \| .+ \|$", text, re.M)
    assert sorted(listed) == sorted(p.name for p in DOCS.glob("*.md") if p.name != "index.md")


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        if path.startswith("http"):
            continue
        there = page.parent / path if path else page
        assert there.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.M)
            assert heading in {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}
