"""Options of a model's sampler, as texts: KEY=VALUE, and RUN@KEY=VALUE for a run with some."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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


def split_entrant(name: str) -> tuple[str, dict[str, str]]:
    """The name of an entrant of a comparison, which may be RUN@KEY=VALUE,KEY=VALUE, as the run's
    name and the options."""
    run, at, options = name.rpartition("@")
    if not at or not all("=" in pair for pair in options.split(",")):
        return name, {}
    return run, read_pairs(options.split(","))


def sweep(targets: Sequence[str], text: str, is_run: Callable[[str], bool]) -> list[str]:
    """Targets, each run among them replaced by RUN@KEY=VALUE for each value of KEY=VALUE,VALUE.

    Raises:
        UsageError: the text is none of that form, or no target is a run.
    """
    ((key, values),) = read_pairs([text], "--sweep").items()
    found: list[str] = []
    for target in targets:
        run, given = split_target(target)
        if not is_run(run):
            found.append(target)
            continue
        for value in dict.fromkeys(value.strip() for value in values.split(",")):
            pairs = {**given, key: value}.items()
            found.append(f"{run}@{','.join(f'{name}={one}' for name, one in pairs)}")
    if found == list(targets):
        raise UsageError(f"--sweep {text!r} is for runs; give one beside {', '.join(targets)}")
    return found


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
