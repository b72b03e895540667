"""What a run writes of itself: its config.json, its summary.json, and the progress it reports.

The descriptions of the fields are their documentation. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, field_validator, model_validator
from pydantic.config import JsonDict

from genkit.io.files import JsonObject, parse_json
from genkit.io.records import BestPointer, Record
from genkit.specs import Attributes, ImageShape

SCHEMA = 1  # of config.json
MOST_PIXELS = 8192  # a side, of the images a run's config.json may ask for
MOST_CLASSES = 1_000_000
FIXED: JsonDict = {"fixed": True}  # of a field: another value would make it another run


Share = Annotated[float, Field(ge=0, le=1)]


class ShapeRecord(Record):
    """The shape of a run's images. Bounded, since the file may come from anybody."""

    model_config = ConfigDict(extra="forbid")

    channels: int = Field(
        ge=1, le=4, description="1 for grey, 3 for RGB; 2 and 4: the same with alpha"
    )
    height: int = Field(ge=1, le=MOST_PIXELS, description="pixels")
    width: int = Field(ge=1, le=MOST_PIXELS, description="pixels")
    classes: int = Field(0, ge=0, le=MOST_CLASSES, description="number of classes; 0: no labels")

    @classmethod
    def of(cls, shape: ImageShape) -> ShapeRecord:
        return cls(
            channels=shape.channels, height=shape.height, width=shape.width, classes=shape.classes
        )

    def shape(self) -> ImageShape:
        """The same as models and data sets take it."""
        return ImageShape(self.channels, self.height, self.width, self.classes)


class AttributesRecord(Record):
    """What the classes are combinations of."""

    names: tuple[str, ...] = Field(description="names of the attributes")
    values: tuple[tuple[float, ...], ...] = Field(
        description="a row for each class, with a value for each attribute"
    )


class DataRecord(Record):
    """The data that a run was trained on."""

    name: str | None = Field(None, description="as given with --data")
    fingerprint: str | None = Field(
        None, description="SHA-256 of all images and labels", json_schema_extra=FIXED
    )
    augmentation: str | None = Field(
        None,
        description="how training images were learned from, as data options: "
        "flip=true shift=2; null: all of them, as they are",
        json_schema_extra=FIXED,
    )
    train_images: int | None = Field(None, description="images in the training split")
    test_images: int | None = Field(None, description="images in the test split")
    classes: tuple[str, ...] = Field((), description="names of the classes, in order")
    class_shares: tuple[Share, ...] = Field(
        (), description="share of each class among the training images, in order"
    )
    mean: float = Field(
        0.0, ge=-1, le=1, description="mean of the training images' values in [-1, 1]"
    )
    deviation: float = Field(1.0, ge=0, le=1, description="their standard deviation")
    attributes: AttributesRecord | None = Field(
        None, description="of classes that are combinations; null for others"
    )


class FrozenRecord(Record):
    """A run that a model uses and does not train, of which `runs/NAME/` holds a copy."""

    model: str = Field(description="name of its trainer")
    sha256: str = Field(description="of its model.safetensors, in hex")


class StartRecord(Record):
    """What a training took from the run of --from."""

    sha256: str = Field(description="of that run's model.safetensors, in hex")
    taken: int = Field(description="number of weights with a name and shape of this model")
    left: tuple[str, ...] = Field((), description="weights of this model that began as new")
    unused: tuple[str, ...] = Field((), description="weights of that run that this model lacks")


class Tf32(Record):
    """Where fp32 may be computed with TF32, which has 10 bits of mantissa."""

    convolutions: bool = Field(description="in convolutions")
    matrices: bool = Field(description="in matrix products")


class Provenance(Record):
    """Where a run comes from: what is needed to repeat it."""

    genkit: str | None = Field(None, description="version of genkit")
    plugin: str | None = Field(None, description="distribution and version the model comes from")
    plugin_hash: str | None = Field(None, description="SHA-256 of the model's file, if it is one")
    torch: str | None = Field(None, description="version of PyTorch")
    python: str | None = Field(None, description="version of Python")
    versions: dict[str, str] = Field(
        {}, description="versions of the distributions that plugins ask to have recorded"
    )
    gpu: str | None = Field(None, description="name of the GPU; none on a machine without one")
    tf32: Tf32 | None = Field(None, description="whether the GPU may use TF32")
    cudnn_benchmark: bool | None = Field(None, description="whether cuDNN timed its algorithms")
    command: tuple[str, ...] = Field((), description="the command line")
    commit: str | None = Field(None, description="git commit of the working directory")
    started: str | None = Field(None, description="local time of the start, ISO 8601")


class RunRecord(Record):
    """config.json: what was trained on what, with which options, and where all of it comes from.

    Only the first fields are needed to sample. What is None, other commands do without.
    """

    schema_version: int = Field(SCHEMA, alias="schema", description="version of this format")
    model: str = Field(description="name of the trainer", json_schema_extra=FIXED)
    run: dict[str, JsonValue] = Field(description="options that every run has, by name")
    options: dict[str, JsonValue] = Field(
        description="the model's own options, by name", json_schema_extra=FIXED
    )
    image_shape: ShapeRecord = Field(
        description="shape of one image, and the number of classes", json_schema_extra=FIXED
    )
    runs: dict[str, FrozenRecord] = Field(
        {},
        description="other runs that the model uses, by the option that names them",
        json_schema_extra=FIXED,
    )
    start: StartRecord | None = Field(None, description="weights taken from the run of --from")
    sources: dict[str, str] = Field(
        {}, description="where each option came from: default, preset, file or given"
    )
    data: DataRecord = Field(DataRecord(), description="the data set")
    precision: str | None = Field(
        None, description="fp32 or bf16, as trained", json_schema_extra=FIXED
    )
    precision_seconds: dict[str, float] = Field(
        {}, description="of an iteration in fp32 and bf16, if the choice was by timing them"
    )
    device: str | None = Field(None, description="the device, as trained", json_schema_extra=FIXED)
    ranks: int = Field(1, description="number of processes that trained together")
    parameters: int | None = Field(None, description="number of trainable parameters")
    flop_per_image: float | None = Field(
        None,
        description="floating-point operations of training per image, if the budget is in them",
    )
    training: dict[str, JsonValue] | None = Field(
        None, description="in an exported run: what its summary.json said"
    )
    provenance: Provenance = Field(Provenance(), description="versions, command and commit")

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """As of every record. Older files hold the versions of other distributions beside the
        fields of `provenance`."""
        origin = content.get("provenance") if isinstance(content, Mapping) else None
        if isinstance(origin, Mapping) and "versions" not in origin:
            others = {key: origin[key] for key in origin if key not in Provenance.model_fields}
            versions = {key: value for key, value in others.items() if isinstance(value, str)}
            content = {**content, "provenance": {**origin, "versions": versions}}
        return super().from_json(content)

    @field_validator("schema_version")
    @classmethod
    def _is_known(cls, version: int) -> int:
        if version > SCHEMA:
            raise ValueError(
                f"a newer genkit wrote it, this one knows schema {SCHEMA}; update genkit"
            )
        return version

    def model_shape(self) -> ImageShape:
        """The image shape that the model is built for, with the facts about its training images."""
        found = self.data.attributes
        return replace(
            self.image_shape.shape(),
            class_shares=self.data.class_shares,
            class_names=self.data.classes,
            train_images=self.data.train_images or 0,
            mean=self.data.mean,
            deviation=self.data.deviation,
            attributes=Attributes(found.names, found.values) if found else None,
        )

    @model_validator(mode="after")
    def _classes_fit(self) -> RunRecord:
        shares = self.data.class_shares
        if shares and (len(shares) != self.image_shape.classes or not sum(shares) > 0):
            raise ValueError(
                f"{len(shares)} class_shares do not fit {self.image_shape.classes} classes"
            )
        if made := self.data.attributes:
            fits = all(len(row) == len(made.names) for row in made.values)
            if len(made.values) != self.image_shape.classes or not fits:
                raise ValueError(f"attributes do not fit {self.image_shape.classes} classes")
        return self

    def to_json(self) -> JsonObject:
        """What was recorded, without the fields that are at their defaults."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Summary(Record):
    """summary.json: how far a run has come. Written with each checkpoint."""

    step: int = Field(description="iterations done")
    images: int = Field(description="training images seen")
    seconds: float = Field(description="of training; sample grids and checkpoints do not count")
    images_per_second: float = Field(description="images by seconds")
    weights: str = Field("ema", description="what model.safetensors holds: ema or raw")
    best: BestPointer | None = Field(
        None, description="the weights whose samples scored best, as in checkpoints/best.json"
    )
    warnings: tuple[str, ...] = Field((), description="warnings so far, in order")


class ClockMark(Record):
    """A line of clock.jsonl: how progress runs from one step to another, for budgets in seconds."""

    budget: float = Field(gt=0, description="the budget, in seconds")
    step: int = Field(ge=0, description="iterations done when time was measured")
    seconds: float = Field(ge=0, description="of training until then")
    share: float = Field(ge=0, le=1, description="progress at this step: share of the budget used")
    per_step: float = Field(ge=0, description="what each later step adds to progress")
    until: int = Field(ge=1, description="the step at which time is measured again")


class Started(Record):
    """Work begins; a line of --progress json."""

    event: Literal["start"] = "start"
    title: str = Field(description="what the work is called")


class Message(Record):
    """A sentence for the user; a line of --progress json."""

    event: Literal["message"] = "message"
    message: str = Field(description="the sentence")


class ProgressState(Record):
    """How far work has come; a line of --progress json. What is not known is left out."""

    event: Literal["update"] = "update"
    fraction: float = Field(description="share of the work that is done, 0 to 1 and above")
    stage: str | None = Field(None, description="part of the work")
    step: int | None = Field(None, description="iterations done")
    images: int | None = Field(None, description="images done")
    images_per_second: float | None = Field(None, description="rate since the last log line")
    seconds_left: float | None = Field(None, description="estimate for the rest of the work")
    values: dict[str, float] = Field({}, description="last values of the log, by name")
    score: dict[str, float] = Field({}, description="last score of samples, by its column")


Event = Started | Message | ProgressState
EVENTS: dict[str, type[Event]] = {
    "start": Started,
    "message": Message,
    "update": ProgressState,
}


def write_event(event: Event) -> str:
    """An event as one line of JSON, without what is not known."""
    return json.dumps(
        {"event": event.event, **event.model_dump(mode="json", exclude_defaults=True)}
    )


def read_event(line: str) -> Event | None:
    """The event in a line; None for anything else, such as what a plugin printed."""
    try:
        content = parse_json(line)
        return EVENTS[content["event"]].from_json(content)
    except (ValueError, KeyError, TypeError):
        return None
