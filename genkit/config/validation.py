"""Values checked against a config class, with an error message that says what to do."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from genkit.errors import GenkitError, PluginError, UsageError, one_line, printable
from genkit.specs import Config, NamesRun

C = TypeVar("C", bound=Config)


def explain(error: ValidationError, where: str = "--") -> str:
    """The first fault of a validation error in one line, with its field and value; an unknown
    name comes first, since it may be the one that is missed."""
    fault = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    path = printable(".".join(str(part) for part in fault["loc"]))
    name = path.replace("_", "-") if where == "--" else path
    subject = f"{where}{name}: " if path else f"{where.rstrip('. :-')}: ".removeprefix(": ")
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"{where}{name} is not an option here"
    if fault["type"] == "value_error":
        return f"{subject}{message if len(message) < 1000 else f'{message[:1000]}...'}"
    return f"{subject}{message[0].lower()}{message[1:]} (got {quoted(fault['input'])})"


def quoted(value: object, most: int = 100) -> str:
    """A value as Python would write it, cut if that is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of 5,000 digits
        text = f"{type(value).__name__} too large to be written"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def validate(
    config: type[C], values: Mapping[str, Any], where: str = "--", *, strict: bool = False
) -> C:
    """The values as a checked config; UsageError names the first that cannot be used. With
    `strict`, as for files, `true` and "3" are not numbers."""
    try:
        if strict:  # in JSON a list may be a tuple; dates become text
            text = json.dumps(dict(values), default=str)
            return config.model_validate_json(text, strict=True)
        return config.model_validate(dict(values))
    except ValidationError as error:
        raise UsageError(explain(error, where)) from None
    except (ValueError, RecursionError):  # of json: a number or a nesting that is too large
        raise UsageError(f"{where}{quoted(dict(values))} holds a value that is too large") from None
    except GenkitError:
        raise
    except Exception as error:  # a plugin's validator may raise anything
        raise PluginError(f"{config.__name__}'s own check failed: {one_line(error)}") from error


def suggest(word: str, words: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for the closest of some words, or nothing."""
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def to_json(config: Config) -> dict[str, Any]:
    """A config's values as JSON types."""
    return config.model_dump(mode="json")


def run_options(config: type[Config]) -> tuple[str, ...]:
    """The options of a config that name runs."""

    def is_marked(kind: object) -> bool:
        return isinstance(kind, NamesRun) or any(map(is_marked, get_args(kind)))

    fields = config.model_fields.items()
    return tuple(
        name
        for name, field in fields
        if is_marked(field.annotation) or any(map(is_marked, field.metadata))
    )
