"""Score tables: the order of rows, what numbers look like, and that a terminal can hold them."""

from __future__ import annotations

import copy
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from genkit.errors import GenkitError
from genkit.registry import load_registry
from genkit.report import (
    _short,
    footnotes,
    print_rows,
    rank,
    score_columns,
    shown,
    to_markdown,
    to_table,
    write_json_output,
)
from genkit.specs import Column

FID = Column(name="fid", title="FID", better="lower")
IS = Column(name="is", title="IS", better="higher")
IS_STD = Column(name="is_std", title="IS sd", better="higher", ranks=False)
CARD = {
    "features": "digits-0123abcd",
    "samples": 2000,
    "reference": "mnist-train",
    "reference_images": 60_000,
}


def row(name: str, fid: float | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "scores": {} if fid is None else {"fid": fid}, **more}


def full_row(name: str, fid: float, kind: str | None = None, **more: Any) -> dict[str, Any]:
    """A row as `evaluate` makes it for a trained model, with numbers of ordinary length."""
    likelihood = {
        "kind": kind,
        "nats": -86.4,
        "bits_per_dimension": 0.159,
        "images": 2000,
        "of": "images in black and white",
    }
    return {
        "name": name,
        "scores": {"fid": fid, "is": 8.76, "is_std": 0.12},
        "likelihood": likelihood if kind else None,
        "parameters": 1_043_521,
        "images": 952_320,
        "seconds": 100.2,
        "train_rate": 9504.1,
        "sample_rate": 21_377.0,
        "card": CARD,
        **more,
    }


THREE = [
    full_row("dcgan", 12.34),
    full_row("pixelcnn", 23.45, "exact"),
    full_row("vae", 34.56, "bound"),
    {**row("real", 0.10), "card": CARD},
    {**row("noise", 80.94), "card": CARD},
]


def printed(
    rows: list[dict[str, Any]], width: int, terminal: bool, features: str = "digits"
) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None)
    print_rows(rows, [FID, IS, IS_STD], features, console)
    return out.getvalue().splitlines()


# ---- order


def test_lowest_is_first_and_calibration_last_without_a_rank() -> None:
    rows = [row("noise", 90.0), row("b", 7.0), row("real", 0.1), row("a", 30.0), row("c", 12.0)]
    ranked = rank(rows, FID)
    assert [(r["name"], r["rank"]) for r in ranked] == [
        ("b", 1),
        ("c", 2),
        ("a", 3),
        ("real", None),
        ("noise", None),
    ]


def test_highest_is_first_where_higher_is_better() -> None:
    rows = [{"name": n, "scores": {"is": v}} for n, v in (("a", 3.0), ("b", 9.0), ("c", 5.0))]
    assert [r["name"] for r in rank(rows, IS)] == ["b", "c", "a"]


def test_model_without_a_score_comes_after_all_that_have_one_and_has_no_rank() -> None:
    failed = {"name": "broken", "error": "the loss became nan"}
    rows = [failed, {"name": "empty", "scores": None}, row("none"), row("a", math.nan)]
    ranked = rank([*rows, row("b", 5000.0)], FID)
    assert [(r["name"], r["rank"]) for r in ranked] == [
        ("b", 1),
        ("broken", None),
        ("empty", None),
        ("none", None),
        ("a", None),
    ]


def test_without_a_ranking_column_the_order_stays() -> None:
    assert [r["name"] for r in rank([row("b", 2.0), row("a", 1.0)], None)] == ["b", "a"]


def test_ranking_changes_no_row() -> None:
    rows = [row("b", 2.0), row("a", 1.0)]
    rank(rows, FID)
    assert rows == [row("b", 2.0), row("a", 1.0)]


# ---- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.0004, "<0.01"),
        (0.35, "0.35"),
        (0.094, "0.09"),
        (3.14159, "3.1"),
        (9.96, "10"),
        (42.4, "42"),
        (999.4, "999"),
        (999.6, "1k"),
        (1000, "1k"),
        (1234, "1.23k"),
        (951_700, "952k"),
        (999_400, "999k"),
        (999_900, "1M"),
        (2_312_000, "2.31M"),
        (1.5e9, "1.5G"),
    ],
)
def test_count_is_written_with_three_digits_and_a_letter(value: float | None, text: str) -> None:
    assert _short(value) == text


def test_count_has_at_most_five_characters_and_is_right_to_one_percent() -> None:
    factors = {"k": 1e3, "M": 1e6, "G": 1e9}
    for exponent in range(100, 1150):
        value = 10 ** (exponent / 100)
        text = _short(value)
        assert len(text) <= 5, (value, text)
        read = float(text.rstrip("kMG")) * factors.get(text[-1], 1)
        assert read == pytest.approx(value, rel=0.05 if value < 100 else 0.005)


def test_score_has_two_decimals_and_its_deviation_beside_it() -> None:
    text = to_markdown(rank([full_row("dcgan", 12.345)], FID), [FID, IS, IS_STD], "digits")
    assert "| 12.35 |" in text or "| 12.34 |" in text
    assert "| 8.76 ± 0.12 |" in text
    assert "IS sd" not in text


def test_huge_score_is_compressed_too() -> None:
    assert "| 123k |" in to_markdown(rank([row("a", 123_456.0)], FID), [FID], None)


def test_bound_on_the_likelihood_is_marked_as_such() -> None:
    markdown = to_markdown(THREE, [FID], "digits")
    assert re.search(r"\| pixelcnn \|.* 86\.4 \| 0\.159 ", markdown)
    assert re.search(r"\| vae \|.* ≤86\.4 \| ≤0\.159 ", markdown)


# ---- tables


@pytest.mark.parametrize("features", ["digits", "inception"])
def test_table_of_three_models_fits_a_terminal_of_80_columns(features: str) -> None:
    rows = copy.deepcopy(THREE)
    if features == "inception":  # colour photos: longer numbers
        for model in rows[:3]:
            model["scores"]["fid"] += 100
            if model["likelihood"]:
                model["likelihood"].update(nats=-7123.4, bits_per_dimension=3.345)
    lines = printed(rows, width=80, terminal=True, features=features)
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    names = [line.split()[1] for line in lines if re.match(r"[123] ", line)]
    assert names == ["dcgan", "pixelcnn", "vae"]
    assert len([line for line in lines if "8.76 ± 0.12" in line]) == 3  # each on one line


def test_output_that_is_no_terminal_is_as_wide_as_it_needs_to_be() -> None:
    long = full_row("a-run-with-a-name-that-is-rather-long-to-read-in-full", 12.0)
    text = "\n".join(printed([long], width=80, terminal=False))
    assert long["name"] in text
    assert "…" not in text


def test_failed_row_says_why() -> None:
    rows = [{"name": "broken", "error": "the [loss] became nan"}, *THREE]
    text = "\n".join(printed(rows, width=200, terminal=False))
    assert "broken failed: the [loss] became nan" in text


def test_footnotes_say_what_the_numbers_are_of() -> None:
    notes = footnotes(THREE)
    assert notes[0].startswith("2,000 samples; features digits-0123abcd; reference mnist-train")
    assert "pixelcnn: exact NLL of 2,000 test images, images in black and white" in notes
    assert "vae: upper bound NLL of 2,000 test images, images in black and white" in notes
    assert footnotes([]) == []


def test_names_are_no_markup_of_rich() -> None:
    text = "\n".join(printed([full_row("[bold]run[/bold] [/x]", 1.0)], width=200, terminal=False))
    assert "[bold]run[/bold] [/x]" in text


def test_markdown_has_as_many_cells_in_each_line_and_escapes_names() -> None:
    names = ["a|b", "back\\slash", "back\\|both", "_under_", "*star*", "<b>", "[x](y)", "`tick`"]
    lines = to_markdown([row(name, 1.0) for name in names], [FID], "digits").splitlines()
    cells = [re.split(r"(?<!\\)(?:\\\\)*\|", line) for line in lines]
    assert len({len(line) for line in cells}) == 1
    assert lines[2].split()[2] == "a\\|b"
    assert lines[4].split()[2] == "back\\\\\\|both"
    for name, line in zip(names, lines[2:], strict=True):
        cell = line.split(" | ")[1].strip()
        assert re.sub(r"\\([^A-Za-z0-9\s])", r"\1", cell) == name  # as Markdown is shown


def test_deviation_stands_beside_its_mean_and_nowhere_else() -> None:
    assert shown([FID, IS, IS_STD]) == [FID, IS]
    assert shown([IS_STD]) == [IS_STD]


def test_ranking_column_of_the_built_in_metrics_is_fid() -> None:
    columns = score_columns(load_registry())
    assert columns[0].name == "fid"
    assert [c.ranks for c in columns] == sorted((c.ranks for c in columns), reverse=True)


def test_table_of_no_rows_is_no_error() -> None:
    assert to_table([], [FID], None).row_count == 0


# ---- JSON


def test_json_goes_to_a_file_or_to_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json_output(str(tmp_path / "rows.json"), THREE)
    assert json.loads((tmp_path / "rows.json").read_text(encoding="utf-8")) == THREE
    write_json_output("-", THREE)
    assert json.loads(capsys.readouterr().out) == THREE


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_refuses_nan_and_infinity_and_writes_nothing(value: float, tmp_path: Path) -> None:
    with pytest.raises(GenkitError, match=r"--json .*rows\.json could not be written"):
        write_json_output(str(tmp_path / "rows.json"), [row("a", value)])
    assert not (tmp_path / "rows.json").exists()


def test_json_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(GenkitError, match="could not be written"):
        write_json_output(str(tmp_path / "missing" / "rows.json"), [])
