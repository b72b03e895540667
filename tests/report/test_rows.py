"""Stored scores side by side: what `genkit report` reads, ranks and refuses to rank."""

import json
import re
from pathlib import Path

import pytest
from command_lines import error_of

from genkit.cli import main
from genkit.errors import GenkitError, UsageError
from genkit.report.data_facts import DataFacts
from genkit.report.protocol_card import ProtocolCard
from genkit.report.rows import (
    ComparisonRecord,
    Likelihood,
    NearestShares,
    ScoreRow,
    read_comparison,
    read_evaluation,
    read_rows,
    tell_apart,
    write_evaluation,
)
from genkit.specs import Column

CARD = {
    "features": "digits-0123abcd",
    "features_note": "",
    "reference": "mnist-train",
    "reference_images": 60_000,
    "data_fingerprint": "aa",
    "samples": 10_000,
    "quantisation": "uint8",
    "metrics": {"fid": "Gaussians"},
}


def row(name, fid, **card):
    scores = {"scores": {"fid": fid}, "deviations": {"fid": 0.01}}
    return {"name": name, "run": "elsewhere", **scores, "card": {**CARD, **card}}


def write_run(folder, rows):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "evaluation.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    """Reports on several sources are written into the working directory."""
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


@pytest.fixture
def runs(tmp_path):
    """Two runs that were scored by one protocol."""
    first = write_run(tmp_path / "a", [row("dcgan", 5.0), row("real", 0.1)])
    second = write_run(tmp_path / "b", [row("vae", 7.0), row("real", 0.2), row("noise", 80.0)])
    return [first, second]


def test_runs_are_ranked_by_their_stored_scores(runs, capsys):
    assert main(["report", *map(str, runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    ranked = [line.split()[:2] for line in lines if line.startswith(("1 ", "2 "))]
    assert ranked == [["1", "dcgan"], ["2", "vae"]]
    assert "Ranked by FID." in lines


def test_calibration_rows_are_there_once_and_models_know_their_run(runs):
    rows = read_rows(runs)
    assert [r.name for r in rows] == ["dcgan", "vae", "real", "noise"]
    assert rows[2].scores["fid"] == 0.1  # of the first source
    assert [r.run for r in rows[:2]] == list(map(str, runs))


def test_calibration_rows_are_of_the_models_protocol_whichever_source_they_come_from(tmp_path):
    """Also where *real* has fewer images than the models, as small test splits make it."""
    other = {"features": "inception-0123abcd", "samples": 500}
    few = row("real", 0.3, samples=1000)
    first = write_run(tmp_path / "a", [row("dcgan", 5.0)])
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    noise = {"name": "noise", "error": "no memory"}
    rows = [row("real", 9.0, **other), row("copy", 8.0, **other), noise]
    (other_folder / "compare.json").write_text(json.dumps({"rows": rows}))
    last = write_run(tmp_path / "b", [row("vae", 7.0), few, row("noise", 80.0)])
    found = {r.name: r for r in read_rows([other_folder, first, last])}
    assert found["real"].scores["fid"] == 0.3 and found["noise"].scores["fid"] == 80.0
    assert found["copy"].scores["fid"] == 8.0  # the only one


def test_runs_of_one_model_are_told_apart_by_their_folders(tmp_path):
    runs = [write_run(tmp_path / name, [row("dcgan", 1.0)]) for name in ("a", "b")]
    assert [r.name for r in read_rows(runs)] == ["a", "b"]


def test_scores_by_other_protocols_are_shown_but_not_ranked(tmp_path, capsys):
    first = write_run(tmp_path / "a", [row("dcgan", 5.0)])
    second = write_run(tmp_path / "b", [row("vae", 7.0, samples=500)])
    assert main(["report", str(first), str(second), "--json", "-"]) == 0
    assert {r["name"] for r in json.loads(capsys.readouterr().out)} == {"dcgan", "vae"}
    assert main(["report", str(first), str(second)]) == 0
    text = capsys.readouterr().out
    assert "number of samples: 10,000 (dcgan); 500 (vae)" in text
    assert "5.00" in text and "7.00" in text and "\n1 " not in text


def test_comparison_is_shown_again(tmp_path, capsys):
    rows = [row("dcgan", 5.0), row("vae", 7.0), row("noise", 80.0)]
    (tmp_path / "compare.json").write_text(json.dumps({"rows": rows}))
    assert main(["report", str(tmp_path), "--cards", "--rank-by", "fid"]) == 0
    text = capsys.readouterr().out
    assert "1 dcgan" in text and "2 vae" in text
    assert "number of reference images: 60,000" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "holds no rows of scores"),
        ("{}", "holds no rows of scores"),
        ('["dcgan"]', "row 0: it is not a table but 'dcgan'"),
        ('[{"name": 3}]', "row 0: 'name' cannot be 3"),
        ('[{"scores": {}}]', "row 0: 'name' is missing"),
        ('[{"name": "a"}, {"name": "b", "scores": {"fid": "low"}}]', "row 1: 'scores.fid' cannot"),
        ('[{"name": "a", "scores": {"fid": true}}]', "row 0: 'scores.fid' cannot be True"),
        ('[{"name": "a", "card": {"samples": 3}}]', "row 0: 'card.features' is missing"),
        ('[{"name": "a", "parameters": 1000000000000000001}]', "row 0: 'parameters' cannot be 100"),
        (f'[{{"name": "a", "scores": {{"fid": {10**400}}}}}]', "row 0: 'scores.fid' cannot be 10"),
        ('[{"name": "a", "run": 4}]', "row 0: 'run' cannot be 4"),
        (
            '[{"name": "a", "likelihood": {"nats": 1}}]',
            "'likelihood.bits_per_dimension' is missing",
        ),
        ("not json", "cannot be read"),
    ],
)
def test_damaged_scores_are_one_clear_error_that_names_file_and_field(tmp_path, content, words):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(GenkitError, match=re.escape(words)) as caught:
        read_rows([tmp_path])
    assert str(caught.value).startswith(f"{tmp_path / 'evaluation.json'}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "it is not a table but []"),
        ("{}", "'rows' is missing"),
        ('{"rows": []}', "holds no rows of scores"),
        ('{"rows": [{"name": "a", "card": 5}]}', "'rows.0.card' cannot be 5"),
        ('{"rows": [{"name": "a"}], "seeds": "two"}', "'seeds' cannot be 'two'"),
    ],
)
def test_damaged_comparison_is_one_clear_error_that_names_file_and_field(tmp_path, content, words):
    (tmp_path / "compare.json").write_text(content)
    with pytest.raises(GenkitError, match=re.escape(words)) as caught:
        read_rows([tmp_path])
    assert str(caught.value).startswith(f"{tmp_path / 'compare.json'}")


OLD_ROW = {
    "name": "vae",
    "run": "runs/vae",
    "scores": {"fid": 12.5, "of-a-plugin": None},
    "deviations": {"fid": 1},
    "problems": ["metric 'a' failed"],
    "memorisation": {"images": 500, "pixels": 0.5, "pixels_deviation": 0.02, "flagged": False},
    "card": CARD,
    "likelihood": None,
    "parameters": 4_000,
    "images": 640,
    "seconds": 2.5,
    "train_rate": 256.0,
    "sample_rate": 9_000.5,
    "rank": 1,
    "tied": False,
}


def test_a_row_is_written_again_as_it_was_read():
    """No key is added or lost, null ones included, whatever wrote it."""
    for row_ in (OLD_ROW, {"name": "a", "error": "no memory"}, {"name": "b", "card": None}):
        again = ScoreRow.from_json(row_).to_json()
        assert again == row_ and list(again) == list(row_)


def test_a_comparison_is_written_again_as_it_was_read(tmp_path):
    """Columns of older versions are completed by defaults; keys of newer versions are left out."""
    column = {"name": "fid", "title": "FID", "better": "lower", "ranks": True}
    content = {"command": ["genkit", "compare"], "seeds": 1, "columns": [column], "rows": [OLD_ROW]}
    (tmp_path / "compare.json").write_text(json.dumps({**content, "of_a_newer_version": 1}))
    record = read_comparison(tmp_path)
    assert record.columns[0] == Column(name="fid", title="FID", better="lower")
    again = record.to_json()
    assert {**again, "columns": [column]} == content
    record.write(tmp_path / "compare.json")
    assert read_comparison(tmp_path) == record


def test_rows_go_through_a_file(tmp_path):
    rows = [ScoreRow.from_json(OLD_ROW), ScoreRow(name="real", scores={"fid": 0.25})]
    write_evaluation(tmp_path / "evaluation.json", rows)
    assert read_evaluation(tmp_path / "evaluation.json") == rows
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content == [OLD_ROW, {"name": "real", "scores": {"fid": 0.25}}]


def test_facts_of_a_comparison_go_through_a_file(tmp_path):
    facts = DataFacts(
        device="cuda",
        devices=("0", "1"),
        shape="3 x 8 x 8",
        train_images=90,
        features="none",
        notes=("a note",),
    )
    facts.write(tmp_path / "facts.json")
    assert DataFacts.read(tmp_path / "facts.json") == facts


def test_every_field_of_a_record_is_described():
    """The table of fields in the docs is made of these."""
    for kind in (ScoreRow, ProtocolCard, Likelihood, NearestShares, ComparisonRecord, DataFacts):
        assert all(field.description for field in kind.model_fields.values()), kind


def test_run_that_was_not_scored_says_how_to(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=f"has not been scored; run: genkit evaluate {tmp_path}"):
        read_rows([tmp_path])


def test_path_that_is_no_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "neither a run nor a folder of a comparison" in error_of(capsys.readouterr())


def test_score_that_cannot_rank_is_refused(runs, capsys):
    assert main(["report", str(runs[0]), "--rank-by", "is"]) == 2
    assert (
        "--rank-by 'is' is not a score that ranks; there are: fid_corrected, fid, kid"
        in error_of(capsys.readouterr())
    )


# ---- names


def test_runs_of_one_model_have_names_that_tell_them_apart() -> None:
    runs = ["runs/vae-s0", "runs/vae-s1", "other/vae-s1", "other/vae-s1", "runs/dcgan-s0"]
    rows = [ScoreRow(name=Path(run).name[:-3], run=run) for run in runs]
    files = [ScoreRow(name="vae"), ScoreRow(name="vae")]
    assert [row.name for row in tell_apart([*rows, *files])] == [
        "vae-s0",
        "runs/vae-s1",
        "other/vae-s1",
        "other/vae-s1 (2)",
        "dcgan",
        "vae",
        "vae (2)",
    ]
