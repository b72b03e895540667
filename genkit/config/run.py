"""The options of a run: from command line, file and preset to one checked config, and back to JSON.

Command-line options are made from config classes; a config never holds an import path.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

from genkit.config.budget import Budget
from genkit.errors import GenkitError, PluginError, UsageError, one_line, printable
from genkit.specs import Config, TrainerSpec

C = TypeVar("C", bound=Config)


class RunConfig(Config):
    """What every run has, whatever it trains."""

    data: str = Field(
        "mnist-mini", description="data set: NAME, folder:PATH, prepared:PATH or npz:PATH"
    )
    data_root: Path | None = Field(
        None, description="folder where data sets live (also GENKIT_DATA)"
    )
    data_option: tuple[str, ...] = Field(
        (), description="KEY=VALUE option of the data set, repeatable, such as size=64"
    )
    budget: str = Field(
        "10m", description="how long: 90s, 10m, 2h, 200kimg, 5000steps or 20epochs of training"
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="start of all randomness: weights, data order, noise"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto takes bf16 where the machine is fast at it"
    )
    threads: int = Field(
        1,
        ge=0,
        le=1024,
        description="CPU threads, on which the results' last bits depend; auto: as many as are "
        "fastest at this moment",
        json_schema_extra={"words": {"auto": 0}},
    )
    compile: bool = Field(
        False, description="compile the losses with torch.compile; the first step takes a minute"
    )
    accumulate: int = Field(
        1,
        ge=1,
        le=65_536,
        description="parts a batch is split into to save memory; gradients add up",
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
        "is told; 0: none",
    )
    checkpoint_seconds: float = Field(
        60, gt=0, description="seconds between checkpoints; one more is written at the end"
    )

    @field_validator("data", "data_root", "device")
    @classmethod
    def _text_can_be_used(cls, value: str | Path | None) -> str | Path | None:
        if "\0" in str(value):
            raise ValueError(f"{str(value)!r} holds a NUL, which no name has")
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

    @field_validator("data_option")
    @classmethod
    def _options_are_pairs(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        for pair in pairs:
            if not pair.partition("=")[0].strip() or "=" not in pair:
                raise ValueError(f"{pair!r} is no option of a data set; write KEY=VALUE")
        return pairs

    @property
    def data_options(self) -> dict[str, str]:
        """The data set's options as a mapping."""
        return dict(pair.split("=", 1) for pair in self.data_option)


def explain(error: ValidationError, where: str = "--") -> str:
    """The first fault of a validation error in one line, with its field and value."""
    fault = error.errors()[0]
    path = printable(".".join(str(part) for part in fault["loc"]))
    name = path.replace("_", "-") if where == "--" else path
    subject = f"{where}{name}: " if path else f"{where.rstrip('. :-')}: ".removeprefix(": ")
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"{where}{name} is no option here"
    if fault["type"] == "value_error":
        return f"{subject}{message if len(message) < 1000 else f'{message[:1000]}...'}"
    return f"{subject}{message[0].lower()}{message[1:]} (got {quoted(fault['input'])})"


def quoted(value: object, most: int = 100) -> str:
    """A value as Python would write it, cut where that is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of 5,000 digits
        text = f"{type(value).__name__} too large to be written"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def validate(
    config: type[C], values: Mapping[str, Any], where: str = "--", *, strict: bool = False
) -> C:
    """The values as a checked config; UsageError names the first that cannot be used. With
    `strict`, as for files, `true` and "3" are no numbers."""
    try:
        if strict:  # JSON's lists, unlike Python's, fit tuples; dates become text
            text = json.dumps(dict(values), default=str)
            return config.model_validate_json(text, strict=True)
        return config.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(explain(error, where)) from None
    except (ValueError, RecursionError):  # of json: a number or a nest too large for it
        raise UsageError(f"{where}{quoted(dict(values))} holds what is too large") from None
    except GenkitError:
        raise
    except Exception as error:  # a validator of a plugin's may raise what it likes
        raise PluginError(f"{config.__name__}'s own check failed: {one_line(error)}") from error


def suggest(word: str, words: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the closest of some words, or nothing."""
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def read_config_file(path: Path) -> dict[str, dict[str, Any]]:
    """The tables "run" and "options" of a TOML file or of a run's config.json.

    Raises UsageError for a file that cannot be read or holds anything else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise UsageError(f"--config {path} is no valid {kind}: {error}") from None
    known = {"model", "run", "options"}
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: a table was expected, not {type(content).__name__}")
    extra = [key for key in content if key not in known]
    if extra and "schema" not in content:  # a run's config.json also says where it came from
        raise UsageError(
            f"--config {path}: unknown key {extra[0]!r}; write 'model' and the tables [run] and "
            f"[options].{suggest(extra[0], known)}"
        )
    tables = {key: content.get(key, {}) for key in ("run", "options")}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"--config {path}: {key!r} must be a table, not {quoted(table)}")
    return {**tables, "model": content.get("model")}


@dataclass(frozen=True)
class Resolved:
    """A run's options after defaults, preset, file and command line, and where each came from."""

    run: RunConfig
    options: Any
    sources: dict[str, str]


def resolve(
    spec: TrainerSpec,
    *,
    preset: str = "full",
    file: Path | None = None,
    given: Mapping[str, Any] | None = None,
) -> Resolved:
    """Merge default < preset < file < given into checked configs; UsageError names the culprit.

    `given` mixes the run's and the model's options by field name, as the command line does.
    """
    presets: dict[str, Mapping[str, Any]] = {"full": {}, **spec.presets}
    if preset not in presets:
        raise UsageError(
            f"{spec.name} has no preset {preset!r}; it has {', '.join(sorted(presets))}."
            f"{suggest(preset, presets)}"
        )
    content: dict[str, Any] = read_config_file(file) if file else {"run": {}, "options": {}}
    if content.get("model", spec.name) not in (None, spec.name):
        raise UsageError(f"--config {file} is for {content['model']!r}, not {spec.name!r}")
    own = {k: v for k, v in (given or {}).items() if k in RunConfig.model_fields}
    rest = {k: v for k, v in (given or {}).items() if k not in RunConfig.model_fields}
    fields = {*RunConfig.model_fields, *spec.config.model_fields}
    for key in rest:
        if key not in fields:
            raise UsageError(f"{spec.name} has no option {key!r}.{suggest(key, fields)}")

    def build(config: type[Config], table: str, layers: list[tuple[str, Mapping[str, Any]]]) -> Any:
        values: dict[str, Any] = {}
        for label, layer in layers:
            for key in layer:
                sources[f"{table}.{key}"] = label
                if key not in config.model_fields:
                    raise UsageError(
                        f"{label}: {table} has no {key!r}.{suggest(key, config.model_fields)}"
                    )
            values.update(layer)
            if label == file_label:
                built = validate(config, values, f"{file}: {table}.", strict=True)
            elif label == "given":
                built = validate(config, values)
            else:
                try:
                    built = validate(config, values, f"{label} of {spec.name}: ")
                except UsageError as error:
                    raise PluginError(str(error)) from None
        return built

    sources = {f"run.{name}": "default" for name in RunConfig.model_fields}
    sources |= {f"options.{name}": "default" for name in spec.config.model_fields}
    file_label = f"file {file}"
    run = build(RunConfig, "run", [(file_label, content["run"]), ("given", own)])
    options = build(
        spec.config,
        "options",
        [
            (f"preset {preset}", presets[preset]),
            (file_label, content["options"]),
            ("given", rest),
        ],
    )
    sources["preset"] = preset
    return Resolved(run, options, sources)


def to_json(config: Config) -> dict[str, Any]:
    """A config's values as JSON types."""
    return config.model_dump(mode="json")
