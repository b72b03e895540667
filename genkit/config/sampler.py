"""Options of a model's sampler, as texts: KEY=VALUE, and RUN@KEY=VALUE for a run with some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from genkit.config.validation import suggest, validate
from genkit.errors import UsageError
from genkit.specs import SamplerConfig, TrainerSpec


def read_pairs(pairs: Iterable[str], where: str = "--sampler") -> dict[str, str]:
    """KEY=VALUE texts by key; UsageError for a text that is none."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key.strip() and equals):
            raise UsageError(
                f"{where} {pair!r} cannot be read; write KEY=VALUE, such as temperature=0.8"
            )
        found[key.strip().replace("-", "_")] = value.strip()
    return found


def split_target(text: str) -> tuple[str, dict[str, str]]:
    """RUN@KEY=VALUE,KEY=VALUE as the run's path and the options; a path that exists is taken as it
    is."""
    path, at, options = text.rpartition("@")
    if not at or "=" not in options or Path(text).exists():
        return text, {}
    return path, read_pairs(options.split(","), f"{path}@")


def sampler_of(
    spec: TrainerSpec, values: Mapping[str, object], where: str = "--sampler "
) -> SamplerConfig:
    """The options of a model's sampler, some of them given; UsageError for a key that it does not
    have or a value that it does not take, which begins with `where`."""
    known = spec.sampler.model_fields
    for key in values:
        if key not in known:
            has = f"its sampler has: {', '.join(known)}" if known else "its sampler has none"
            raise UsageError(
                f"{where.strip()}: {spec.name} has no option {key!r}; {has}.{suggest(key, known)}"
            )
    return validate(spec.sampler, values, where)
