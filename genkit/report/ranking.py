"""Which model is better, if that can be said: ranks, ties, refusals and footnotes. Light.

Computes no score; rows are as `genkit.evaluation` makes them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from genkit.errors import UsageError
from genkit.registry.catalogue import Registry
from genkit.report.protocol_card import ProtocolCard, differences
from genkit.report.rows import CALIBRATION, Likelihood, ScoreRow
from genkit.specs import Column

FEW_SAMPLES = 5000  # below it a biased distance does not rank
INCONCLUSIVE = 0.013  # relative gap that retraining alone can make (arXiv 2606.20536)
MEANINGS = {
    "real": "real are unseen test images: the best that a score can be expected to be",
    "copy": "copy are training images: what a score likes better than real, it cannot tell",
    "noise": "noise is uniform noise, the worst",
}


@dataclass(frozen=True)
class Ranking:
    """Rows in order of rank: models with a score, models without one, calibration rows.

    Args:
        rows: each with its rank (None for no rank) and whether it is tied.
        columns: of the scores; the one that ranks first.
        column: the one that ranks, or None.
        refusals: in what the models' cards differ; nothing is ranked then.
    """

    rows: list[ScoreRow]
    columns: list[Column]
    column: Column | None
    refusals: list[str]

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
    """What ranks: the column of that name; else the first that may, and below 5,000 samples the
    first of these that is unbiased. UsageError for a name that cannot rank."""
    able = [column for column in columns if column.ranks]
    if name:
        for column in able:
            if column.name == name:
                return column
        known = ", ".join(column.name for column in able)
        raise UsageError(f"--rank-by {name!r} is not a score that ranks; there are: {known}")
    few = min((row.card.samples for row in rows if row.card), default=0) < FEW_SAMPLES
    unbiased = [column for column in able if column.unbiased]
    return next(iter(unbiased if few and unbiased else able), None)


def rank(rows: Sequence[ScoreRow], columns: Sequence[Column], name: str | None = None) -> Ranking:
    """Rank rows by one column, unless the cards of two models differ in what matters.

    A model's rank is 1 plus the number of models that are better than it by more than two
    standard deviations of the difference and by more than 1.3%: models closer than that are tied.
    """
    models = [row for row in rows if not row.is_calibration]
    column = choose_column(columns, models, name)
    refusals = differences({row.name: row.card for row in models if row.card})
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
    for calibration in CALIBRATION:
        result += [placed(row) for row in rows if row.name == calibration]
    first = [column] if column else []
    return Ranking(result, [*first, *(c for c in columns if c is not column)], column, refusals)


def tie(one: ScoreRow, other: ScoreRow, column: Column | None) -> bool:
    """Whether two rows are too close to be told apart."""
    if column is None:
        return True
    a, b = _value(one, column), _value(other, column)
    spread = math.hypot(_deviation(one, column), _deviation(other, column))
    return abs(a - b) <= max(2 * spread, INCONCLUSIVE * min(abs(a), abs(b)))


def _value(row: ScoreRow, column: Column | None) -> float:
    value = row.scores.get(column.name) if column else None
    return math.nan if value is None else value


def _badness(row: ScoreRow, column: Column | None) -> float:
    value = _value(row, column)
    return -value if column and column.better == "higher" else value


def _deviation(row: ScoreRow, column: Column) -> float:
    return row.deviations.get(column.name) or 0.0


def average(rows: Sequence[ScoreRow]) -> ScoreRow:
    """One row for several trainings of a model: means, and standard deviations over those
    trainings that did not fail.

    Args:
        rows: of one model with different seeds, at least one.
    """
    done = [row for row in rows if not row.error]
    errors = [row.error for row in rows if row.error]
    if len(rows) == 1 or not done:
        return rows[0]
    changes = _means(done) if len(done) > 1 else {}
    if errors:
        changes["warning"] = f"{len(errors)} of {len(rows)} trainings failed: {errors[0]}"
    return done[0].model_copy(update=changes)


def _means(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """Fields of a row for at least two trainings."""
    changes: dict[str, Any] = {"trainings": len(rows)}
    for key in ("images", "seconds", "train_rate", "sample_rate"):
        values = [value for row in rows if (value := getattr(row, key)) is not None]
        if len(values) == len(rows):
            changes[key] = statistics.fmean(values)
    means, deviations = {}, {}
    for name in rows[0].scores:
        values = [value for row in rows if (value := row.scores.get(name)) is not None]
        if len(values) == len(rows):
            means[name], deviations[name] = statistics.fmean(values), statistics.stdev(values)
    changes |= {"scores": means, "deviations": deviations}
    likelihoods = [row.likelihood for row in rows if row.likelihood]
    if len(likelihoods) == len(rows):
        nats = [found.nats for found in likelihoods]
        bits = [found.bits_per_dimension for found in likelihoods]
        changes["likelihood"] = likelihoods[0].model_copy(
            update={
                "nats": statistics.fmean(nats),
                "bits_per_dimension": statistics.fmean(bits),
                "deviation": statistics.stdev(nats),
            }
        )
    agreements = [row.agreement.share for row in rows if row.agreement]
    if rows[0].agreement and len(agreements) == len(rows):
        share, deviation = statistics.fmean(agreements), statistics.stdev(agreements)
        changes["agreement"] = rows[0].agreement.model_copy(
            update={"share": share, "deviation": deviation}
        )
    memorised = [row.memorisation for row in rows if row.memorisation]
    if memorised:  # the worst: a copy in one training must not be averaged away
        changes["memorisation"] = max(memorised, key=lambda m: (m.flagged, m.pixels or 0.0))
    return changes


def footnotes(ranking: Ranking) -> list[str]:
    """What the numbers are of, how certain they are, and why some are missing."""
    rows = ranking.rows
    notes = _about_scores(rows)
    if ranking.refusals:
        notes.append("Not ranked, since these scores measure different things:")
        notes += [f"  {line}" for line in ranking.refusals]
    elif ranking.column and any(row.rank for row in rows):
        title = ranking.column.title.partition("\n")[0]
        why = ", which is unbiased where samples are few" if ranking.column.unbiased else ""
        ties = any(row.tied for row in rows)
        equal = "; = could not be told apart (two standard deviations or 1.3%)" if ties else ""
        notes.append(f"Ranked by {title}{why}{equal}.")
    present = [MEANINGS[row.name] for row in rows if row.name in MEANINGS]
    if present:
        notes.append(f"{'; '.join(present)}.")
    for row in rows:
        notes += _about_row(row)
    if len({row.likelihood.of for row in rows if row.likelihood}) > 1:
        notes.append("These NLLs are of different things and cannot be compared.")
    return notes


def _about_scores(rows: Sequence[ScoreRow]) -> list[str]:
    """Samples, features and reference, and what the error bars are over."""
    cards = [(row.name, row.card) for row in rows if row.card]
    if not cards or not cards[0][1].features:
        return []
    card = cards[0][1]
    names_of: dict[int, list[str]] = {}  # by number of samples
    for name, each in cards:
        names_of.setdefault(each.samples, []).append(name)
    most, *others = sorted(names_of, key=lambda count: -len(names_of[count]))
    exceptions = "".join(f" ({', '.join(names_of[count])}: {count:,})" for count in others)
    about = f" ({card.features_note})" if card.features_note else ""
    trainings = max(row.trainings for row in rows)
    if trainings > 1:
        bars = (
            f"± is two standard deviations over {trainings} trainings, and of calibration rows "
            "over samples."
        )
    else:
        bars = (
            "± is two standard deviations over samples of one training (20-block jackknife); "
            "another training moves scores more: compare --seeds 3."
        )
    return [
        f"{most:,} samples{exceptions}; features {card.features}{about}; reference "
        f"{card.reference}, {card.reference_images:,} images.",
        bars,
    ]


def _about_row(row: ScoreRow) -> list[str]:
    notes = []
    if row.likelihood:
        notes.append(_about_likelihood(row.name, row.likelihood))
    if row.card and _trained_on_other_data(row.card):
        notes.append(f"{row.name} was trained on other data: {row.card.trained_on}")
    if row.memorisation and row.memorisation.flagged and not row.is_calibration:
        notes.append(
            f"{row.name} may have learned training images by heart (near train, !): its samples "
            "are closer to these than to unseen images; see neighbours.png in its run"
        )
    if row.card and row.card.labels:
        notes.append(f"{row.name} draws images by class; labels: {row.card.labels}")
    if row.warning:
        notes.append(f"{row.name}: {row.warning}")
    if row.error:
        notes.append(f"{row.name} failed: {row.error}")
    return notes


def _about_likelihood(name: str, found: Likelihood) -> str:
    kind = "exact" if found.kind == "exact" else "upper bound"
    draws = f" with {found.draws} importance samples" if found.draws else ""
    return f"{name}: {kind} NLL{draws} of {found.images:,} test images, {found.of}"


def _trained_on_other_data(card: ProtocolCard) -> bool:
    other = card.trained_on_fingerprint
    return bool(other) and other != card.data_fingerprint
