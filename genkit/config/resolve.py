"""Puts a run's options together: defaults, preset, file, command line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genkit.config.run import HALF_LIVES, RunConfig, read_half_lives
from genkit.config.validation import quoted, suggest, validate
from genkit.errors import PluginError, UsageError, plugin_code, reason_of
from genkit.specs import Config, ImageFacts, TrainerSpec


@dataclass(frozen=True)
class ConfigFile:
    """What a file for --config holds: options of the run and of the model, by name."""

    model: object = None  # a trainer's name, if it is given
    run: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def read_config_file(path: Path) -> ConfigFile:
    """Read a TOML file or a run's config.json.

    Raises:
        UsageError: the file cannot be read or holds anything else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {reason_of(error)}") from None
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise UsageError(f"--config {path} is not valid {kind}: {error}") from None
    known = {"model", "run", "options"}
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: a table was expected, not {type(content).__name__}")
    extra = [key for key in content if key not in known]
    if extra and "schema" not in content:  # a run's config.json has other tables, too
        raise UsageError(
            f"--config {path}: unknown key {extra[0]!r}; write 'model' and the tables [run] and "
            f"[options].{suggest(extra[0], known)}"
        )
    tables = {key: content.get(key, {}) for key in ("run", "options")}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"--config {path}: {key!r} must be a table, not {quoted(table)}")
    return ConfigFile(content.get("model"), **tables)


@dataclass(frozen=True)
class Resolved:
    """A run's options after defaults, preset, file and command line, and where each came from."""

    run: RunConfig
    options: Any
    sources: dict[str, str]


def fit(spec: TrainerSpec, resolved: Resolved, facts: ImageFacts) -> tuple[Resolved, str | None]:
    """The options with the values that the preset has for such images, where the user gave none;
    and a line that says which and why, if there are any.

    Raises:
        PluginError: the plugin's values cannot be used.
    """
    if spec.fit is None:
        return resolved, None
    with plugin_code(f"fitting {spec.name} to the images"):
        fitted = dict(spec.fit(facts, resolved.sources["preset"]))
    sources = {name: resolved.sources.get(f"options.{name}", "default") for name in fitted}
    chosen = {
        name: value
        for name, value in fitted.items()
        if sources[name] == "default" or sources[name].startswith("preset ")
    }
    if not chosen:
        return resolved, None
    try:
        options = validate(spec.config, dict(resolved.options) | chosen, f"fit of {spec.name}: ")
    except UsageError as error:
        raise PluginError(str(error)) from None
    source = f"data: {facts.kind} images"
    more = {f"options.{name}": source for name in chosen}
    why = f"{facts.between:.0%} of their values lie between black and white"
    values = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in chosen.items())
    line = f"{spec.name} for {facts.kind} images of {facts.shape} ({why}): {values}"
    return Resolved(resolved.run, options, resolved.sources | more), line


def split_averages(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the first half-life of "10k,50k" as `ema_half_life` and the others as
    `averages`."""
    found, text = dict(given), given.get("ema_half_life")
    if isinstance(text, str) and HALF_LIVES.fullmatch(text) and not text.isdigit():
        try:
            first, *others = read_half_lives(text)
        except ValueError as error:
            raise UsageError(f"--ema-half-life: {error}") from None
        found["ema_half_life"] = first
        if others:
            found["averages"] = ",".join(map(str, others))
    return found


def resolve(
    spec: TrainerSpec,
    *,
    preset: str = "full",
    file: Path | None = None,
    given: Mapping[str, Any] | None = None,
) -> Resolved:
    """Merge default < preset < file < given into checked configs.

    Args:
        given: the run's and the model's options together, by field name, as on the command line.

    Raises:
        UsageError: an option is unknown or has a wrong value; the message names it.
    """
    presets: dict[str, Mapping[str, Any]] = {"full": {}, **spec.presets}
    if preset not in presets:
        raise UsageError(
            f"{spec.name} has no preset {preset!r}; it has {', '.join(sorted(presets))}."
            f"{suggest(preset, presets)}"
        )
    content = read_config_file(file) if file else ConfigFile()
    if content.model not in (None, spec.name):
        raise UsageError(f"--config {file} is for {content.model!r}, not {spec.name!r}")
    given = split_averages(given or {})
    own = {k: v for k, v in given.items() if k in RunConfig.model_fields}
    rest = {k: v for k, v in given.items() if k not in RunConfig.model_fields}
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
    run = build(RunConfig, "run", [(file_label, content.run), ("given", own)])
    options = build(
        spec.config,
        "options",
        [
            (f"preset {preset}", presets[preset]),
            (file_label, content.options),
            ("given", rest),
        ],
    )
    sources["preset"] = preset
    return Resolved(run, options, sources)
