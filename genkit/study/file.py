"""Study files: what is trained, with which options and seeds, and what a page says of it.

A file holds names and values only; whether a model has such options is checked with the models.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from genkit.config.budget import Budget
from genkit.config.validation import suggest, validate
from genkit.errors import UsageError, reason_of
from genkit.report.rows import CALIBRATION
from genkit.specs import Config

Value = bool | int | float | str
Options = dict[str, Value]
Seeds = Annotated[int, Field(ge=1, le=100)]
Samples = Annotated[int, Field(ge=10, le=1_000_000)]
LABEL = r"[^\x00-\x1f\x7f]{1,40}"


class Case(Config):
    """What is trained once for each seed: a model with options."""

    label: str = Field("", pattern=f"^{LABEL}$", description="name in tables and charts")
    text: str = Field("", description="what is different, in a sentence or two")
    model: str = Field("", description="name of the model; default: the study's")
    cures: str = Field(
        "",
        description="label of a case that fails; this one has its options and data options, too",
    )
    options: Options = Field({}, description="options of the model, as --config files name them")
    data_options: Options = Field({}, description="options of the data set, beside the study's")

    @property
    def slug(self) -> str:
        """The label as part of a folder's name."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")


class Quick(Config):
    """What --quick takes instead, where it is given."""

    budget: str | None = Field(None, description="of each training")
    seeds: Seeds | None = Field(None, description="trainings of each case")
    samples: Samples | None = Field(None, description="samples to score")

    @field_validator("budget")
    @classmethod
    def _budget_is_readable(cls, text: str | None) -> str | None:
        if text is not None:
            Budget.parse(text)
        return text


class StudyFile(Config):
    """A study as its file describes it."""

    title: str = Field("", min_length=1, max_length=200, description="heading of the page")
    text: str = Field("", description="what the study asks; paragraphs end with an empty line")
    model: str = Field("", description="name of the model of cases that name none")
    data: str | None = Field(None, description="data set; default: the default data set")
    data_options: Options = Field({}, description="options of the data set")
    preset: str = Field("quick", description="preset of the models")
    budget: str = Field("", description="of each training, such as 3000steps")
    seeds: Seeds = Field(3, description="trainings of each case, with seeds from 0 on")
    samples: Samples = Field(2000, description="samples to score")
    features: str | None = Field(None, description="feature extractor; default: the data set's")
    score: str | None = Field(None, description="name of the score that the study looks at")
    grids: int = Field(20, ge=0, le=1000, description="sample grids over each training")
    watch: int = Field(256, ge=0, le=100_000, description="samples looked at with each grid")
    log_every: int = Field(50, ge=1, le=10**9, description="iterations between lines of the log")
    curves: tuple[str, ...] = Field((), description="what is plotted over training, by its name")
    reference: str = Field("", description="label of a case that stands beside each failure")
    options: Options = Field({}, description="options of the models of all cases")
    quick: Quick = Field(Quick(), description="what --quick takes instead")
    cases: tuple[Case, ...] = Field((), min_length=1, max_length=100, description="the cases")

    @field_validator("budget")
    @classmethod
    def _budget_is_readable(cls, text: str) -> str:
        Budget.parse(text)
        return text

    @model_validator(mode="after")
    def _cases_fit_together(self) -> Self:
        labels, failures = [case.label for case in self.cases], set[str]()
        for name in ("label", "slug"):
            values = [getattr(case, name) for case in self.cases]
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"two cases have the {name} {twice[0]!r}; name each once")
        for case in self.cases:
            if not case.slug or case.label in CALIBRATION:
                raise ValueError(f"cases: label {case.label!r} cannot be used; choose another one")
            if case.cures and case.cures not in failures:
                raise ValueError(
                    f"case {case.label!r}: cures {case.cures!r}, which is not a case above it that "
                    f"cures none itself.{suggest(case.cures, failures)}"
                )
            if not case.cures:
                failures.add(case.label)
            if not (case.model or self.model):
                raise ValueError(f"case {case.label!r} names no model, nor does the study")
        if self.reference and self.reference not in labels:
            raise ValueError(
                f"reference {self.reference!r} is no case's label.{suggest(self.reference, labels)}"
            )
        return self

    def cured_by(self, case: Case) -> list[Case]:
        """The cases that cure one."""
        return [other for other in self.cases if other.cures == case.label]

    def options_of(self, case: Case) -> dict[str, str]:
        """A case's options of the model as texts: the study's, those of the failure, its own."""
        return texts({**self.options, **self._failure_of(case).options, **case.options})

    def data_options_of(self, case: Case) -> tuple[str, ...]:
        """A case's options of the data set beside the study's, as KEY=VALUE."""
        return pairs({**self._failure_of(case).data_options, **case.data_options})

    def _failure_of(self, case: Case) -> Case:
        return next((each for each in self.cases if each.label == case.cures), case)

    def with_quick(self) -> StudyFile:
        """The study as --quick runs it."""
        given = {name: value for name, value in self.quick if value is not None}
        return self.model_copy(update=given)


def texts(options: Mapping[str, Value]) -> dict[str, str]:
    """Values as one types them; hyphens in names count as underscores."""
    return {
        name.replace("-", "_"): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in options.items()
    }


def pairs(options: Mapping[str, Value]) -> tuple[str, ...]:
    """Options as KEY=VALUE."""
    return tuple(f"{name}={value}" for name, value in texts(options).items())


def read_study(path: Path) -> StudyFile:
    """Read a study file; UsageError, which names key and value, if it cannot be used."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason_of(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    return validate(StudyFile, content, f"{path}: ", strict=True)
