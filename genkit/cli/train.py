"""`genkit train`: one command per trainer, with options from its config class."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator, MutableMapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from genkit.cli.arguments import (
    DataOption,
    DataRoot,
    Devices,
    Preview,
    ProgressOption,
    RunArgument,
    check_budget,
)
from genkit.errors import UsageError
from genkit.io.machine import count_cores, keep_freed_memory
from genkit.io.processes import is_first, is_launched, launch

if TYPE_CHECKING:
    from genkit.io.progress import Reporter
    from genkit.io.run_directory import RunDir
    from genkit.registry.catalogue import Registry
    from genkit.specs import TrainerSpec


def registry() -> Registry:
    """All plugins loaded; one line on stderr if some failed, except while a shell completes."""
    from genkit.registry.catalogue import load_registry

    loaded = load_registry()
    failed = loaded.plugins.failed
    if failed and "_GENKIT_COMPLETE" not in os.environ:
        names = ", ".join(plugin.name for plugin in failed)
        print(f"Plugins with problems: {names}; see: genkit plugins", file=sys.stderr)
    return loaded


class TrainCommands(MutableMapping[str, Any]):
    """One command per trainer, made when it is first looked at."""

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
        """The place of the first argument that is neither an option nor an option's value."""
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
            trainers.find(args[0])  # says who claims the name
        return super().resolve_command(ctx, args)


def switches(command: Any) -> set[str]:
    """The options of a command that take no value."""
    found = {"--help"}
    for parameter in command.params:
        if getattr(parameter, "is_flag", False):
            found.update(parameter.opts, parameter.secondary_opts)
    return found


def trainer_command(spec: TrainerSpec, loaded: Registry) -> Any:
    """The command that trains one kind of model, with options from its config class."""
    from genkit.config.options import escape, option_parameters
    from genkit.config.run import RunConfig

    def train(**values: Any) -> None:
        from genkit.config.run import resolve

        context = values.pop("context")
        devices, preview = values.pop("devices"), values.pop("preview")
        extra = {key: values.pop(key) for key in ("preset", "config", "run_dir", "progress")}
        given = {k: v for k, v in values.items() if is_given(context, k)}
        progress = extra.pop("progress")
        resolve(spec, preset=extra["preset"], file=extra["config"], given=given)
        if devices > 1 and not is_launched():
            raise typer.Exit(launch(devices, context.find_root().obj))
        from genkit.report.page import refresh_page
        from genkit.training.train import (
            train_by_name,  # torch takes seconds: what is wrong comes first
        )

        keep_freed_memory()  # not what importing torch has freed

        reporter = _reporter(progress, preview)
        run = train_by_name(loaded, spec.name, reporter=reporter, given=given, **extra)
        if is_first():
            refresh_page(run.path, loaded)
        if progress != "json" and is_first():
            print(run.path)

    presets = ", ".join(dict.fromkeys(["full", *spec.presets]))
    options = {
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
    parameters += option_parameters(RunConfig, "Run")
    parameters += [
        inspect.Parameter(name, keyword, default=defaults.get(name), annotation=annotation)
        for name, annotation in options.items()
    ]
    parameters += option_parameters(spec.config, f"Model: {spec.name}")
    train.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    train.__annotations__ = {}
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name=spec.name, help=escape(spec.summary))(train)
    return typer.main.get_command(single)


def _reporter(progress: str, preview: bool) -> Reporter:
    """The reporter of that kind; of several ranks only the first reports."""
    from genkit.io.progress import new_reporter

    return new_reporter(progress if is_first() else "none", preview)


def _recorded_devices(run: RunDir) -> int:
    """How many processes trained a run, if so many can run here: its files may be a stranger's."""
    count: int = run.config().get("ranks", 1)
    most = max(count_cores(), 8)  # as many as there are GPUs in a machine
    if not 1 <= count <= most:
        raise UsageError(
            f"{run.config_path} says that {count} processes trained it, here are {count_cores()} "
            "CPU cores; say with --devices how many to go on with"
        )
    return count


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def resume(
    context: typer.Context,
    run: RunArgument,
    budget: Annotated[
        str | None,
        typer.Option(
            help="train up to this budget instead of the recorded one", callback=check_budget
        ),
    ] = None,
    log_every: Annotated[int | None, typer.Option(help="iterations between log lines")] = None,
    grids: Annotated[int | None, typer.Option(help="sample grids over the run")] = None,
    watch: Annotated[int | None, typer.Option(help="samples looked at with each grid")] = None,
    checkpoint_seconds: Annotated[
        float | None, typer.Option(help="seconds between checkpoints")
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(help="CPU threads or auto; others than before change the last bits"),
    ] = None,
    compile: Annotated[
        bool | None, typer.Option(help="compile the losses; changes the last bits")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="where the data set lies now; it must be the same one")
    ] = None,
    data_root: DataRoot = None,
    data_option: DataOption = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="processes that train together; default: as before")
    ] = None,
    progress: ProgressOption = "auto",
    preview: Preview = False,
) -> None:
    """Go on with a run from its last checkpoint, bit for bit. What is not given stays as it was."""
    from genkit.io.run_directory import RunDir

    if not is_launched():
        devices = devices or _recorded_devices(RunDir.open(run))
        if devices > 1:
            raise typer.Exit(launch(devices, context.find_root().obj))
    from genkit.report.page import refresh_page
    from genkit.training.train import resume as go_on

    keep_freed_memory()

    changes = {
        "budget": budget,
        "log_every": log_every,
        "grids": grids,
        "watch": watch,
        "checkpoint_seconds": checkpoint_seconds,
        "threads": threads,
        "compile": compile,
        "data": data,
        "data_root": data_root,
        "data_option": tuple(data_option) if data_option else None,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    found = registry()
    done = go_on(run, found, reporter=_reporter(progress, preview), **changes)
    if is_first():
        refresh_page(done.path, found)
        print(done.path)
