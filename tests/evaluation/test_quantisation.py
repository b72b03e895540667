"""Samples with different numbers of levels are ranked as if all had the fewest of them."""

from __future__ import annotations

import pytest
import torch

from genkit.config.run import RunConfig
from genkit.evaluation.evaluator import Evaluator
from genkit.evaluation.levels import round_to_levels
from genkit.evaluation.protocol import EvaluationProtocol
from genkit.evaluation.targets import evaluate
from genkit.registry.catalogue import load_registry
from genkit.report.footnotes import footnotes
from genkit.report.headline import make_headline
from genkit.report.ranking import Ranking, rank, score_columns
from genkit.report.rows import ScoreRow
from genkit.report.tables import to_markdown
from genkit.runs.build import load_data
from genkit.sampling.files import save_samples

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    """Of digits, by FID and KID alone."""
    found = load_registry()
    for name in [name for name in found.metrics if name not in ("fid", "kid")]:
        del found.metrics[name]
    data = load_data(found, RunConfig())
    return Evaluator.choose(found, data, EvaluationProtocol(samples=400, device="cpu"))


@pytest.fixture(scope="module")
def sets(evaluator) -> dict[str, torch.Tensor]:
    """Three sets of real digits: soft ones, as means of a VAE are, noisy ones, and sharp ones in
    black and white."""
    real = torch.from_numpy(evaluator.data.test.images)[:400]
    soft = torch.nn.functional.avg_pool2d(real.float(), 3, 1, 1)
    noise = 60 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    return {
        "soft": soft.round().byte(),
        "noisy": (real.float() + noise).round().clamp(0, 255).byte(),
        "sharp": round_to_levels(real, 2),
    }


def compared(evaluator, tmp_path, sets, *words: str) -> Ranking:
    """The sets ranked, as a user compares files of samples."""
    targets = []
    for name, images in sets.items():
        targets.append(str(tmp_path / f"{name}.npz"))
        save_samples(images, tmp_path / f"{name}.npz")
    rows = evaluate([*targets, *words], evaluator, load=None)
    named = [
        row if row.is_calibration else row.model_copy(update={"name": row.name.split("/")[-1][:-4]})
        for row in rows
    ]
    return rank(named, score_columns(evaluator.registry))


def ranked(ranking: Ranking) -> dict[str, tuple[float, str]]:
    assert ranking.column is not None
    return {row.name: (row.scores[ranking.column.name], row.place) for row in ranking.models}


def test_no_model_changes_its_rank_by_rounding_its_own_samples(evaluator, sets, tmp_path):
    """Nor anybody else's: the score that ranks stays the same to the last bit. The scores of the
    samples as they are would rank the rounded ones otherwise."""
    before = compared(evaluator, tmp_path, sets)
    rounded = {**sets, "soft": round_to_levels(sets["soft"], 2)}
    after = compared(evaluator, tmp_path, rounded)
    assert ranked(before) == ranked(after)
    plain = {row.name: row.scores["kid"] for row in before.models}
    gamed = {row.name: row.scores["kid"] for row in after.models}
    assert gamed["soft"] < 0.8 * plain["soft"]


def test_a_set_and_its_rounded_copy_are_tied(evaluator, sets, tmp_path):
    both = {"soft": sets["soft"], "copy-of-it": round_to_levels(sets["soft"], 2)}
    found = compared(evaluator, tmp_path, both)
    assert [place for _, place in ranked(found).values()] == ["1=", "1="]
    one, other = (score for score, _ in ranked(found).values())
    assert one == other


def test_both_scores_are_shown_with_real_images_at_these_levels(evaluator, sets, tmp_path):
    found = compared(evaluator, tmp_path, sets, "real")
    table = to_markdown(found, "digits")
    heading = table.splitlines()[0]
    assert "2 levels" in heading and heading.count("FID corrected") == 2
    floor = {row.name: row for row in found.rows}
    rounded, plain = floor["real at 2 levels"], floor["real"]
    assert [row.name for row in found.rows[-2:]] == ["real", "real at 2 levels"]
    name = found.column.name
    assert rounded.scores[name] == plain.scores[name]  # the same images at two levels
    assert rounded.scores["kid"] > plain.scores["kid"] + 0.02  # what rounding costs a perfect model
    assert {row.card.levels for row in found.models} == {2, 256} and rounded.card.levels == 2
    assert any("different numbers of levels" in note for note in footnotes(found))
    assert make_headline(found)[1].count("2 levels") == 1


def test_samples_of_equal_levels_are_ranked_as_they_are(evaluator, sets, tmp_path):
    found = compared(evaluator, tmp_path, {"soft": sets["soft"], "noisy": sets["noisy"]}, "real")
    assert "@" not in found.column.name and found.levels is None
    assert [row.name for row in found.rows if row.is_calibration] == ["real"]


def test_stored_scores_without_a_common_number_of_levels_are_not_ranked(evaluator, sets, tmp_path):
    rows = [evaluator.evaluate_images(name, images) for name, images in sets.items()]
    found = rank(rows, score_columns(evaluator.registry))
    assert not any(row.rank for row in found.rows)
    assert found.refusals[0].startswith("levels of samples: 256 (soft); 256 (noisy); 2 (sharp)")
    assert "genkit evaluate" in found.refusals[0]


def test_rows_of_older_files_do_not_say_their_levels_and_rank_as_before(evaluator, sets):
    rows = [evaluator.evaluate_images(name, images) for name, images in sets.items()]
    old = []
    for row in rows:
        content = row.to_json()
        del content["card"]["levels"]
        old.append(ScoreRow.from_json(content))
    assert all(row.rank for row in rank(old, score_columns(evaluator.registry)).models)
