"""Which model is better, if that can be said: ranks, ties and refusals. Light.

Computes no score; rows are as `genkit.evaluation` makes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genkit.errors import UsageError
from genkit.registry.catalogue import Registry
from genkit.report.intervals import Mean, apart
from genkit.report.protocol_card import differences
from genkit.report.rows import ScoreRow, calibration_order, rounded_name
from genkit.specs import Column

FEW_SAMPLES = 5000  # below it a biased distance does not rank


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
    from it (`genkit.report.intervals.apart`); models that cannot be told apart are tied.

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
