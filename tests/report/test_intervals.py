"""Means over trainings: against scipy's distributions, and told apart as often as theory says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from genkit.comparison.averages import average
from genkit.report.ranking import apart, half_width, student_probability, student_quantile, tie
from genkit.report.rows import ScoreRow
from genkit.specs import Column

FID = Column(name="fid", title="FID", better="lower")


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 4, 19, 38.2, 1000])
def test_students_distribution_is_scipys(freedom: float) -> None:
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-8)
    for t in (0.1, 1, 3, 12):
        expected = 1 - 2 * stats.t.sf(t, freedom)
        assert student_probability(t, freedom) == pytest.approx(expected, abs=1e-9)


def test_half_width_is_two_deviations_of_one_training_and_a_confidence_interval_of_several() -> (
    None
):
    assert half_width(0.5, 1) == 1.0 and half_width(None, 3) is None
    values = [3.0, 5.0, 10.0]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert half_width(float(np.std(values, ddof=1)), 3) == pytest.approx((high - low) / 2)


def test_means_are_apart_where_scipys_welch_test_says_so() -> None:
    random = np.random.default_rng(0)
    answers = []
    for _ in range(300):
        one, other = random.normal(0, 1, 4), random.normal(1.5, 3, 7)
        means = [(x.mean(), x.std(ddof=1), len(x)) for x in (one, other)]
        answers.append(apart(*means))
        assert answers[-1] == (stats.ttest_ind(one, other, equal_var=False).pvalue < 0.05)
    assert 20 < sum(answers) < 280


def share_apart(gap: float, seeds: int, repeats: int = 400) -> float:
    """How often two models of `seeds` trainings are told apart in a table, when their scores vary
    by 1 from training to training and lie `gap` apart."""
    random = np.random.default_rng(seeds)

    def model(mean: float) -> ScoreRow:
        rows = [
            ScoreRow(name="a", scores={"fid": score}, deviations={"fid": 0.05})
            for score in random.normal(mean, 1, seeds)
        ]
        return average(rows)

    return sum(not tie(model(10), model(10 + gap), FID) for _ in range(repeats)) / repeats


@pytest.mark.parametrize("seeds", [3, 20])
def test_a_gap_of_two_deviations_is_seen_as_often_as_theory_says(seeds: int) -> None:
    """The power of Welch's test, by scipy: with the deviation over trainings in the place of their
    mean's it was 31% and 3.5%."""
    random = np.random.default_rng(seeds)
    one, other = random.normal(0, 1, (20_000, seeds)), random.normal(2, 1, (20_000, seeds))
    power = (stats.ttest_ind(one, other, axis=1, equal_var=False).pvalue < 0.05).mean()
    found = share_apart(2, seeds)
    assert found == pytest.approx(power, abs=0.06)  # 2.5 standard deviations of 400 repeats
    assert (0.3 < power < 0.45) if seeds == 3 else power > 0.99


@pytest.mark.parametrize("seeds", [2, 3, 20])
def test_one_recipe_is_told_apart_from_itself_in_one_case_of_twenty_at_most(seeds: int) -> None:
    assert share_apart(0, seeds) < 0.08


def test_one_training_beside_several_is_taken_to_vary_as_much_as_they_do() -> None:
    single, several = (10.0, 0.01, 1), (14.0, 1.0, 3)
    assert not apart(single, several) and not apart(several, single)
    assert apart((5.0, 0.01, 1), several)  # 4.30 times sqrt(1 + 1/3) is 4.97
    assert not apart((9.2, 0.01, 1), several)


def test_trainings_without_any_spread_are_apart_if_they_differ() -> None:
    assert apart((1.0, 0.0, 2), (1.1, 0.0, 2)) and not apart((1.0, 0.0, 2), (1.0, 0.0, 2))
