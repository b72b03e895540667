"""Names from outside are shown as text: no markup, no escapes, no lines or columns of their own."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from command_lines import error_of
from rich.console import Console
from toys import bright_squares, registry, train_tiny, write_npz

from genkit.cli import main
from genkit.errors import GenkitError, printable
from genkit.io.run_directory import RunDir, new_run_path
from genkit.report.footnotes import footnotes
from genkit.report.ranking import rank, score_columns
from genkit.report.rows import ScoreRow, read_rows
from genkit.report.tables import print_ranking, to_markdown
from genkit.runs.run import load_run

torch.set_num_threads(1)
NAMES = {
    "HTML": "<script>alert(1)</script>".replace("/", "\u2215"),
    "rich markup": "[red]x[!red]".replace("!", "\u2215"),
    "rich link": "[link=https:example.org]x",
    "an escape": "x\x1b[31mred",
    "a title": "x\x1b]0;owned\x07",
    "a line break": "x\ny",
    "a carriage return": "harmless\revil",
    "a tab": "x\ty",
    "a column": "a|b",
    "Markdown": "**a** `b` [c](d)",
    "right to left": "x\u202egnp",
    "a zero width space": "a\u200bb",
    "a line separator": "a\u2028b",
    "a NUL": "a\0b",
    "half a pair": "a\udc80b",
}
ON_DISK = [kind for kind in NAMES if kind not in ("a NUL", "half a pair")]


@pytest.mark.parametrize("kind", NAMES)
def test_printable_is_one_line_without_controls_and_loses_nothing(kind: str) -> None:
    text = printable(NAMES[kind])
    assert text.isprintable() and len(text.splitlines()) == 1
    text.encode("utf-8")
    again = text.encode("ascii", "backslashreplace").decode("unicode_escape")
    assert again == NAMES[kind]


@pytest.mark.parametrize("name", ["x", "Größe 3", "数字", "a b-c_d.e", "[x] <y> |z|"])
def test_printable_leaves_what_can_be_shown_as_it_is(name: str) -> None:
    assert printable(name) == name


def row(name: str) -> ScoreRow:
    """A row of scores of a model with this name."""
    return ScoreRow(name=name, scores={"fid": 1.0}, card=None, run=name)


def rendered(name: str) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    ranking = rank([row(name), row("b")], score_columns(registry()), None)
    print_ranking(ranking, "digits", footnotes(ranking), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", NAMES)
def test_a_table_shows_a_name_as_text_in_one_line(kind: str) -> None:
    lines = rendered(NAMES[kind]).splitlines()
    plain = rendered("x").splitlines()
    assert len(lines) == len(plain)
    assert all(line.replace("\x1b[2m", "").replace("\x1b[0m", "").isprintable() for line in lines)
    assert any(printable(NAMES[kind])[:6] in line for line in lines)


@pytest.mark.parametrize("kind", NAMES)
def test_a_markdown_table_keeps_its_rows_and_columns(kind: str) -> None:
    ranking = rank([row(NAMES[kind]), row("b")], score_columns(registry()), None)
    lines = to_markdown(ranking, "digits").split("\n")
    columns = {line.replace("\\|", "").count("|") for line in lines}
    assert len(lines) == 4 and len(columns) == 1
    assert all(line.isprintable() for line in lines)
    assert not any("<script" in line.replace("\\<", "") for line in lines)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = write_npz(folder / "data.npz", bright_squares(20))
    return train_tiny("vae", data, folder / "tiny", budget="2steps").path


@pytest.mark.parametrize("kind", ON_DISK)
def test_a_run_in_a_folder_of_any_name_is_sampled_and_its_errors_are_one_line(
    run: Path,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / NAMES[kind]
    shutil.copytree(run, path)
    assert main(["sample", str(path), "-n", "1", "-o", "out.png"]) == 0
    assert (tmp_path / "out.png").is_file()
    capsys.readouterr()
    (path / "model.safetensors").write_bytes(b"")
    assert main(["sample", str(path), "-n", "1", "-o", "more.png"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ") and error.endswith("\n")
    assert error[:-1].isprintable() and "cannot be read as safetensors" in error


@pytest.mark.parametrize("kind", ON_DISK)
def test_scores_of_a_run_of_any_name_are_shown_as_text(
    run: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / NAMES[kind]
    path.mkdir()
    rows = [{"name": NAMES[kind], "scores": {"fid": 1.0}, "card": None}]
    (path / "evaluation.json").write_text(json.dumps(rows), encoding="utf-8")
    assert main(["report", str(path)]) == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert printable(NAMES[kind])[:6] in out
    assert main(["report", str(path), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0]["name"] == NAMES[kind]


@pytest.mark.parametrize(
    "name", ["../../etc", "/etc/passwd", "..", "a/../../b", "\0", "x\ny", "c:\\x", "~/x"]
)
def test_a_name_made_from_data_cannot_leave_the_folder_of_runs(name: str, tmp_path: Path) -> None:
    path = new_run_path("vae", name, 0, tmp_path)
    assert path.parent == tmp_path and path.name.isprintable() and ".." not in path.name


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "os:system", "x\ny", "[red]", "", "Vae", "x" * 9000]
)
def test_a_model_is_a_name_and_no_path(name: str, tmp_path: Path) -> None:
    config = {"model": name, "run": {}, "options": {}, "image_shape": {}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(GenkitError) as error:
        load_run(tmp_path, registry())
    assert str(error.value).isprintable()


@pytest.mark.parametrize("file", ["best.json", "last.json"])
def test_a_pointer_cannot_lead_out_of_its_folder(run: Path, file: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.safetensors"
    shutil.copy(run / "model.safetensors", secret)
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    pointer = {"step": 1, "file": "../../secret.safetensors", "sha256": "0", "column": "fid"}
    (copied / "checkpoints" / file).write_text(json.dumps({**pointer, "value": 1.0}))
    if file == "best.json":
        with pytest.raises(GenkitError, match=r"checkpoints/secret\.safetensors cannot be read"):
            load_run(copied, registry(), best=True)
    else:
        load_run(copied, registry())
    assert RunDir(copied).path == copied


def test_stored_scores_with_odd_names_are_read(tmp_path: Path) -> None:
    for number, name in enumerate(NAMES.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows = [{"name": name, "scores": {}}]
        (folder / "evaluation.json").write_text(json.dumps(rows), encoding="utf-8")
        expected = printable(name) if name == NAMES["half a pair"] else name
        assert read_rows([folder])[0].name == expected


def test_messages_of_typer_show_values_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "vae", "--latent=\x1b[31m"]) == 2
    assert "\x1b[31m" not in error_of(capsys.readouterr())
