"""One row for several trainings of a model. Light."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from genkit.report.rows import Likelihood, ScoreRow


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
        changes["likelihood"] = _mean_likelihood(likelihoods)
        versions = zip(*(row.likelihoods for row in rows), strict=False)
        changes["likelihoods"] = tuple(_mean_likelihood(version) for version in versions)
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


def _mean_likelihood(found: Sequence[Likelihood]) -> Likelihood:
    """The mean of likelihoods of the same images by several trainings; that of own samples is the
    worst, since one training that leaks must not be averaged away."""
    nats = [each.nats for each in found]
    worst = min(found, key=lambda each: math.inf if each.own is None else each.own)
    changes: dict[str, Any] = {
        "nats": statistics.fmean(nats),
        "bits_per_dimension": statistics.fmean(each.bits_per_dimension for each in found),
        "deviation": statistics.stdev(nats),
    }
    if worst.own is not None:
        changes |= {"own": worst.own, "own_deviation": worst.own_deviation}
    return found[0].model_copy(update=changes)
