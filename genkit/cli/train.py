"""`genkit train`: one command per trainer, with options from its config class."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, MutableMapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from genkit.cli.arguments import Devices, Preview, ProgressOption
from genkit.cli.common import is_given, make_reporter, registry
from genkit.io.machine import keep_freed_memory
from genkit.io.processes import is_first, is_launched, launch

if TYPE_CHECKING:
    from genkit.registry.catalogue import Registry
    from genkit.specs import TrainerSpec


class TrainCommands(MutableMapping[str, Any]):
    """One command per trainer, made when it is first asked for."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    @cached_property
    def registry(self) -> Registry:
        return registry()

    def __getitem__(self, name: str) -> Any:
        if name not in self.made:
            self.made[name] = trainer_command(self.registry.trainers[name].spec, self.registry)
        return self.made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self.made[name] = command

    def __delitem__(self, name: str) -> None:
        del self.made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.registry.trainers)

    def __len__(self) -> int:
        return len(self.registry.trainers)

    def find_model(self, args: list[str]) -> int | None:
        """The place of the first argument that is neither an option nor the value of one."""
        for place, word in enumerate(args):
            before = args[place - 1] if place else ""
            takes_word = before.startswith("--") and "=" not in before and len(before) > 2
            if takes_word and word in self:  # unless it is a switch of that model
                takes_word = before not in switches(self[word])
            if not word.startswith("-") and not takes_word:
                return place
        return None


class TrainGroup(TyperGroup):
    """`genkit train`: each trainer is a sub-command with options of its own."""

    commands: TrainCommands

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = TrainCommands()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args != ["--help"]:
            place = self.commands.find_model(args)
            if place is not None:  # the model's name may come after its options
                args = [args[place], *args[:place], *args[place + 1 :]]
            elif not ctx.resilient_parsing:
                ctx.fail(f"Name the model to train; there are: {', '.join(self.commands)}.")
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        trainers = self.commands.registry.trainers
        if args[0] in trainers.contested:
            trainers.find(args[0])  # raises: two plugins claim the name
        return super().resolve_command(ctx, args)


class TrainCommand(TyperCommand):
    """The command of a trainer, some of whose options may stand alone."""

    alone: Mapping[str, str] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [
            f"{word}={self.alone[word]}" if word in self.alone and after.startswith("--") else word
            for word, after in pairwise([*args, "--"])
        ]
        return super().parse_args(ctx, words)


def switches(command: Any) -> set[str]:
    """The options of a command that take no value."""
    found = {"--help"}
    for parameter in command.params:
        if getattr(parameter, "is_flag", False):
            found.update(parameter.opts, parameter.secondary_opts)
    return found


def trainer_command(spec: TrainerSpec, loaded: Registry) -> Any:
    """The command that trains one kind of model, with options from its config class."""
    from genkit.config.options import escape, option_parameters, values_alone
    from genkit.config.run import RunConfig

    def train(**values: Any) -> None:
        from genkit.config.resolve import resolve

        context = values.pop("context")
        taken = {name: values.pop(name) for name in own_options}
        given = {name: value for name, value in values.items() if is_given(context, name)}
        resolved = resolve(spec, preset=taken["preset"], file=taken["config"], given=given)
        if taken["devices"] > 1 and not is_launched():
            raise typer.Exit(launch(taken["devices"], context.find_root().obj))
        from genkit.report.page import refresh_page
        from genkit.training.train import train as train_model  # torch: only after all checks

        keep_freed_memory()  # after the import: what it frees need not be kept
        reporter = make_reporter(taken["progress"], taken["preview"])
        run_dir = taken["run_dir"]
        run = train_model(spec, resolved, loaded, run_dir=run_dir, reporter=reporter)
        if is_first():
            refresh_page(run.path, loaded)
            if taken["progress"] != "json":
                print(run.path)

    presets = ", ".join(dict.fromkeys(["full", *spec.presets]))
    own_options = {
        "preset": Annotated[str, typer.Option(help=f"starting values: {presets}")],
        "config": Annotated[
            Path | None, typer.Option(help="TOML file, or a run's config.json, to start from")
        ],
        "run_dir": Annotated[
            Path | None, typer.Option(help="where to; must be new. Default: runs/MODEL-DATA-sSEED")
        ],
        "devices": Devices,
        "progress": ProgressOption,
        "preview": Preview,
    }
    defaults = {"preset": "full", "devices": 1, "progress": "auto", "preview": False}
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("context", keyword, annotation=typer.Context)]
    parameters += [
        parameter.replace(default=loaded.default_data) if parameter.name == "data" else parameter
        for parameter in option_parameters(RunConfig, "Run")
    ]
    parameters += [
        inspect.Parameter(name, keyword, default=defaults.get(name), annotation=annotation)
        for name, annotation in own_options.items()
    ]
    parameters += option_parameters(spec.config, f"Model: {spec.name}")
    train.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    train.__annotations__ = {}
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name=spec.name, help=escape(spec.summary), cls=TrainCommand)(train)
    command = typer.main.get_command(single)
    assert isinstance(command, TrainCommand)
    command.alone = values_alone(spec.config)
    return command
