"""Which model is better, if that can be said: ranks, ties and refusals. Light.

Computes no score; rows are as `genkit.evaluation` makes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from genkit.errors import UsageError
from genkit.registry.catalogue import Registry
from genkit.report.protocol_card import differences
from genkit.report.rows import ScoreRow, calibration_order, rounded_name
from genkit.specs import Column

FEW_SAMPLES = 5000  # below it a biased distance does not rank
CONFIDENCE = 0.95  # of half widths over trainings, and of Welch's test
PIECES = 400  # of the integral, an even number: right to 1e-9
Mean = tuple[float, float, int]  # a mean, the standard deviation, and of how many trainings


@dataclass(frozen=True)
class Ranking:
    """Rows in order of rank: models with a score, models without one, calibration rows.

    Args:
        rows: each with its rank (None for no rank) and whether it is tied.
        columns: of the scores; the one that ranks first.
        column: the one that ranks, or None.
        refusals: in what the models' cards differ; nothing is ranked then.
        levels: that samples and real images were rounded to for what ranks; None: not rounded.
    """

    rows: list[ScoreRow]
    columns: list[Column]
    column: Column | None
    refusals: list[str]
    levels: int | None = None

    @property
    def models(self) -> list[ScoreRow]:
        """The rows without calibration rows."""
        return [row for row in self.rows if not row.is_calibration]


def score_columns(registry: Registry) -> list[Column]:
    """The columns of all metrics, those that may rank first."""
    columns = [column for entry in registry.metrics.values() for column in entry.spec.columns]
    shown = [column for column in columns if column.shown]
    return sorted(shown, key=lambda column: not column.ranks)


def choose_column(
    columns: Sequence[Column], rows: Sequence[ScoreRow], name: str | None
) -> Column | None:
    """What ranks: the column of that name; else the first that may and that all scored rows have,
    and below 5,000 samples the first of these that is unbiased or corrected for its bias.
    UsageError for a name that cannot rank."""
    able = [column for column in columns if column.ranks]
    if name:
        for column in able:
            if column.name == name:
                return column
        known = ", ".join(column.name for column in able)
        raise UsageError(f"--rank-by {name!r} is not a score that ranks; there are: {known}")
    few = min((row.card.samples for row in rows if row.card), default=0) < FEW_SAMPLES
    scored = [row.scores for row in rows if any(c.name in row.scores for c in able)]
    able = [column for column in able if all(column.name in scores for scores in scored)] or able
    unbiased = [column for column in able if column.unbiased or column.corrected]
    return next(iter(unbiased if few and unbiased else able), None)


def rank(rows: Sequence[ScoreRow], columns: Sequence[Column], name: str | None = None) -> Ranking:
    """Rank rows by one column, unless the cards of two models differ in what matters.

    A model's rank is 1 plus the number of models that are better than it and can be told apart
    from it (`apart`); models that cannot be told apart are tied.

    Models whose samples have different numbers of levels are ranked at the fewest of them, by
    scores of all samples and of the reference rounded alike.
    """
    models = [row for row in rows if not row.is_calibration]
    column = choose_column(columns, models, name)
    refusals = differences({row.name: row.card for row in models if row.card})
    levels = fewest_levels(models)
    if levels and column:
        column = at_levels(column, levels)
        unrounded = [row.name for row in models if row.scores and column.name not in row.scores]
        if unrounded:
            refusals = [*refusals, _about_levels(models, unrounded)]
    scored = [row for row in models if not math.isnan(_value(row, column))]
    scored.sort(key=lambda row: _badness(row, column))

    def placed(row: ScoreRow, place: int | None = None, tied: bool = False) -> ScoreRow:
        return row.model_copy(update={"rank": place, "tied": tied})

    if refusals:
        result = [placed(row) for row in models]
    else:
        result = []
        for row in scored:
            tied = any(tie(row, other, column) for other in scored if other is not row)
            better = sum(
                _badness(other, column) < _badness(row, column) and not tie(row, other, column)
                for other in scored
            )
            result.append(placed(row, 1 + better, tied))
        result += [placed(row) for row in models if not any(row is other for other in scored)]
    result = with_common_likelihood(result)
    calibration = sorted((row for row in rows if row.is_calibration), key=calibration_order)
    result += [placed(row) for row in calibration]
    first = [column] if column else []
    ordered = [*first, *(c for c in columns if c is not column)]
    return Ranking(result, ordered, column, refusals, levels)


def fewest_levels(models: Sequence[ScoreRow]) -> int | None:
    """The fewest levels that samples of these models have; None if all have as many."""
    known = {row.card.levels for row in models if row.card and row.card.levels}
    return min(known) if len(known) > 1 else None


def at_levels(column: Column, levels: int) -> Column:
    """The column of the same score of samples and reference rounded to so many levels."""
    title = column.title.replace("\n", " ")
    rounded = f"Here samples and real images are rounded to {levels} levels."
    return replace(
        column,
        name=rounded_name(column.name, levels),
        title=f"{title}\n{levels} levels",
        help=f"{column.help} {rounded}".strip(),
    )


def _about_levels(models: Sequence[ScoreRow], unrounded: Sequence[str]) -> str:
    counts = (f"{row.card.levels} ({row.name})" for row in models if row.card and row.card.levels)
    return (
        f"levels of samples: {'; '.join(counts)}; there is no score of {', '.join(unrounded)} at "
        "the fewest of these: score them together, with genkit evaluate"
    )


def tie(one: ScoreRow, other: ScoreRow, column: Column | None) -> bool:
    """Whether two rows are too close to be told apart."""
    if column is None:
        return True
    return not apart(_mean(one, column), _mean(other, column))


def is_better(one: ScoreRow, other: ScoreRow, column: Column) -> bool:
    """Whether a row's score is better than another's; not if one has none."""
    return _badness(one, column) < _badness(other, column)


def _value(row: ScoreRow, column: Column | None) -> float:
    value = row.scores.get(column.name) if column else None
    return math.nan if value is None else value


def _badness(row: ScoreRow, column: Column | None) -> float:
    value = _value(row, column)
    return -value if column and column.better == "higher" else value


def _mean(row: ScoreRow, column: Column) -> Mean:
    return _value(row, column), row.deviations.get(column.name) or 0.0, row.trainings


def with_common_likelihood(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """The rows with the likelihood of the coarsest version of the test images that all models with
    a likelihood were asked about; as they are where there is none."""
    versions = [
        {found.of: found for found in row.likelihoods or (row.likelihood,) if found} for row in rows
    ]
    judges = [each for each in versions if each]
    common = [f for f in (judges[0].values() if judges else ()) if all(f.of in j for j in judges)]
    if not common:
        return list(rows)
    of = min(common, key=lambda found: found.levels or math.inf).of
    return [
        row.model_copy(update={"likelihood": each[of]}) if each else row
        for row, each in zip(rows, versions, strict=True)
    ]


def student_probability(t: float, freedom: float) -> float:
    """P(|T| <= t) of Student's distribution with `freedom` degrees of freedom, at least 1.

    With T = sqrt(freedom) tan(a) the density is proportional to cos(a)^(freedom - 1): Simpson's
    rule over that.
    """
    end = math.atan(t / math.sqrt(freedom))
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    total = 0.0
    for piece in range(PIECES + 1):
        weight = 1 if piece in (0, PIECES) else 4 if piece % 2 else 2
        total += weight * math.cos(end * piece / PIECES) ** (freedom - 1)
    return 2 * math.exp(scale) / math.sqrt(math.pi) * total * end / PIECES / 3


@cache
def student_quantile(freedom: float) -> float:
    """The t that |T| exceeds in 5% of cases: 12.7 for one degree of freedom, 4.30 for two."""
    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        if student_probability(middle, freedom) < CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def half_width(deviation: float | None, trainings: int) -> float | None:
    """Half the width of a score's error bar.

    Of one training, two standard deviations over samples; of several, the 95% confidence interval
    of their mean, from the standard deviation over trainings.
    """
    if deviation is None or trainings < 2:
        return None if deviation is None else 2 * deviation
    return student_quantile(trainings - 1) * deviation / math.sqrt(trainings)


def apart(one: Mean, other: Mean) -> bool:
    """Whether two scores can be told apart.

    Scores of one training each: by more than two standard deviations, over samples, of their
    difference. Means over trainings: by Welch's t (Welch 1947, Biometrika 34) at 95%, with the
    degrees of freedom that follow from the data. One training beside several is taken to vary
    from training to training as much as those do.
    """
    (a, _, count_a), (b, _, count_b) = one, other
    if count_a < 2 and count_b < 2:
        return abs(a - b) > 2 * math.hypot(one[1], other[1])
    if min(count_a, count_b) < 2:
        (_, single, _), (_, spread, count) = sorted((one, other), key=lambda mean: mean[2])
        error = math.hypot(max(single, spread), spread / math.sqrt(count))
        return abs(a - b) > student_quantile(count - 1) * error
    parts = [deviation**2 / count for _, deviation, count in (one, other)]
    squares = sum(p**2 / (c - 1) for p, c in zip(parts, (count_a, count_b), strict=True))
    if squares == 0:  # trainings that do not differ at all
        return a != b
    return abs(a - b) > student_quantile(sum(parts) ** 2 / squares) * math.sqrt(sum(parts))


def half_width_of(row: ScoreRow, column: str) -> float | None:
    """Half the width of the error bar of a row's score, None if it is not known."""
    return half_width(row.deviations.get(column), row.trainings)
