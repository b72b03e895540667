"""Notes under a table: what its numbers are of, how certain they are, what to doubt. Light."""

from __future__ import annotations

import math
from collections.abc import Sequence

from genkit.config.budget import Budget
from genkit.report.protocol_card import ProtocolCard
from genkit.report.ranking import Ranking, at_levels, is_better, tie
from genkit.report.rows import Likelihood, NearestShares, ScoreRow
from genkit.specs import Column

MEANINGS = {
    "real": "real are unseen test images: the best that a score can be expected to be",
    "copy": "copy are training images: what a score likes better than real, it cannot tell",
    "noise": "noise is uniform noise, the worst",
}


def footnotes(ranking: Ranking) -> list[str]:
    """What the numbers are of, how certain they are, and why some are missing."""
    rows = ranking.rows
    notes = _about_scores(rows)
    if ranking.refusals:
        notes.append("Not ranked, since these scores measure different things:")
        notes += [f"  {line}" for line in ranking.refusals]
    elif ranking.column and any(row.rank for row in rows):
        title = plain_title(ranking.column)
        why = ", which is unbiased where samples are few" if ranking.column.unbiased else ""
        why = ", corrected for its bias" if ranking.column.corrected else why
        ties = any(row.tied for row in rows)
        test = "Welch's t at 95%" if _several(rows) else "two standard deviations"
        equal = f"; = could not be told apart ({test})" if ties else ""
        notes.append(f"Ranked by {title}{why}{equal}.")
    notes += _disagreements(ranking)
    notes += _about_budgets(ranking.models)
    notes += _about_augmentation(ranking.models)
    if ranking.levels and not ranking.refusals:
        notes.append(
            "Samples of these models have different numbers of levels: ranked with all samples and "
            f"the reference rounded to {ranking.levels}, so that rounding wins and loses nothing."
        )
    present = [MEANINGS[row.name] for row in rows if row.name in MEANINGS]
    present += [
        f"{row.name} are unseen test images rounded to these, which the reference is not in the "
        "other columns"
        for row in rows
        if row.is_rounded_real
    ]
    if present:
        notes.append(f"{'; '.join(present)}.")
    for row in rows:
        notes += _about_row(row)
    for column in ranking.columns:
        notes += [
            f"{row.name} {column.warning}: about {row.scores[column.name]:,.0f}"
            for row in ranking.models
            if column.warn_below is not None
            and (value := row.scores.get(column.name)) is not None
            and value + 2 * (row.deviations.get(column.name) or math.inf) < column.warn_below
        ]
    judged = [row.likelihood for row in rows if row.likelihood]
    if len({found.of for found in judged}) > 1:
        notes.append("These NLLs are of different things and cannot be compared.")
    elif any(len(row.likelihoods) > 1 for row in rows):
        finer = "NLLs of finer ones are in the JSON"
        notes.append(f"These are the coarsest test images that all models here can judge; {finer}.")
    return notes


def _about_budgets(models: Sequence[ScoreRow]) -> list[str]:
    """That scores after so many seconds say something of the machine, too."""
    budgets = [row.card.budget for row in models if row.card and row.card.budget]
    timed = list(dict.fromkeys(b for b in budgets if Budget.parse(b).unit == "seconds"))
    if len(models) < 2 or not timed:
        return []
    return [
        f"Machine dependent: trained for {' and '.join(timed)}, in which another machine trains "
        "further or less far; a budget in tflop or kimg repeats anywhere."
    ]


def _about_augmentation(models: Sequence[ScoreRow]) -> list[str]:
    """How each model learned from the training images, if not from all as they are."""
    names_of: dict[str | None, list[str]] = {}  # by augmentation
    for row in models:
        if row.card:
            names_of.setdefault(row.card.augmentation, []).append(row.name)
    if not any(names_of):
        return []
    how = (f"{how or 'all, as they are'} ({', '.join(names)})" for how, names in names_of.items())
    return [f"Training images and data options: {'; '.join(how)}."]


def _disagreements(ranking: Ranking) -> list[str]:
    """Where another score that could rank tells two models apart the other way round."""
    column, ranked = ranking.column, [row for row in ranking.models if row.rank]
    if column is None or not ranked:
        return []
    title, notes = plain_title(column), []
    for other in ranking.columns:
        if not other.ranks or plain_title(other) == title:
            continue
        compared = at_levels(other, ranking.levels) if ranking.levels else other
        pairs = [
            f"{second.name} before {first.name}"
            for place, first in enumerate(ranked)
            for second in ranked[place + 1 :]
            if not tie(first, second, column)
            and is_better(second, first, compared)
            and not tie(first, second, compared)
        ]
        if pairs:
            notes.append(
                f"{title} and {plain_title(other)} disagree: by {plain_title(other)} "
                f"{', '.join(pairs)}. Neither order is safe."
            )
    return notes


def plain_title(column: Column) -> str:
    """The first word of a column's title, which says what it is: "FID", "KID"."""
    return column.title.split()[0]


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
    if trainings := _several(rows):
        bars = (
            f"Means of {trainings} trainings: ± is half of their 95% confidence interval, and of "
            "calibration rows two standard deviations over samples."
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


def _several(rows: Sequence[ScoreRow]) -> int:
    """How many trainings the means of a table are of, 0 if each row is of one."""
    most = max(row.trainings for row in rows)
    return most if most > 1 else 0


def _about_row(row: ScoreRow) -> list[str]:
    notes = []
    if row.likelihood:
        notes.append(_about_likelihood(row.name, row.likelihood))
        if row.likelihood.leaks:
            notes.append(
                f"{row.name} finds its own samples far less likely than test images "
                f"(NLL {-(row.likelihood.own or 0):.1f} against {-row.likelihood.nats:.1f}): its "
                "likelihood may see what it must predict, or its sampler is not the model's"
            )
    if row.card and _trained_on_other_data(row.card):
        notes.append(f"{row.name} was trained on other data: {row.card.trained_on}")
    if row.memorisation and row.memorisation.flagged and not row.is_calibration:
        notes.append(_about_copies(row.name, row.memorisation))
    if row.card and row.card.labels:
        notes.append(f"{row.name} draws images by class; labels: {row.card.labels}")
    if row.warning:
        notes.append(f"{row.name}: {row.warning}")
    if row.error:
        notes.append(f"{row.name} failed: {row.error}")
    return notes


def _about_copies(name: str, found: NearestShares) -> str:
    if found.copies:
        return (
            f"{name} copies training images: at least {found.copies} of {found.copies_of:,} "
            "samples are closer to one than all but half a percent of unseen real images are; see "
            "neighbours.png in its run"
        )
    return (
        f"{name} may have learned training images by heart (near train, !): its samples are closer "
        "to these than to unseen images; see neighbours.png in its run"
    )


def _about_likelihood(name: str, found: Likelihood) -> str:
    kind = "exact" if found.kind == "exact" else "upper bound"
    draws = f" with {found.draws} importance samples" if found.draws else ""
    return f"{name}: {kind} NLL{draws} of {found.images:,} test images, {found.of}"


def _trained_on_other_data(card: ProtocolCard) -> bool:
    other = card.trained_on_fingerprint
    return bool(other) and other != card.data_fingerprint
