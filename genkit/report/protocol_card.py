"""Protocol cards: what stands behind a score, and whether two scores may be compared. Light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, JsonValue

from genkit.io.files import JsonObject
from genkit.io.records import Record

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
Count = Annotated[int, Field(ge=0, le=10**18)]  # a larger one can be neither shown nor divided


class ProtocolCard(Record):
    """What a score was measured with. A field that does not apply is not written."""

    features: str | None = Field(
        description="identity of the feature extractor: its name, a hyphen and eight hex digits of "
        "the SHA-256 of its weights; null without features"
    )
    features_note: str = Field("", description="what the extractor says of itself in a line")
    reference: str | None = Field(description="name of the real images compared with")
    reference_images: Count = Field(description="number of these images")
    data: str | None = Field(None, description="data set")
    data_fingerprint: str = Field(description="hash of the data set's images")
    train_images: Count | None = Field(None, description="images in its training split")
    test_images: Count | None = Field(None, description="images in its test split")
    quantisation: str = Field(description="how images became bytes of the size that is scored")
    samples: Count = Field(description="number of samples scored")
    levels: Count | None = Field(
        None, description="levels that the samples have: 2 for black and white, 256 for all"
    )
    sample_seed: int | None = Field(None, description="seed that the samples were drawn with")
    labels: str | None = Field(
        None, description="how the samples' labels were drawn, for a model that follows labels"
    )
    sampler: dict[str, JsonValue] | None = Field(
        None, description="options of the model's sampler that are not at their defaults, by name"
    )
    weights: str | None = Field(
        None, description='"ema" or "raw", and ", best in training" for the best ones'
    )
    precision: str | None = Field(None, description="number format when sampling")
    training_precision: str | None = Field(None, description="number format in training")
    budget: str | None = Field(None, description="budget of the training")
    trained_on: str | None = Field(None, description="data set that the model was trained on")
    trained_on_fingerprint: str | None = Field(None, description="hash of that data set's images")
    augmentation: str | None = Field(
        None, description="how training images were learned from, as data options"
    )
    metrics: dict[str, str] = Field(description="definition of each metric by name")
    versions: dict[str, str] = Field(
        default_factory=dict, description="version of each distribution that computed the scores"
    )

    @property
    def features_name(self) -> str | None:
        """The feature extractor's name, without the hash of its weights."""
        return (self.features or "").rpartition("-")[0] or None

    def to_json(self) -> JsonObject:
        """The card as JSON holds it, without fields that were never set."""
        return self.model_dump(mode="json", exclude_unset=True)

    def lines(self) -> dict[str, str]:
        """The card for people: titles and texts."""
        return card_lines(self.to_json())


def differences(cards: Mapping[str, ProtocolCard]) -> list[str]:
    """In what the cards of several rows, by name, differ so that their scores must not be ranked:
    one line for each such entry, with the values and whose they are."""
    found = []
    lines = {name: card.lines() for name, card in cards.items()}
    for title in dict.fromkeys(title for texts in lines.values() for title in texts):
        if title.partition(": ")[0] not in MATTERS.values():
            continue
        names_of: dict[str, list[str]] = {}  # by value
        for name, texts in lines.items():
            names_of.setdefault(texts.get(title, "none"), []).append(name)
        if len(names_of) > 1:
            values = (f"{value} ({', '.join(names)})" for value, names in names_of.items())
            found.append(f"{title}: {'; '.join(values)}")
    return found


def card_lines(table: Mapping[str, Any]) -> dict[str, str]:
    """A table of JSON values, at most one level deep, as titles and texts."""
    lines = {}
    for key, value in table.items():
        title = MATTERS.get(key, key.replace("_", " "))
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        for name, each in inner:
            lines[f"{title}: {name}" if name else title] = _text(each)
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
