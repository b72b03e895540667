"""Records of scores: a row, what a comparison wrote, and the facts that it starts from.

Stored rows are read again from runs and from comparisons, whoever made them and when. Light.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from genkit.errors import GenkitError, UsageError
from genkit.io.files import JsonObject, read_json, write_json
from genkit.io.records import Record
from genkit.io.run_directory import RunDir
from genkit.report.protocol_card import Count, ProtocolCard, differences
from genkit.report.utility import Utility
from genkit.specs import Column

CALIBRATION = ("real", "copy", "noise")
ROUNDED_REAL = re.compile(r"real at \d+ levels")
COMPARISON = "compare.json"


class Likelihood(Record):
    """The mean log-likelihood of test images."""

    nats: float = Field(description="mean over the images, in nats")
    deviation: float | None = Field(
        None,
        description="standard error of that mean over the images, or its standard deviation over "
        "several trainings",
    )
    bits_per_dimension: float = Field(description="bits for each value of an image")
    kind: Literal["exact", "bound"] = Field(description='"bound": a lower bound on the likelihood')
    of: str = Field(description="what the probability is of; only equal ones compare")
    images: Count = Field(description="number of images")
    draws: Count | None = Field(None, description="importance samples of each image")
    elbo: float | None = Field(None, description="mean of the same log-weights, in nats")
    levels: Count | None = Field(
        None, description="levels that the test images were rounded to; 256 as they are"
    )
    own: float | None = Field(
        None, description="mean log-likelihood of the model's own samples, in nats"
    )
    own_deviation: float | None = Field(None, description="standard error of that mean")

    @property
    def leaks(self) -> bool:
        """Whether the model finds its own samples far less likely than test images: more than
        twice as many nats, and not by chance."""
        if self.own is None or self.nats >= 0:
            return False
        spread = math.hypot(self.deviation or 0.0, self.own_deviation or 0.0)
        return self.own < 2 * self.nats - 3 * spread


class NearestShares(Record):
    """How many samples are closer to the training split than to the test split.

    0.5 for images that no model has seen, 1 for copies.
    """

    images: Count | None = Field(None, description="samples looked at")
    pixels: float | None = Field(None, description="share by distances of pixels")
    pixels_deviation: float | None = Field(None, description="its standard deviation")
    features: float | None = Field(None, description="share by distances of features")
    features_deviation: float | None = Field(None, description="its standard deviation")
    copies: Count | None = Field(
        None, description="samples that are copies of training images, at least"
    )
    copies_of: Count | None = Field(None, description="samples that were looked at for these")
    flagged: bool = Field(
        False, description="a share is above 0.6, and not by chance, or there are copies"
    )


class Agreement(Record):
    """How many samples a classifier takes for the class that they were drawn of."""

    share: float = Field(description="share of the samples, 0 to 1")
    deviation: float = Field(description="its standard deviation over samples")


class ClassScores(Record):
    """Scores of the samples of one class against the training images of that class."""

    name: str = Field(description="the class")
    samples: Count = Field(description="samples drawn of it")
    agreement: Agreement | None = Field(None, description="those taken for it by the classifier")
    scores: dict[str, float | None] = Field(default_factory=dict, description="by column")
    deviations: dict[str, float | None] = Field(
        default_factory=dict, description="standard deviations over samples, by column"
    )


class ScoreRow(Record):
    """A row of a score table: a model, a file of samples or a calibration row.

    A field that does not apply is not written.
    """

    name: str = Field(description="the model's name, the samples' path, or real, copy or noise")
    run: str | None = Field(None, description="path of the run; null for what is not a run")
    scores: dict[str, float | None] = Field(
        default_factory=dict,
        description='by column; "COLUMN@2" is of samples and reference rounded to 2 levels',
    )
    deviations: dict[str, float | None] = Field(
        default_factory=dict,
        description="standard deviations by column: over samples, or over several trainings",
    )
    problems: tuple[str, ...] = Field((), description="what could not be measured, and why")
    memorisation: NearestShares | None = Field(None, description="signs of copied images")
    card: ProtocolCard | None = Field(None, description="what the scores were measured with")
    agreement: Agreement | None = Field(
        None, description="of samples drawn by class; null for a model without labels"
    )
    by_class: tuple[ClassScores, ...] = Field(
        (), description="scores of each class, if they were asked for"
    )
    utility: Utility | None = Field(None, description="by --utility")
    likelihood: Likelihood | None = Field(None, description="null for a model without one")
    likelihoods: tuple[Likelihood, ...] = Field(
        (), description="of each version of the test images that the model can judge"
    )
    parameters: Count | None = Field(None, description="numbers that training adjusts")
    images: Count | float | None = Field(None, description="images seen in training")
    seconds: float | None = Field(None, description="seconds of training")
    train_rate: float | None = Field(None, description="images a second in training")
    sample_rate: float | None = Field(None, description="images a second when sampling")
    error: str | None = Field(None, description="why training or scoring failed")
    warning: str | None = Field(None, description="which of several trainings failed")
    trainings: Count = Field(1, description="trainings that the numbers are means of")
    rank: Count | None = Field(None, description="from 1; null for a row that is not ranked")
    tied: bool = Field(False, description="another row cannot be told apart from it")

    @property
    def is_calibration(self) -> bool:
        """Whether it is one of the rows real, copy and noise, or of rounded real images."""
        return self.name in CALIBRATION or self.is_rounded_real

    @property
    def is_rounded_real(self) -> bool:
        """Whether it is a row of real images rounded to fewer levels."""
        return self.run is None and bool(ROUNDED_REAL.fullmatch(self.name))

    @property
    def place(self) -> str:
        """The rank for a table: "1", "2=" for one of several that cannot be told apart, or ""."""
        return "" if self.rank is None else f"{self.rank}=" if self.tied else str(self.rank)

    def to_json(self) -> JsonObject:
        """The row as JSON holds it, without fields that were never set."""
        return self.model_dump(mode="json", exclude_unset=True)


class Span(Record):
    """A process of a comparison, in seconds since the first one could begin."""

    what: str = Field(description="the model, or what is scored beside models")
    part: str = Field(description="training, scoring or likelihood")
    start: float = Field(description="when it began")
    end: float = Field(description="when it ended")


class ComparisonRecord(Record):
    """compare.json: what was compared, how it ranks and why."""

    command: tuple[str, ...] = Field((), description="the command that made it")
    data: str | None = Field(None, description="data set")
    budget: str | None = Field(None, description="budget of each training")
    preset: str | None = Field(None, description="preset of the models")
    seed: int = Field(0, description="seed of the first training of each model")
    seeds: int = Field(1, description="trainings of each model")
    ranked_by: str | None = Field(None, description="name of the column that ranks")
    not_ranked_because: tuple[str, ...] = Field(
        (), description="in what the models' cards differ; nothing is ranked then"
    )
    columns: tuple[Column, ...] = Field((), description="columns of scores, that which ranks first")
    rows: tuple[ScoreRow, ...] = Field(description="models in order of rank, then calibration rows")
    trainings: tuple[ScoreRow, ...] = Field((), description="a row for each training or run")
    timeline: tuple[Span, ...] = Field((), description="its processes, as they began")

    def to_json(self) -> JsonObject:
        """The content of compare.json."""
        return self.model_dump(mode="json", exclude_unset=True)


def write_evaluation(path: Path, rows: Iterable[ScoreRow]) -> None:
    """Write evaluation.json: the row of a run, and the calibration rows beside it."""
    write_json(path, [row.to_json() for row in rows])


def read_evaluation(path: Path) -> list[ScoreRow]:
    """The rows in a file, at least one; GenkitError, which names the field, if it is damaged."""
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise GenkitError(f"{path} holds no rows of scores")
    rows = []
    for number, row in enumerate(content):
        try:
            rows.append(ScoreRow.from_json(row))
        except ValueError as error:
            raise GenkitError(f"{path}: row {number}: {error}") from None
    return rows


def read_comparison(folder: Path) -> ComparisonRecord | None:
    """The compare.json in a folder, None if there is none.

    Raises:
        GenkitError: it is damaged, or holds no rows.
    """
    path = folder / COMPARISON
    if not path.is_file():
        return None
    record = ComparisonRecord.read(path)
    if not record.rows:
        raise GenkitError(f"{path} holds no rows of scores")
    return record


def read_rows(sources: Sequence[Path]) -> list[ScoreRow]:
    """The rows of runs and of folders of comparisons, the models' first.

    Of each calibration row there is one: that whose protocol differs least from the models', and
    of equals the first. Names that are there twice are told apart.

    Raises:
        UsageError: a source holds no scores.
        GenkitError: stored scores are damaged.
    """
    models: list[ScoreRow] = []
    others: list[ScoreRow] = []
    for source in sources:
        for row in _read(source):
            if row.is_calibration:
                others.append(row)
            else:
                models.append(row.model_copy(update={"run": row.run or str(source)}))
    models = tell_apart(models)
    cards = {str(row.run): row.card for row in models if row.card}

    def number_of_differences(row: ScoreRow) -> float:
        return len(differences({"row": row.card, **cards})) if row.card else math.inf

    calibration: dict[str, ScoreRow] = {}
    for row in sorted(others, key=number_of_differences):
        calibration.setdefault(row.name, row)
    return [*models, *sorted(calibration.values(), key=calibration_order)]


def calibration_order(row: ScoreRow) -> tuple[int, str]:
    """Sorts calibration rows: real images, as they are and rounded, copies, noise."""
    return CALIBRATION.index(row.name.partition(" ")[0]), row.name


def rounded_name(column: str, levels: int) -> str:
    """The name of a column's score of samples and reference rounded to so many levels."""
    return f"{column}@{levels}"


def tell_apart(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """The rows, those of equal names renamed: two runs of one model by the names of their folders,
    or by their paths where these are equal, too; what is left, such as one run with other options,
    by a number."""
    names = [row.name for row in rows]
    for name_of in (lambda run: Path(run).absolute().name, str):
        names = [
            name_of(row.run) if row.run and names.count(name) > 1 else name
            for name, row in zip(names, rows, strict=True)
        ]
    found: list[ScoreRow] = []
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        number = names[: place + 1].count(name)
        name = name if number == 1 else f"{name} ({number})"
        found.append(row if name == row.name else row.model_copy(update={"name": name}))
    return found


def _read(source: Path) -> Sequence[ScoreRow]:
    run = RunDir(source)
    if comparison := read_comparison(source):
        return comparison.rows
    if run.evaluation_path.is_file():
        first, *others = read_evaluation(run.evaluation_path)
        return [first.model_copy(update={"run": str(source)}), *others]
    if run.config_path.is_file():
        raise UsageError(f"{source} has not been scored; run: genkit evaluate {source}")
    raise UsageError(f"{source} is neither a run nor a folder of a comparison")


def features_name(rows: Iterable[ScoreRow]) -> str | None:
    """The name of the features behind rows, None if there are none."""
    return next((row.card.features_name for row in rows if row.card), None)
