"""Ranks, ties, refusals to rank, averages over trainings, footnotes and cards."""

from __future__ import annotations

import copy
import math
import statistics
from typing import Any

import pytest

from genkit.comparison.averages import average
from genkit.errors import UsageError
from genkit.registry.catalogue import load_registry
from genkit.report.footnotes import footnotes
from genkit.report.protocol_card import ProtocolCard, differences
from genkit.report.ranking import choose_column, rank, score_columns, tie
from genkit.report.rows import ScoreRow
from genkit.specs import Column

FID = Column(name="fid", title="FID", better="lower")
KID = Column(name="kid", title="KID\nx1000", better="lower", unbiased=True, scale=1000, decimals=1)
IS = Column(name="is", title="IS", better="higher", ranks=False)
QUALITY = Column(name="quality", title="quality", better="higher")
CARD = {
    "features": "digits-0123abcd",
    "features_note": "",
    "reference": "mnist-train",
    "reference_images": 60_000,
    "data": "mnist",
    "data_fingerprint": "aa",
    "samples": 10_000,
    "quantisation": "uint8",
    "metrics": {"fid": "Gaussians"},
    "versions": {"torch": "2.15"},
}


def row(name: str, fid: float | None = None, sd: float | None = None, **more: Any) -> ScoreRow:
    scores = {} if fid is None else {"fid": fid}
    deviations = {} if sd is None else {"fid": sd}
    return ScoreRow.from_json({"name": name, "scores": scores, "deviations": deviations, **more})


def places(rows: list[ScoreRow], columns=(FID,), name: str | None = None) -> list[tuple[str, str]]:
    return [(row.name, row.place) for row in rank(rows, columns, name).rows]


# ---- order


def test_lowest_is_first_and_calibration_last_without_a_rank() -> None:
    rows = [row("noise", 90.0), row("b", 7.0), row("copy", 0.0), row("real", 0.1), row("a", 30.0)]
    assert places(rows) == [("b", "1"), ("a", "2"), ("real", ""), ("copy", ""), ("noise", "")]


def test_highest_is_first_where_higher_is_better() -> None:
    values = (("a", 3.0), ("b", 9.0), ("c", 5.0))
    rows = [ScoreRow(name=name, scores={"quality": value}) for name, value in values]
    assert places(rows, [QUALITY]) == [("b", "1"), ("c", "2"), ("a", "3")]


def test_model_without_a_score_comes_after_all_that_have_one_and_has_no_rank() -> None:
    failed = ScoreRow(name="broken", error="the loss became nan")
    rows = [failed, row("none"), ScoreRow(name="a", scores={"fid": None})]
    found = places([*rows, row("b", 5000.0)])
    assert found == [("b", "1"), ("broken", ""), ("none", ""), ("a", "")]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_not_finite_cannot_be_in_a_row(value: float) -> None:
    with pytest.raises(ValueError, match=r"'scores\.fid' cannot be"):
        row("a", value)


def test_without_a_ranking_column_the_order_stays() -> None:
    assert places([row("b", 2.0), row("a", 1.0)], [IS]) == [("b", ""), ("a", "")]


def test_ranking_changes_no_row() -> None:
    rows = [row("b", 2.0), row("a", 1.0)]
    before = copy.deepcopy(rows)
    rank(rows, [FID])
    assert rows == before


# ---- what ranks


def with_samples(count: int, **scores: float) -> ScoreRow:
    scores = {"fid": 1.0, "kid": 0.1, **scores}
    return ScoreRow.from_json({"name": "a", "scores": scores, "card": {**CARD, "samples": count}})


@pytest.mark.parametrize(("count", "name"), [(4999, "kid"), (5000, "fid"), (100, "kid")])
def test_an_unbiased_score_ranks_where_samples_are_few(count: int, name: str) -> None:
    column = choose_column([FID, KID], [with_samples(count)], None)
    assert column is not None and column.name == name


CORRECTED = Column(name="fid_corrected", title="FID\ncorrected", better="lower", corrected=True)


@pytest.mark.parametrize("count", [100, 50_000])
def test_a_corrected_score_ranks_with_any_number_of_samples_where_all_have_it(count: int) -> None:
    columns, rows = [CORRECTED, FID, KID], [with_samples(count, fid_corrected=0.9)]
    assert choose_column(columns, rows, None) == CORRECTED
    lacking = choose_column(columns, [*rows, with_samples(count)], None)
    assert lacking == (KID if count < 5000 else FID)


def test_scores_that_order_models_differently_are_named() -> None:
    def both(name: str, fid: float, kid: float) -> ScoreRow:
        scores, deviations = {"fid": fid, "kid": kid}, {"fid": 0.1, "kid": 0.001}
        return ScoreRow(name=name, scores=scores, deviations=deviations)

    rows = [both("a", 1.0, 0.3), both("b", 2.0, 0.2), both("c", 2.05, 0.1), both("d", 5.0, 0.301)]
    notes = footnotes(rank(rows, [FID, KID], "fid"))
    assert "FID and KID disagree: by KID b before a, c before a. Neither order is safe." in notes
    agreeing = footnotes(rank([rows[0], rows[3]], [FID, KID], "fid"))
    assert not [note for note in agreeing if "disagree" in note]


def test_the_score_that_is_asked_for_ranks_if_it_may() -> None:
    assert choose_column([FID, KID], [with_samples(100)], "fid") == FID
    with pytest.raises(
        UsageError, match="--rank-by 'is' is not a score that ranks; there are: fid"
    ):
        choose_column([FID, IS], [], "is")


def test_built_in_scores_rank_by_fid_and_kid_only_and_the_inception_score_comes_last() -> None:
    columns = score_columns(load_registry())
    assert [column.name for column in columns if column.ranks] == ["fid_corrected", "fid", "kid"]
    assert [column.name for column in columns if column.unbiased] == ["kid"]
    assert columns[-1].name == "is"


# ---- ties


def test_models_within_two_deviations_of_their_difference_are_tied() -> None:
    rows = [row("a", 10.0, 0.3), row("b", 10.9, 0.4), row("c", 11.1, 0.4)]
    # sqrt(0.09 + 0.16) = 0.5: a and b are 1.8 deviations apart, a and c 2.2, b and c 0.4
    assert places(rows) == [("a", "1="), ("b", "1="), ("c", "2=")]


def test_there_is_no_least_gap_beside_the_error_bars() -> None:
    assert places([row("a", 100.0, 0.1), row("b", 100.9, 0.1)]) == [("a", "1"), ("b", "2")]


def test_deviations_over_samples_count_for_both_models() -> None:
    assert tie(row("a", 1.0, 0.5), row("b", 1.9), FID)
    assert tie(row("a", 1.0), row("b", 1.9, 0.5), FID)
    assert not tie(row("a", 1.0), row("b", 1.9), FID)


# ---- refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": "inception-6726825d"}, "features: digits-0123abcd (a); inception-6726825d"),
        ({"samples": 500}, "number of samples: 10,000 (a); 500 (b)"),
        ({"reference_images": 10_000}, "number of reference images: 60,000 (a); 10,000 (b)"),
        ({"data_fingerprint": "bb"}, "fingerprint of the data: aa (a); bb (b)"),
        ({"quantisation": "truncated"}, "quantisation and resizing: uint8 (a); truncated (b)"),
        ({"metrics": {"fid": "other"}}, "metric: fid: Gaussians (a); other (b)"),
        ({"metrics": {}}, "metric: fid: Gaussians (a); none (b)"),
    ],
)
def test_scores_whose_cards_differ_in_what_matters_are_not_ranked(change, words) -> None:
    rows = [row("a", 2.0, card=CARD), row("b", 1.0, card={**CARD, **change})]
    ranking = rank(rows, [FID])
    assert [(r.name, r.rank, r.tied) for r in ranking.rows] == [
        ("a", None, False),
        ("b", None, False),
    ]
    assert len(ranking.refusals) == 1 and ranking.refusals[0].startswith(words)
    notes = footnotes(ranking)
    assert "Not ranked, since these scores measure different things:" in notes
    assert not [note for note in notes if note.startswith("Ranked by")]


@pytest.mark.parametrize(
    "change",
    [{"versions": {"torch": "3.0"}}, {"sample_seed": 4}, {"weights": "raw"}, {"precision": "bf16"}],
)
def test_properties_of_the_model_and_of_chance_are_no_reason_not_to_rank(change) -> None:
    rows = [row("a", 2.0, card=CARD), row("b", 1.0, card={**CARD, **change})]
    assert places(rows) == [("b", "1"), ("a", "2")]


def test_calibration_rows_with_fewer_images_do_not_keep_models_from_being_ranked() -> None:
    rows = [row("a", 2.0, card=CARD), row("real", 0.1, card={**CARD, "samples": 700})]
    assert places(rows) == [("a", "1"), ("real", "")]
    assert footnotes(rank(rows, [FID]))[0].startswith("10,000 samples (real: 700); features")


def test_differences_name_every_value_and_who_has_it() -> None:
    card = ProtocolCard.from_json(CARD)
    cards = {"a": card, "b": ProtocolCard.from_json({**CARD, "samples": 5}), "c": card}
    assert differences(cards) == ["number of samples: 10,000 (a, c); 5 (b)"]
    assert differences({"a": card, "b": card}) == [] == differences({})


def test_a_card_in_lines_has_each_of_its_entries_and_no_other() -> None:
    lines = ProtocolCard.from_json({**CARD, "features": None}).lines()
    assert lines["number of reference images"] == "60,000" and lines["features"] == "none"
    assert lines["versions: torch"] == "2.15" and lines["metric: fid"] == "Gaussians"
    assert len(lines) == len(CARD)


@pytest.mark.parametrize(
    ("identity", "name"), [("digits-0123abcd", "digits"), ("a-b-12", "a-b"), (None, None)]
)
def test_features_name_is_their_identity_without_the_hash(identity: Any, name: Any) -> None:
    assert ProtocolCard.from_json({**CARD, "features": identity}).features_name == name


# ---- several trainings


def training(fid: float, **more: Any) -> ScoreRow:
    likelihood = {"nats": -fid, "bits_per_dimension": 1.0, "kind": "exact", "of": "x", "images": 9}
    memorised = {"pixels": fid / 100, "flagged": False}
    more = {"likelihood": likelihood, "memorisation": memorised, "seconds": fid, **more}
    return row("a", fid, 0.01, **more)


def test_row_of_several_trainings_has_their_mean_and_their_deviation() -> None:
    values = [3.0, 5.0, 10.0]
    found = average([training(value) for value in values])
    assert found.scores["fid"] == 6 and found.seconds == 6 and found.trainings == 3
    assert found.deviations["fid"] == pytest.approx(statistics.stdev(values))
    assert found.likelihood.nats == -6
    assert found.likelihood.deviation == pytest.approx(statistics.stdev(values))
    assert found.memorisation.pixels == 0.1  # the worst


def test_failed_training_is_left_out_and_named() -> None:
    failed = ScoreRow(name="a", error="the loss became nan")
    found = average([training(3.0), failed, training(5.0)])
    assert found.scores["fid"] == 4 and found.trainings == 2
    notes = footnotes(rank([found], [FID]))
    assert "a: 1 of 3 trainings failed: the loss became nan" in notes
    assert average([training(3.0), failed]).scores["fid"] == 3
    assert average([failed, failed]).error == "the loss became nan"


def test_row_of_one_training_is_that_row() -> None:
    assert average([training(3.0)]) == training(3.0)


# ---- footnotes


def test_footnotes_say_what_the_numbers_are_of() -> None:
    likelihood = {"kind": "exact", "images": 2000, "of": "black-and-white images"}
    likelihood |= {"nats": -1.0, "bits_per_dimension": 0.1}
    bound = {**likelihood, "kind": "bound", "draws": 64, "of": "images at 256 levels"}
    rows = [
        row("pixelcnn", 2.0, card=CARD, likelihood=likelihood),
        row("vae", 3.0, card=CARD, likelihood=bound),
        row("real", 0.1, card=CARD),
    ]
    notes = footnotes(rank(rows, [FID]))
    assert notes[0] == (
        "10,000 samples; features digits-0123abcd; reference mnist-train, 60,000 images."
    )
    assert notes[1].startswith("± is two standard deviations over samples of one training")
    assert notes[2] == "Ranked by FID."
    assert notes[3].startswith("real are unseen test images") and "copy" not in notes[3]
    assert "pixelcnn: exact NLL of 2,000 test images, black-and-white images" in notes
    expected = "vae: upper bound NLL with 64 importance samples of 2,000 test images, images at 256"
    assert any(note.startswith(expected) for note in notes)
    assert notes[-1] == "These NLLs are of different things and cannot be compared."
    assert footnotes(rank([], [FID])) == []


def test_ties_and_several_trainings_are_explained() -> None:
    rows = [row("a", 2.0, 1.0, card=CARD, trainings=3), row("b", 2.1, 1.0, card=CARD, trainings=3)]
    notes = footnotes(rank(rows, [FID]))
    assert (
        "Means of 3 trainings: ± is half of their 95% confidence interval, and of calibration rows "
        "two standard deviations over samples."
    ) in notes
    assert "Ranked by FID; = could not be told apart (Welch's t at 95%)." in notes
    once = [row.model_copy(update={"trainings": 1}) for row in rows]
    assert "Ranked by FID; = could not be told apart (two standard deviations)." in footnotes(
        rank(once, [FID])
    )


@pytest.mark.parametrize(
    ("budgets", "note"),
    [
        (("120s", "120s"), "Machine dependent: trained for 120s, in which another machine"),
        (("120s", "5tflop"), "Machine dependent: trained for 120s, in which another machine"),
        (("10m", "1h"), "Machine dependent: trained for 10m and 1h, in which another machine"),
        (("5tflop", "9kimg"), None),
        (("120s",), None),  # compared with no other
    ],
)
def test_budgets_in_seconds_are_machine_dependent(
    budgets: tuple[str, ...], note: str | None
) -> None:
    rows = [row(str(i), 1.0 + i, card={**CARD, "budget": b}) for i, b in enumerate(budgets)]
    found = [each for each in footnotes(rank(rows, [FID])) if "Machine dependent" in each]
    assert len(found) == (note is not None) and all(each.startswith(str(note)) for each in found)


def test_models_whose_training_images_were_changed_are_named() -> None:
    cards = [{**CARD, "augmentation": "flip=true"}, CARD, {**CARD, "augmentation": "flip=true"}]
    rows = [row(name, 1.0, card=card) for name, card in zip("abc", cards, strict=True)]
    note = "Training images and data options: flip=true (a, c); all, as they are (b)."
    assert note in footnotes(rank(rows, [FID])) and rank(rows, [FID]).refusals == []
    assert not [n for n in footnotes(rank(rows[1:2], [FID])) if "at random" in n]


def test_model_trained_on_other_data_is_named() -> None:
    card = {**CARD, "trained_on": "mnist-mini", "trained_on_fingerprint": "bb"}
    assert "a was trained on other data: mnist-mini" in footnotes(
        rank([row("a", 1.0, card=card)], [FID])
    )
    card["trained_on_fingerprint"] = CARD["data_fingerprint"]
    assert not [n for n in footnotes(rank([row("a", 1.0, card=card)], [FID])) if "other data" in n]


def test_copier_is_named_but_not_the_row_that_is_one_by_design() -> None:
    memorised = {"pixels": 0.9, "flagged": True}
    rows = [row(name, 1.0, memorisation=memorised) for name in ("a", "copy")]
    notes = [note for note in footnotes(rank(rows, [FID])) if "by heart" in note]
    assert len(notes) == 1 and notes[0].startswith("a may have learned training images")
