"""The options of a run's sampler as options of `genkit sample`, known as soon as the run is."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from genkit.cli.common import is_given
from genkit.errors import GenkitError

if TYPE_CHECKING:
    from genkit.specs import TrainerSpec

PARAMETERS, GIVEN = "genkit.sampler_parameters", "genkit.sampler"  # in a context's `meta`


class SampleCommand(TyperCommand):
    """Beside its own options it has those of the sampler of the run that is named; of two with one
    name its own, and the sampler's goes by --sampler."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {name for parameter in self.params for name in parameter.opts}
        spec = None
        if any(word == "--help" or word.split("=")[0] not in own for word in options_in(args)):
            spec = trainer_of(args)
        if spec is not None:
            ctx.meta[PARAMETERS] = [p for p in parameters(spec) if own.isdisjoint(p.opts)]
        rest = super().parse_args(ctx, args)
        if spec is not None and GIVEN in ctx.meta:
            from genkit.config.sampler import sampler_of

            sampler_of(spec, ctx.meta[GIVEN], "--")
        return rest

    def get_params(self, ctx: Any) -> list[Any]:
        return [*super().get_params(ctx), *ctx.meta.get(PARAMETERS, ())]


def options_in(args: Sequence[str]) -> list[str]:
    return [word for word in args if word.startswith("--")]


def trainer_of(args: Sequence[str]) -> TrainerSpec | None:
    """The trainer of the first run among some words; None if there is no run, or none that can be
    read, which the command itself will say."""
    from genkit.io.run_directory import RunDir
    from genkit.registry.catalogue import load_registry

    for word in args:
        with suppress(GenkitError, OSError):  # the name may be too long
            if not word.startswith("-") and Path(word).is_dir():
                record = RunDir.open(Path(word)).record()
                return load_registry().trainers.find(record.model)
    return None


def parameters(spec: TrainerSpec) -> list[Any]:
    """The options of a model's sampler, as Click has them; what is given is kept in the context's
    `meta`."""
    from genkit.config.options import option_parameters

    def unused(**_: object) -> None: ...

    unused.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        option_parameters(spec.sampler, f"Sampler: {spec.name}")
    )
    unused.__annotations__ = {}
    single = typer.Typer(add_completion=False)
    single.command()(unused)
    found = [p for p in typer.main.get_command(single).params if p.name != "help"]
    for parameter in found:
        parameter.expose_value = False
        parameter.callback = keep
    return found


def keep(context: Any, parameter: Any, value: object) -> object:
    if is_given(context, parameter.name):
        context.meta.setdefault(GIVEN, {})[parameter.name] = value
    return value
