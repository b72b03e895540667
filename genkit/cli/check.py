"""`genkit check`: the test kit for one plugin, from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from genkit.cli.common import registry
from genkit.errors import PluginError, UsageError


def check(
    name: Annotated[
        str,
        typer.Argument(
            help="a model, data set, metric or feature extractor, or a plugin",
            autocompletion=lambda: list(registry().trainers),
        ),
    ],
    set: Annotated[
        list[str] | None,
        typer.Option(help="OPTION=VALUE, repeatable: small values make the check of a model fast"),
    ] = None,
) -> None:
    """Check that a plugin keeps its contracts: exact resuming, seeded samples and many more."""
    from genkit.registry.catalogue import load_registry
    from genkit.registry.checks import checks_by_name

    found = load_registry(strict=False)
    chosen = checks_by_name(found, name)
    given = read_options(set or [])
    usable = {each: _fields(found, each) for each in chosen}
    for option in given:
        if not any(option in fields for fields in usable.values()):
            raise UsageError(f"--set {option}: {name} has no such option")
    from genkit import testing
    from genkit.contracts.contract import reported

    broken = 0
    for check, subject in chosen:
        fields = usable[check, subject]
        options = {option: value for option, value in given.items() if option in fields}
        with reported(lambda statement: print(f"kept: {statement}", flush=True)):
            try:
                getattr(testing, check)(subject, **({"options": options} if options else {}))
            except testing.PromiseBroken as error:
                broken += 1
                print(f"BROKEN: {error}", flush=True)
    if broken:
        raise PluginError(f"{name}: {broken} of {len(chosen)} checks found a broken contract")
    print(f"{name} keeps its contracts", file=sys.stderr)


def read_options(pairs: Sequence[str]) -> dict[str, str]:
    """The options of --set OPTION=VALUE, by name."""
    found = {}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        if not (option and equals):
            raise UsageError(f"--set {pair!r} cannot be read; write OPTION=VALUE")
        found[option.replace("-", "_")] = value
    return found


def _fields(found: object, each: tuple[str, str]) -> set[str]:
    """The options that a check takes for its subject."""
    from genkit.registry.checks import CHECKS

    check, subject = each
    if check in ("check_plugin", "check_metric"):  # which take none
        return set()
    entry = getattr(found, CHECKS[check]).get(subject)
    return set(entry.spec.config.model_fields) if entry else set()
