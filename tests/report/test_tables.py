"""Score tables: what numbers look like, and that a terminal can hold them."""

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
from genkit.report.footnotes import footnotes
from genkit.report.protocol_card import FLAGGED
from genkit.report.ranking import rank
from genkit.report.rows import ScoreRow
from genkit.report.tables import (
    estimate,
    print_cards,
    print_ranking,
    shorten,
    to_markdown,
    to_tables,
    write_json_output,
)
from genkit.specs import Column

FID = Column(name="fid", title="FID", better="lower")
KID = Column(name="kid", title="KID\nx1000", better="lower", unbiased=True, scale=1000, decimals=1)
IS = Column(name="is", title="IS", better="higher", ranks=False)
SHARES = [
    Column(name=name, title=title, better="higher", ranks=False)
    for name, title in (
        ("precision", "preci-\nsion"),
        ("recall", "re-\ncall"),
        ("density", "den-\nsity"),
        ("coverage", "cover-\nage"),
        ("class_coverage", "class\ncover"),
        ("confident", "confi-\ndent"),
    )
]
COLUMNS = [FID, KID, *SHARES, IS]
CARD = {
    "features": "digits-0123abcd",
    "features_note": "accuracy 99.45% of 10,000 held-out images",
    "samples": 2000,
    "reference": "mnist-train",
    "reference_images": 60_000,
    "data_fingerprint": "aa",
    "quantisation": "uint8",
    "metrics": {},
}


def row(name: str, fid: float | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "scores": {} if fid is None else {"fid": fid}, **more}


def full_row(name: str, fid: float, kind: str | None = None, **more: Any) -> dict[str, Any]:
    """A row as `evaluate` makes it for a trained model, with numbers of ordinary length."""
    likelihood = {
        "kind": kind,
        "nats": -86.4,
        "bits_per_dimension": 0.159,
        "deviation": 0.55,
        "images": 2000,
        "of": "images in black and white",
    }
    shares = {column.name: 0.8734 for column in SHARES}
    return {
        "name": name,
        "scores": {"fid": fid, "kid": fid / 100, "is": 8.76, **shares},
        "deviations": {"fid": fid / 30, "kid": 0.0031, "is": 0.06, **dict.fromkeys(shares, 0.009)},
        "memorisation": {
            "pixels": 0.513,
            "pixels_deviation": 0.017,
            "features": 0.529,
            "features_deviation": 0.016,
            "flagged": False,
        },
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
    ranking = rank(list(map(ScoreRow.from_json, rows)), COLUMNS)
    print_ranking(ranking, features, footnotes(ranking), console)
    return out.getvalue().splitlines()


def markdown(rows: list[dict[str, Any]], columns: list[Column]) -> str:
    return to_markdown(rank(list(map(ScoreRow.from_json, rows)), columns), "digits")


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
    assert shorten(value) == text


def test_count_has_at_most_five_characters_and_is_right_to_one_percent() -> None:
    factors = {"k": 1e3, "M": 1e6, "G": 1e9}
    for exponent in range(100, 1150):
        value = 10 ** (exponent / 100)
        text = shorten(value)
        assert len(text) <= 5, (value, text)
        read = float(text.rstrip("kMG")) * factors.get(text[-1], 1)
        assert read == pytest.approx(value, rel=0.05 if value < 100 else 0.005)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((2.914, 0.122), "2.91 ±.12"),
        ((2.914, None), "2.91"),
        ((None, 0.1), "-"),
        ((-0.04, 0.04, 1), "-0.0 ±.0"),
        ((123_456.0, 10.0), "123k ±10.00"),
        ((86.44, 0.8, 1, "≤"), "≤86.4 ±.8"),
    ],
)
def test_estimate_has_half_the_width_of_its_error_bar_beside_it(arguments, text: str) -> None:
    assert estimate(*arguments) == text


def test_scaled_score_is_scaled_with_its_deviation() -> None:
    assert "| 123.4 ±6.2 |" in markdown([full_row("dcgan", 12.34)], [KID])


def test_bound_on_the_likelihood_is_marked_as_such() -> None:
    text = markdown(THREE, [FID])
    assert re.search(r"\| pixelcnn \|.* 86\.4 ±1\.1 \| 0\.159 ", text)
    assert re.search(r"\| vae \|.* ≤86\.4 ±1\.1 \| ≤0\.159 ", text)


def test_share_of_copies_is_marked() -> None:
    copier = full_row("dcgan", 1.0)
    copier["memorisation"] |= {"pixels": 0.93, "flagged": True}
    assert "| 0.93 ±.03! | 0.53 ±.03 |" in markdown([copier], [FID])


def test_mark_of_copies_begins_where_scoring_flags_them() -> None:
    copier = full_row("dcgan", 1.0)
    copier["memorisation"] |= {"pixels": FLAGGED, "features": FLAGGED + 0.01, "flagged": True}
    assert "| 0.60 ±.03 | 0.61 ±.03! |" in markdown([copier], [FID])


def test_columns_without_any_value_are_left_out() -> None:
    text = markdown([row("a", 1.0), row("b", 2.0)], COLUMNS)
    assert text.splitlines()[0] == "|  | model | FID (digits) |"


def test_the_ranking_score_is_the_first_column_and_the_inception_score_the_last_score() -> None:
    heading = markdown(THREE, COLUMNS).splitlines()[0].split(" | ")
    assert heading[2] == "KID x1000 (digits)"  # 2,000 samples
    assert heading.index("IS (digits)") == heading.index("near train (pixels)") - 1


# ---- tables


@pytest.mark.parametrize("features", ["digits", "inception"])
def test_tables_of_three_models_fit_a_terminal_of_80_columns(features: str) -> None:
    rows = copy.deepcopy(THREE)
    if features == "inception":  # colour photos: longer numbers
        for model in rows[:3]:
            model["scores"]["fid"] += 100
            if model["likelihood"]:
                model["likelihood"].update(nats=-7123.4, bits_per_dimension=3.345)
    lines = printed(rows, width=80, terminal=True, features=features)
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    names = [line.split()[1] for line in lines if re.match(r"[123]=? ", line)]
    assert names == ["dcgan", "pixelcnn", "vae"]
    assert len([line for line in lines if "8.76 ±.12" in line]) == 3  # each on one line


def test_output_that_is_no_terminal_is_as_wide_as_it_needs_to_be() -> None:
    long = full_row("a-run-with-a-name-that-is-rather-long-to-read-in-full", 12.0)
    text = "\n".join(printed([long], width=80, terminal=False))
    assert long["name"] in text
    assert "…" not in text


def test_failed_row_says_why() -> None:
    rows = [{"name": "broken", "error": "the [loss] became nan"}, *THREE]
    text = "\n".join(printed(rows, width=200, terminal=False))
    assert "broken failed: the [loss] became nan" in text


def test_names_are_no_markup_of_rich() -> None:
    text = "\n".join(printed([full_row("[bold]run[/bold] [/x]", 1.0)], width=200, terminal=False))
    assert "[bold]run[/bold] [/x]" in text


def test_markdown_has_as_many_cells_in_each_line_and_escapes_names() -> None:
    names = ["a|b", "back\\slash", "back\\|both", "_under_", "*star*", "<b>", "[x](y)", "`tick`"]
    lines = markdown([row(name, 1.0) for name in names], [FID]).splitlines()
    cells = [re.split(r"(?<!\\)(?:\\\\)*\|", line) for line in lines]
    assert len({len(line) for line in cells}) == 1
    assert lines[2].split()[3] == "a\\|b"
    assert lines[4].split()[3] == "back\\\\\\|both"
    for name, line in zip(names, lines[2:], strict=True):
        cell = line.split(" | ")[1].strip()
        assert re.sub(r"\\([^A-Za-z0-9\s])", r"\1", cell) == name  # as Markdown is shown


def test_cards_are_printed_once_for_what_they_share() -> None:
    rows = [full_row("dcgan", 1.0), full_row("vae", 2.0, card={**CARD, "weights": "raw"})]
    out = io.StringIO()
    print_cards(list(map(ScoreRow.from_json, rows)), Console(file=out, width=80))
    shared, own = out.getvalue().split("\nvae\n")
    assert shared.startswith("\nAll rows\n  features: digits-0123abcd\n")
    assert "  number of reference images: 60,000\n" in shared and "\ndcgan\n" not in shared
    assert own == "  weights: raw\n"


def test_table_of_no_rows_is_no_error() -> None:
    assert [table.row_count for table in to_tables(rank([], [FID]), None)] == [0]


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
