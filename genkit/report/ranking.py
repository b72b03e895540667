"""Which model is better, and whether that can be said: ranks, ties, refusals and footnotes. Light.

Computes no score; rows are as `genkit.evaluation.evaluator` makes them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genkit.errors import UsageError
from genkit.registry.catalogue import Registry
from genkit.report.protocol_card import differences
from genkit.specs import Column

Row = Mapping[str, Any]
CALIBRATION = ("real", "copy", "noise")
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
        rows: each with "rank" (None for no rank) and "tied".
        columns: of the scores; the one that ranks first.
        column: the one that ranks, or None.
        refusals: in what the models' cards differ; nothing is ranked then.
    """

    rows: list[dict[str, Any]]
    columns: list[Column]
    column: Column | None
    refusals: list[str]

    @staticmethod
    def place(row: Row) -> str:
        """The rank for a table: "1", "2=" for one of several that cannot be told apart, or ""."""
        rank = row.get("rank")
        return "" if rank is None else f"{rank}=" if row.get("tied") else str(rank)


def score_columns(registry: Registry) -> list[Column]:
    """The columns of all metrics, those that may rank first."""
    columns = [column for entry in registry.metrics.values() for column in entry.spec.columns]
    shown = [column for column in columns if column.shown]
    return sorted(shown, key=lambda column: not column.ranks)


def choose_column(
    columns: Sequence[Column], rows: Sequence[Row], name: str | None
) -> Column | None:
    """What ranks: the column of that name; else the first that may, and below 5,000 samples the
    first of these that is unbiased. UsageError for a name that cannot rank."""
    able = [column for column in columns if column.ranks]
    if name:
        for column in able:
            if column.name == name:
                return column
        known = ", ".join(column.name for column in able)
        raise UsageError(f"--rank-by {name!r} is no score that ranks; there are: {known}")
    samples = [row["card"]["samples"] for row in rows if row.get("card")]
    few = min(samples, default=0) < FEW_SAMPLES
    unbiased = [column for column in able if column.unbiased]
    return next(iter(unbiased if few and unbiased else able), None)


def rank(rows: Sequence[Row], columns: Sequence[Column], name: str | None = None) -> Ranking:
    """Rank rows by one column, unless the cards of two models differ in what matters.

    A model's rank is 1 plus the number of models that are better than it by more than two
    standard deviations of the difference and by more than 1.3%: models closer than that are tied.
    """
    models = [row for row in rows if row["name"] not in CALIBRATION]
    column = choose_column(columns, models, name)
    cards = {str(row["name"]): row["card"] for row in models if row.get("card")}
    refusals = differences(cards)
    scored = [row for row in models if not math.isnan(_value(row, column))]
    ordered = sorted(scored, key=lambda row: _badness(row, column))
    result: list[dict[str, Any]] = []
    for row in ordered:
        tied = any(tie(row, other, column) for other in scored if other is not row)
        better = sum(
            _badness(other, column) < _badness(row, column) and not tie(row, other, column)
            for other in scored
        )
        result.append({**row, "rank": None if refusals else 1 + better, "tied": tied})
    if refusals:
        result = [{**row, "rank": None, "tied": False} for row in models]
    else:
        result += [{**r, "rank": None, "tied": False} for r in models if r not in scored]
    for calibration in CALIBRATION:
        result += [{**r, "rank": None, "tied": False} for r in rows if r["name"] == calibration]
    first = [column] if column else []
    return Ranking(result, [*first, *(c for c in columns if c is not column)], column, refusals)


def tie(one: Row, other: Row, column: Column | None) -> bool:
    """Whether two rows are too close to be told apart."""
    if column is None:
        return True
    a, b = _value(one, column), _value(other, column)
    spread = math.hypot(_deviation(one, column), _deviation(other, column))
    return abs(a - b) <= max(2 * spread, INCONCLUSIVE * min(abs(a), abs(b)))


def _value(row: Row, column: Column | None) -> float:
    value = (row.get("scores") or {}).get(column.name) if column else None
    return math.nan if value is None else float(value)


def _badness(row: Row, column: Column | None) -> float:
    value = _value(row, column)
    return -value if column and column.better == "higher" else value


def _deviation(row: Row, column: Column) -> float:
    return float((row.get("deviations") or {}).get(column.name) or 0.0)


def average(rows: Sequence[Row]) -> dict[str, Any]:
    """One row for several trainings of a model: means, and standard deviations over those
    trainings that came through.

    Args:
        rows: of one model with different seeds, at least one.
    """
    done = [row for row in rows if not row.get("error")]
    errors = [str(row["error"]) for row in rows if row.get("error")]
    if len(rows) == 1 or not done:
        return dict(rows[0])
    result = dict(done[0])
    if errors:
        result["warning"] = f"{len(errors)} of {len(rows)} trainings failed: {errors[0]}"
    if len(done) == 1:
        return result

    def over(values: Sequence[float]) -> tuple[float, float]:
        return statistics.fmean(values), statistics.stdev(values)

    for key in ("images", "seconds", "train_rate", "sample_rate"):
        if all(row.get(key) is not None for row in done):
            result[key], _ = over([row[key] for row in done])
    result["scores"], result["deviations"] = {}, {}
    for name in done[0]["scores"]:
        if all(name in row["scores"] for row in done):
            mean, deviation = over([row["scores"][name] for row in done])
            result["scores"][name], result["deviations"][name] = mean, deviation
    if all(row.get("likelihood") for row in done):
        found = [row["likelihood"] for row in done]
        nats, deviation = over([each["nats"] for each in found])
        bits, _ = over([each["bits_per_dimension"] for each in found])
        result["likelihood"] = {**found[0], "nats": nats, "bits_per_dimension": bits}
        result["likelihood"]["deviation"] = deviation
    memorised = [row["memorisation"] for row in done if row.get("memorisation")]
    if memorised:  # one copier among the trainings is one too many
        result["memorisation"] = max(memorised, key=lambda m: (m["flagged"], m["pixels"]))
    return {**result, "trainings": len(done)}


def footnotes(ranking: Ranking) -> list[str]:
    """What the numbers are of, how sure they are, and why rows are missing some."""
    rows, notes = ranking.rows, list[str]()
    cards = [row["card"] for row in rows if row.get("card")]
    if cards and cards[0]["features"]:
        card = cards[0]
        counts: dict[int, list[str]] = {}
        for row in rows:
            if row.get("card"):
                counts.setdefault(row["card"]["samples"], []).append(str(row["name"]))
        most, *others = sorted(counts, key=lambda count: -len(counts[count]))
        exceptions = "".join(f" ({', '.join(counts[count])}: {count:,})" for count in others)
        about = f" ({card['features_note']})" if card.get("features_note") else ""
        notes.append(
            f"{most:,} samples{exceptions}; features "
            f"{card['features']}{about}; reference {card['reference']}, "
            f"{card['reference_images']:,} images."
        )
        trainings = max((row.get("trainings", 1) for row in rows), default=1)
        if trainings > 1:
            notes.append(
                f"± is two standard deviations over {trainings} trainings, and of calibration rows "
                "over samples."
            )
        else:
            notes.append(
                "± is two standard deviations over samples of one training (20-block jackknife); "
                "another training moves scores more: compare --seeds 3."
            )
    if ranking.refusals:
        notes.append("Not ranked, since these scores measure different things:")
        notes += [f"  {line}" for line in ranking.refusals]
    elif ranking.column and any(row["rank"] for row in rows):
        title = ranking.column.title.partition("\n")[0]
        why = ", which is unbiased where samples are few" if ranking.column.unbiased else ""
        ties = any(row["tied"] for row in rows)
        equal = "; = could not be told apart (two standard deviations or 1.3%)" if ties else ""
        notes.append(f"Ranked by {title}{why}{equal}.")
    present = [MEANINGS[str(row["name"])] for row in rows if row["name"] in MEANINGS]
    if present:
        notes.append(f"{'; '.join(present)}.")
    for row in rows:
        notes += _about(row)
    if len({row["likelihood"]["of"] for row in rows if row.get("likelihood")}) > 1:
        notes.append("These NLLs are of different things and cannot be compared.")
    return notes


def _about(row: Row) -> list[str]:
    notes = []
    name, card = row["name"], row.get("card") or {}
    found = row.get("likelihood")
    if found:
        kind = "exact" if found["kind"] == "exact" else "upper bound"
        draws = f" with {found['draws']} importance samples" if found.get("draws") else ""
        notes.append(f"{name}: {kind} NLL{draws} of {found['images']:,} test images, {found['of']}")
    other = card.get("trained_on_fingerprint")
    if other and other != card.get("data_fingerprint"):
        notes.append(f"{name} was trained on other data: {card.get('trained_on')}")
    memorised = row.get("memorisation") or {}
    if memorised.get("flagged") and name not in CALIBRATION:
        notes.append(
            f"{name} may have learned training images by heart (near train, !): its samples are "
            "closer to these than to unseen images; see neighbours.png in its run"
        )
    if row.get("warning"):
        notes.append(f"{name}: {row['warning']}")
    if row.get("error"):
        notes.append(f"{name} failed: {row['error']}")
    return notes
