"""Command-line options: those that commands share, and those made from config classes."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from genkit.config.run import HALF_LIVES, RunConfig
from genkit.config.validation import quoted
from genkit.errors import PluginError
from genkit.specs import Config, TrainerSpec


def _option_type(annotation: Any) -> Any:
    """The type as Typer takes it; PluginError for a type that cannot be an option."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:  # such as RunPath
        return _option_type(arguments[0])
    if origin in (Union, types.UnionType) and type(None) in arguments and len(arguments) == 2:
        inner = next(a for a in arguments if a is not type(None))
        return _option_type(inner) | None
    if origin is Literal and all(isinstance(a, str) for a in arguments):
        return annotation
    alike = origin is list or (origin is tuple and arguments[1:] == (...,))
    if alike and arguments[0] in (int, float, str, Path):
        return list[arguments[0]]  # type: ignore[valid-type]
    if annotation in (int, float, bool, str, Path):
        return annotation
    name = annotation.__name__ if isinstance(annotation, type) and not arguments else annotation
    raise PluginError(f"type {name} cannot be a command-line option")


def _reader(
    kind: Any, words: Mapping[str, Any], several: bool = False
) -> Callable[[Any], Any] | None:
    """A parser for numbers, and for words that stand for one; None for other types. It names a
    wrong value, which Typer does not. Ranges are checked with the whole config."""
    number = next((each for each in (int, float) if each in (kind, *get_args(kind))), None)
    if number is None or get_origin(kind) is list:
        return None

    def read(text: Any) -> Any:
        try:
            return None if text is None else words[text] if text in words else number(text)
        except (ValueError, OverflowError):
            if several and HALF_LIVES.fullmatch(text):
                return text  # which is taken apart with the other options
            what = "whole number" if number is int else "number"
            raise typer.BadParameter(f"{quoted(text)} is not a {what}") from None

    return read


def escape(text: str) -> str:
    """A plugin's text so that rich shows it as it is, square brackets too."""
    if "[" not in text:
        return text
    from rich.markup import escape as escape_markup

    return escape_markup(text)


def option_parameters(config: type[Config], panel: str) -> list[inspect.Parameter]:
    """Typer options for the fields of a config class, as parameters of a command's signature.

    A field's `json_schema_extra={"panel": "..."}` puts it into a panel of its own in the help.
    """
    parameters = []
    for name, field in config.model_fields.items():
        low = [m for m in field.metadata if hasattr(m, "ge") or hasattr(m, "gt")]
        high = [m for m in field.metadata if hasattr(m, "le") or hasattr(m, "lt")]
        try:
            kind = _option_type(field.annotation)
        except PluginError as error:
            raise PluginError(f"config field {name!r}: {error}") from None
        if field.is_required():
            raise PluginError(f"config field {name!r} needs a default")
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        notes = [field.description or ""]
        notes += [f"above {m.gt:g}" for m in low if hasattr(m, "gt")]
        notes += [f"below {m.lt:g}" for m in high if hasattr(m, "lt") and m.lt < 2**31]
        notes += [f"alone: {extra['alone']}"] if "alone" in extra else []
        default = field.get_default(call_default_factory=True)
        flags = [str(extra["flag"])] if "flag" in extra else []
        option = typer.Option(
            *flags,
            help=escape("; ".join(note for note in notes if note)),
            min=max((m.ge for m in low if hasattr(m, "ge")), default=None),
            max=min((m.le for m in high if hasattr(m, "le")), default=None),
            rich_help_panel=str(extra.get("panel", panel)),
            parser=_reader(kind, extra.get("words", {}), "several" in extra),  # type: ignore[arg-type]
        )
        default = list(default) if isinstance(default, tuple) else default
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind, option],
            )
        )
    return parameters


def values_alone(config: type[Config]) -> dict[str, str]:
    """The values of options that may be given without one, by flag."""
    return {
        f"--{name.replace('_', '-')}": str(extra["alone"])
        for name, field in config.model_fields.items()
        if isinstance(extra := field.json_schema_extra, dict) and "alone" in extra
    }


def check_trainer_options(spec: TrainerSpec) -> None:
    """Raise PluginError if a trainer's config cannot become options beside a run's own."""
    taken = {*RunConfig.model_fields, "model", "preset", "config", "run_dir", "progress"}
    taken |= {"json", "help", "context", "plugin", "devices", "preview"}
    clash = sorted(taken & set(spec.config.model_fields))
    if clash:
        raise PluginError(f"config field {clash[0]!r} of {spec.name!r} is an option of every run")
    option_parameters(spec.config, spec.name)
    for preset, values in spec.presets.items():
        unknown = sorted(set(values) - set(spec.config.model_fields))
        if unknown:
            raise PluginError(f"preset {preset!r} of {spec.name!r} sets unknown {unknown[0]!r}")
