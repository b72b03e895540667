"""Pages and tables that are made from the code say what it says, whatever plugins are installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import pytest
from command_lines import install_plugin, trainer_source
from pydantic import Field
from sections import record_tables, records_within, within

from genkit.io.records import Record
from genkit.registry.catalogue import load_registry

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def section(page: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    level = heading.partition(" ")[0]
    text = page.partition(f"\n{heading}\n")[2]
    assert text, heading
    return re.split(rf"^#{{1,{len(level)}}} ", text, flags=re.M)[0]


def test_pages_are_what_the_code_says(reference: ModuleType) -> None:
    for name, text in reference.pages().items():
        stored = (DOCS / name).read_text(encoding="utf-8")
        assert stored == text, f"docs/{name} is stale; run: {reference.COMMAND}"


def test_every_option_of_a_model_stands_in_its_help_and_in_its_section(
    reference: ModuleType,
) -> None:
    page = reference.pages()["options.md"]
    trainers = load_registry().trainers
    for name in ("dcgan", "diffusion", "flow", "gan", "meanflow", "pixelcnn", "pixelrnn", "vae"):
        part = section(page, f"### `{name}`")
        for field, details in trainers[name].spec.config.model_fields.items():
            (row,) = re.findall(rf"^\| `--{field.replace('_', '-')}` \| .+$", part, re.M)
            assert str(details.description) in row.replace("\\|", "|")
            presets = trainers[name].spec.presets.values()
            for value in (details.default, *(v[field] for v in presets if field in v)):
                shown = ("off", "on")[value] if isinstance(value, bool) else f"`{value}`"
                assert f"| {shown} |" in row


def test_ranges_choices_and_switches_are_stated(reference: ModuleType) -> None:
    pages = reference.pages()
    dcgan = section(pages["options.md"], "### `dcgan`")
    assert "| `--batch-size` | whole number | from 2 to 65,536 | `64` | `32` |" in dcgan
    assert "| `--dropout` | number | from 0 below 1 |" in dcgan
    assert "| `--loss` | `non-saturating`, `minimax`, `least-squares`, `hinge`, " in dcgan
    compare = section(pages["commands.md"], "## `genkit compare`")
    assert "| `--seeds` | whole number | from 1 to 100 | `1` |" in compare
    assert "| `--cards` | switch |  | off |" in compare
    assert "| `MODELS` | text, repeatable |  | required |" in compare


def test_hidden_commands_and_completion_are_left_out(reference: ModuleType) -> None:
    page = reference.pages()["commands.md"]
    found = re.findall(r"^## `genkit ([\w -]+)`$", page, re.M)
    assert {"train", "compare", "sample", "data prepare", "new-plugin"} <= set(found)
    assert found == sorted(found) and "inspect" not in found
    assert "| `--install-completion` |" not in page


def test_every_built_in_config_has_a_row_for_each_field(reference: ModuleType) -> None:
    """None is lost, and none is there twice."""
    page = reference.pages()["options.md"]
    for kind in ("trainers", "datasets", "metrics", "features"):
        for name, entry in getattr(load_registry(), kind).items():
            if entry.plugin.built_in:
                rows = re.findall(r"^\| `(?:--)?([\w-]+)` ", section(page, f"### `{name}`"), re.M)
                fields = [*entry.spec.config.model_fields]
                if kind == "trainers":
                    fields += entry.spec.sampler.model_fields
                assert [row.replace("-", "_") for row in rows] == fields


def run(site: Path | None, *arguments: str) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(site) if site else ""}
    done = subprocess.Popen(
        [sys.executable, str(DOCS / "reference.py"), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, error = done.communicate(timeout=120)
    return done.returncode, error


def test_third_party_plugins_change_nothing(tmp_path: Path) -> None:
    install_plugin(tmp_path, "stranger", trainer_source("stranger"))
    command = tmp_path / "genkit_last-0.1.dist-info"
    command.mkdir()
    (command / "METADATA").write_text("Metadata-Version: 2.1\nName: genkit-last\nVersion: 0.1\n")
    (command / "entry_points.txt").write_text("[genkit.v1.commands]\nlast = nowhere:last\n")
    assert run(tmp_path, "--check") == run(None, "--check") == (0, "")


def test_stale_page_is_named_with_the_command_that_writes_it(
    reference: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("contributing.md", "run-directory.md"):
        (tmp_path / name).write_text((DOCS / name).read_text("utf-8"), encoding="utf-8")
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    page = tmp_path / "options.md"
    page.write_text(page.read_text("utf-8").replace("`0.3`", "`0.4`"), encoding="utf-8")
    assert reference.main(["--check"]) == 1
    assert capsys.readouterr().err == "stale: options.md; run: python docs/reference.py\n"
    assert "`0.4`" in page.read_text(encoding="utf-8")  # a check writes nothing


class Size(Record):
    """A size.

    Args:
        width, height: in pixels,
            as integers.
    """

    width: int
    height: int = 28


class Picture(Record):
    """`picture.json`: one picture."""

    kind: Literal["png", "webp"] = Field("png", description="format | suffix")
    sizes: tuple[Size, ...]
    shape: tuple[int, int]
    score: Annotated[float, Field(ge=0)] | None = None
    notes: dict[str, list[str]] = Field(default_factory=dict)
    first: Size = Field(default_factory=lambda: Size(width=1))


def test_fields_of_a_record_are_listed_with_type_default_and_meaning() -> None:
    page = record_tables({"`picture.json`": Picture})
    picture, size = section(page, "### `picture.json`"), section(page, "### `Size`")
    rows = [line for line in picture.splitlines() if line.startswith("| `")]
    assert rows == [
        '| `kind` | `"png"`, `"webp"` | `"png"` | format \\| suffix |',
        "| `sizes` | list of [`Size`](#size) | refused |  |",
        "| `shape` | list of whole numbers | refused |  |",
        "| `score` | number or null | `null` |  |",
        "| `notes` | by name: list of text | `{}` |  |",
        '| `first` | [`Size`](#size) | `{"width": 1, "height": 28}` |  |',
    ]
    assert "| `width` | whole number | refused | in pixels, as integers |" in size
    assert "| `height` | whole number | `28` | in pixels, as integers |" in size
    assert page.count("### ") == 2 and list(records_within(Picture)) == [Size, Size]


def test_only_what_stands_between_the_comments_of_a_page_changes() -> None:
    page = "a\n<!-- made: x -->\nold\n<!-- end: x -->\nb\n"
    assert within(page, "x", "new\n") == page.replace("old", "new")
    assert within(within(page, "x", ""), "x", "old\n") == page
    with pytest.raises(ValueError, match="comments around 'y' are missing"):
        within(page, "y", "")
    assert record_tables({}) == ""
