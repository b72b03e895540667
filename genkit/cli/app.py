"""The command line. Modules that import torch are imported inside the commands that need them."""

from __future__ import annotations

import atexit
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, TextIO

import typer
from typer.main import get_command_name
from typer.models import CommandInfo

from genkit.cli.check import check
from genkit.cli.compare import compare, inspect
from genkit.cli.data import data
from genkit.cli.evaluate import evaluate
from genkit.cli.export import export
from genkit.cli.listings import info, list_, plugins
from genkit.cli.new_plugin import new_plugin
from genkit.cli.plugin_commands import RootGroup
from genkit.cli.report import report
from genkit.cli.resume import resume
from genkit.cli.sample import sample
from genkit.cli.sampler_options import SampleCommand
from genkit.cli.streams import (
    ENCODE_ALL,
    complain,
    complain_of_output,
    let_go,
    occupy_closed_streams,
)
from genkit.cli.study import study
from genkit.cli.train import TrainGroup
from genkit.compute.dynamo import defer_dynamo
from genkit.errors import ChangedFile, GenkitError, UsageError, printable, reason_of
from genkit.io.machine import is_switched_on

app = typer.Typer(
    name="genkit",
    cls=RootGroup,
    help="One training loop, one yardstick, any generative model of images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(
    typer.Typer(cls=TrainGroup),
    name="train",
    help="Train a model: genkit train MODEL; its options: genkit train MODEL --help.",
    no_args_is_help=True,
)
app.add_typer(data, name="data", no_args_is_help=True)


app.command(cls=SampleCommand)(sample)
app.command()(resume)
app.command()(evaluate)
app.command()(compare)
app.command()(study)
app.command()(report)
app.command()(export)
app.command()(new_plugin)
app.command()(check)
app.command("list")(list_)
app.command()(info)
app.command()(plugins)
app.command("inspect", hidden=True)(inspect)


@app.command("fork-server", hidden=True)
def serve_forks(
    channel: int, modules: Annotated[list[str] | None, typer.Argument()] = None
) -> None:
    """Run commands as forks of this process, which has imported what takes long: first what
    `inspect` needs, which comes first; then what trainings and scorings do, and `modules`."""
    from socket import socket

    from genkit.io.forks import serve

    later = ["genkit.training.train", "genkit.evaluation.targets", *(modules or ())]
    groups = [["genkit.evaluation.preflight"], later]
    raise typer.Exit(main(serve(socket(fileno=channel), groups)))


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="show the version")] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="Python file that is a plugin, for this command only; repeatable"),
    ] = None,
) -> None:
    if version:
        from genkit.version import __version__

        print(f"genkit {__version__}")
        raise typer.Exit()


def take_plugins(arguments: list[str]) -> list[str]:
    """The arguments without --plugin PATH, wherever it stands. The files are added to
    GENKIT_PLUGINS, so that the processes of a comparison load them, too."""
    kept: list[str] = []
    files: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            return [*kept, word, *words]
        if name != "--plugin":
            kept.append(word)
        elif path := value if equals else next(words, ""):
            if not Path(path).is_file():
                raise UsageError(f"--plugin {path} is not a file; give the path of a Python file")
            files.append(str(Path(path).absolute()))
        else:
            raise UsageError("--plugin needs the path of a Python file")
    if files:
        known = os.environ.get("GENKIT_PLUGINS", "").split(os.pathsep)
        os.environ["GENKIT_PLUGINS"] = os.pathsep.join(filter(None, [*known, *files]))
    return kept


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code. An error of genkit's is one line on stderr."""
    occupy_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors=ENCODE_ALL)
    streams = sys.stdout, sys.stderr
    code = run(sys.argv[1:] if arguments is None else arguments)
    if (sys.stdout, sys.stderr) != streams:  # Typer does this if the reader closed the pipe
        (sys.stdout, sys.stderr), code = streams, 0
    for stream in streams:
        try:
            stream.flush()
        except OSError as error:
            let_go(stream)
            if stream is sys.stdout and code == 0 and not isinstance(error, BrokenPipeError):
                code = complain_of_output(error)
    return code


def script() -> None:
    """The command `genkit`: `main` in a process of its own."""
    defer_dynamo()
    code: list[int] = []
    atexit.register(leave, code)  # registered first, so called last
    code.append(main())
    sys.exit(code[0])


def leave(code: list[int]) -> None:
    """End the process at once if torch is loaded: Python's own end would take 0.3 s and 120 MB."""
    if code and "torch" in sys.modules:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # main has reported it
                stream.flush()
        os._exit(code[0])


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print genkit's own warnings in one line, and others as Python does."""
    if issubclass(category, ChangedFile):
        print(printable(f"Warning: {message}"), file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), file=sys.stderr)


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code; an error of genkit's is one line on stderr."""
    if not is_folder_there():  # libraries end the process, or blame something else
        complain("the current folder is gone; change to another one")
        return UsageError.exit_code
    warnings.showwarning = show_warning
    warnings.simplefilter("always", ChangedFile)  # it is a message, also under -W error
    try:
        taken = take_plugins(arguments)
        app_for(taken)(taken, prog_name="genkit", obj=taken)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except GenkitError as error:
        if error.__cause__ is not None and is_switched_on("GENKIT_TRACEBACK"):
            traceback.print_exception(error.__cause__)
        complain(printable(str(error)))
        return error.exit_code
    except OSError as error:
        if is_switched_on("GENKIT_TRACEBACK"):
            traceback.print_exception(error)
        if error.filename is None:  # it is about a stream
            return complain_of_output(error)
        complain(printable(f"{error.filename} cannot be used: {reason_of(error)}"))
        return 1
    return 0


def app_for(words: Sequence[str]) -> typer.Typer:
    """The app with no more than the command that the first word names: to build the options of all
    takes longer than to run most. The whole app if it names none of genkit's own."""
    first = words[0] if words else ""
    small = copy(app)
    small.registered_commands = [i for i in app.registered_commands if name_of(i) == first]
    small.registered_groups = [i for i in app.registered_groups if i.name == first]
    return small if small.registered_commands or small.registered_groups else app


def name_of(command: CommandInfo) -> str:
    """The word that calls a command."""
    return command.name or get_command_name(command.callback.__name__)  # type: ignore[union-attr]


def is_folder_there() -> bool:
    """Whether the current folder still exists."""
    try:
        return bool(os.getcwd())
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
