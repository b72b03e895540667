"""The options that every run has, as one checked config. It never holds an import path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic.config import JsonDict

from genkit.config.budget import Budget
from genkit.specs import Config

HALF_LIVES = re.compile(r"\d{1,9}[kM]?(,\d{1,9}[kM]?)*")  # such as 10k,50k
FIXED: JsonDict = {"fixed": True}  # of an option: it cannot change when a run is resumed


class RunConfig(Config):
    """What every run has, whatever it trains."""

    data: str | None = Field(
        None, description="data set: NAME, folder:PATH, prepared:PATH or npz:PATH"
    )
    data_root: Path | None = Field(
        None, description="folder where data sets live (also GENKIT_DATA)"
    )
    data_option: tuple[str, ...] = Field(
        (), description="KEY=VALUE option of the data set, repeatable, such as size=64"
    )
    budget: str = Field(
        "10m",
        description="how long: 90s, 10m, 2h, 200kimg, 5000steps or 20epochs of training, or "
        "10tflop (10^12 floating-point operations)",
    )
    cooldown: str = Field(
        "0%",
        description="share of the budget at its end in which learning rates fall to zero linearly, "
        "such as 20%; for budgets that are not in seconds",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="start of all randomness: weights, data order, noise",
        json_schema_extra=FIXED,
    )
    from_run: Path | None = Field(
        None,
        description="run of the same kind of model to take the first weights from: those whose "
        "names and shapes fit",
        json_schema_extra={**FIXED, "flag": "--from"},
    )
    averages: str = Field(
        "",
        description="half-lives in images, such as 50k,500k, of further averages of the weights; "
        "also the second and more of --ema-half-life 10k,50k,500k. With each grid the average "
        "whose samples score best is a candidate for the best weights",
        json_schema_extra=FIXED,
    )
    device: str = Field(
        "auto", description="auto, cpu, cuda, cuda:1 or mps", json_schema_extra=FIXED
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="auto: the faster one, by timing a few iterations of the model",
        json_schema_extra=FIXED,
    )
    threads: int = Field(
        1,
        ge=0,
        le=1024,
        description="CPU threads, on which the results' last bits depend; auto: as many as are "
        "fastest at the moment",
        json_schema_extra={"words": {"auto": 0}},
    )
    compile: bool = Field(
        False, description="compile the losses with torch.compile; the first step takes a minute"
    )
    cuda_graphs: bool = Field(
        False,
        description="on one GPU, record an iteration and replay it, for small networks that wait "
        "for Python; what cannot be recorded runs as it is",
    )
    accumulate: int = Field(
        1,
        ge=1,
        le=65_536,
        description="parts a batch is split into to save memory; gradients add up",
        json_schema_extra=FIXED,
    )
    log_every: int = Field(
        50, ge=1, le=10**9, description="iterations between lines in metrics.jsonl"
    )
    grids: int = Field(10, ge=0, le=10**6, description="sample grids to write over the run")
    watch: int = Field(
        256,
        ge=0,
        le=100_000,
        description="samples looked at with each grid: the best weights are kept and a collapse "
        "is reported; 0: none",
    )
    best_by: Literal["score", "likelihood"] = Field(
        "score",
        description="what the best weights are best by: the score of watched samples, or the "
        "likelihood of test images",
        json_schema_extra=FIXED,
    )
    checkpoint_seconds: float = Field(
        60, gt=0, description="seconds between checkpoints; one more is written at the end"
    )

    @field_validator("data", "data_root", "from_run", "device")
    @classmethod
    def _text_can_be_used(cls, value: str | Path | None) -> str | Path | None:
        if "\0" in str(value):
            raise ValueError(f"{str(value)!r} holds a NUL character")
        return value

    @field_validator("threads", mode="before")
    @classmethod
    def _auto_is_zero(cls, value: Any) -> Any:
        return 0 if value == "auto" else value

    @field_validator("budget")
    @classmethod
    def _budget_is_readable(cls, text: str) -> str:
        Budget.parse(text)
        return text

    @field_validator("cooldown")
    @classmethod
    def _cooldown_is_a_share_of_known_steps(cls, text: str, info: ValidationInfo) -> str:
        if not _share(text):
            return text
        budget = info.data.get("budget")  # missing if it was refused
        if budget and Budget.parse(budget).unit == "seconds":
            raise ValueError(
                f"{text} of {budget} is not a number of steps known beforehand; give --budget in "
                "steps, kimg or epochs"
            )
        return text

    @field_validator("averages")
    @classmethod
    def _averages_are_readable(cls, text: str) -> str:
        read_half_lives(text)
        return text

    @field_validator("data_option")
    @classmethod
    def _options_are_pairs(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        for pair in pairs:
            if not pair.partition("=")[0].strip() or "=" not in pair:
                raise ValueError(f"{pair!r} is not an option of a data set; write KEY=VALUE")
        return pairs

    @property
    def cooldown_share(self) -> float:
        """The share of the budget in which learning rates fall, 0 to 1."""
        return _share(self.cooldown)

    @property
    def average_half_lives(self) -> list[int]:
        """Half-lives of the further averages, in images."""
        return read_half_lives(self.averages)

    @property
    def data_options(self) -> dict[str, str]:
        """The data set's options as a mapping."""
        return dict(pair.split("=", 1) for pair in self.data_option)


def read_half_lives(text: str) -> list[int]:
    """The numbers of images in a text like "50k,500k"; ValueError for another text."""
    found = []
    for part in filter(None, text.replace(" ", "").split(",")):
        match = re.fullmatch(r"(\d{1,9})(k|M)?", part)
        if not match or not int(match[1]):
            raise ValueError(f"{part!r} is not a number of images; write for instance 50k,500k")
        found.append(int(match[1]) * {None: 1, "k": 1000, "M": 10**6}[match[2]])
    if len(set(found)) < len(found):
        raise ValueError(f"{text!r} names an average twice")
    return found


def _share(text: str) -> float:
    """The share, 0 to 1, in a text like "20%"; ValueError for another text."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", text.strip())
    if not match or not 0 <= float(match[1]) <= 100:
        raise ValueError(f"{text!r} is not a share; write for instance 20%")
    return float(match[1]) / 100
