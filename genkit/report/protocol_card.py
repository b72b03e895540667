"""Protocol cards: what stands behind a score, and whether two scores may be compared. Light."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Two scores whose cards differ in one of these measure different things. The other entries are
# properties of the model (weights, precision), of chance (seeds) or of the machine (versions).
MATTERS = {
    "features": "features",
    "reference": "reference",
    "reference_images": "number of reference images",
    "data_fingerprint": "fingerprint of the data",
    "samples": "number of samples",
    "quantisation": "quantisation and resizing",
    "metrics": "metric",
}
FLAGGED = 0.6  # of samples closer to the training split: a larger share is marked as copies
Card = Mapping[str, Any]


def differences(cards: Mapping[str, Card]) -> list[str]:
    """In what the cards of several rows, by name, differ so that their scores must not be ranked:
    one line for each such entry, with the values and whose they are."""
    lines = []
    told = {name: dict(entries(card)) for name, card in cards.items()}
    for title in dict.fromkeys(title for texts in told.values() for title in texts):
        if title.partition(": ")[0] not in MATTERS.values():
            continue
        values: dict[str, list[str]] = {}
        for name, texts in told.items():
            values.setdefault(texts.get(title, "none"), []).append(name)
        if len(values) > 1:
            said = "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())
            lines.append(f"{title}: {said}")
    return lines


def entries(card: Card) -> Iterator[tuple[str, str]]:
    """What a card says, as pairs of a title and a text."""
    for key, value in card.items():
        title = MATTERS.get(key, key.replace("_", " "))
        if isinstance(value, Mapping):
            for name, inner in value.items():
                yield f"{title}: {name}", _text(inner)
        else:
            yield title, _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
