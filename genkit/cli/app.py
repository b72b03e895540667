"""The command line. Modules that import torch are imported inside the commands that need them."""

from __future__ import annotations

import atexit
import os
import sys
import traceback
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from genkit.cli.arguments import JSONPath
from genkit.cli.compare import compare, inspect
from genkit.cli.data import data
from genkit.cli.evaluate import evaluate, report
from genkit.cli.export import export
from genkit.cli.new_plugin import new_plugin
from genkit.cli.plugin_commands import RootGroup
from genkit.cli.sample import sample
from genkit.cli.train import TrainGroup, registry, resume
from genkit.errors import GenkitError, UsageError, printable

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


app.command()(sample)
app.command()(resume)
app.command()(evaluate)
app.command()(compare)
app.command()(report)
app.command()(export)
app.command()(new_plugin)
app.command("inspect", hidden=True)(inspect)


@app.command("list")
def list_(json: JSONPath = None) -> None:
    """List all models, data sets, metrics and feature extractors."""
    from genkit.cli.catalogue import catalogue, print_catalogue
    from genkit.report.tables import write_json_output

    found = registry()
    if json:
        write_json_output(json, catalogue(found))
    if json != "-":
        print_catalogue(found)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="a model, data set, metric or feature extractor")],
    channels: Annotated[int, typer.Option(min=1, max=3, help="of the images to count for")] = 1,
    size: Annotated[int, typer.Option(min=1, help="pixels a side of these images")] = 28,
) -> None:
    """Show one thing in full: options, presets and, for a model, its parameters."""
    from genkit.cli.catalogue import print_info

    print_info(registry(), name, channels, size)


@app.command()
def plugins(
    full: Annotated[bool, typer.Option("--traceback", help="show errors in full")] = False,
    json: JSONPath = None,
) -> None:
    """Show each plugin: where it comes from, what it provides and what is wrong with it."""
    from genkit.cli.catalogue import health, print_plugins
    from genkit.registry.catalogue import load_registry
    from genkit.report.tables import write_json_output

    found = load_registry(strict=False)
    if json:
        write_json_output(json, health(found))
    if json != "-":
        print_plugins(found, full)


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
    """The arguments without --plugin PATH, wherever it stands: the files go to GENKIT_PLUGINS, so
    that the processes of a comparison load them, too."""
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
                raise UsageError(f"--plugin {path} is no file; give the path of a Python file")
            files.append(str(Path(path).absolute()))
        else:
            raise UsageError("--plugin needs the path of a Python file")
    if files:
        known = os.environ.get("GENKIT_PLUGINS", "").split(os.pathsep)
        os.environ["GENKIT_PLUGINS"] = os.pathsep.join(filter(None, [*known, *files]))
    return kept


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code. What genkit raises is one line on stderr."""
    occupy_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")  # a sign that the terminal lacks ends no command
    streams = sys.stdout, sys.stderr
    code = run(sys.argv[1:] if arguments is None else arguments)
    if (sys.stdout, sys.stderr) != streams:  # Typer's sign of a pipe whose reader had enough
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
    """`main` for a process of its own: what the command `genkit` does."""
    code: list[int] = []
    atexit.register(leave, code)  # the first to be registered is the last to be called
    code.append(main())
    sys.exit(code[0])


def leave(code: list[int]) -> None:
    """End the process without taking torch apart, which takes 0.3 s and 120 MB."""
    if code and "torch" in sys.modules:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # main has complained of it
                stream.flush()
        os._exit(code[0])


def run(arguments: list[str]) -> int:
    """Run a command line; the exit code, with what genkit raises in one line on stderr."""
    try:
        taken = take_plugins(arguments)
        app(taken, prog_name="genkit", obj=taken)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except GenkitError as error:
        if error.__cause__ is not None and os.environ.get("GENKIT_TRACEBACK", "") not in ("", "0"):
            traceback.print_exception(error.__cause__)
        complain(printable(str(error)))
        return error.exit_code
    except OSError as error:
        if error.filename is not None:  # it is not about a stream
            raise
        return complain_of_output(error)
    return 0


def complain_of_output(error: OSError) -> int:
    complain(f"the output could not be written: {error.strerror or error}")
    return 1


def complain(message: str) -> None:
    """Say what went wrong, if there is still somebody who listens."""
    with suppress(OSError):
        print(f"Error: {message}", file=sys.stderr)


def occupy_closed_streams() -> None:
    """Give closed standard streams to the null device, lest a file of a run be opened in their
    place and what something prints end up in it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


def let_go(stream: Any) -> None:
    """Send what a stream still holds to the null device: Python would complain of it at the end."""
    with suppress(OSError, ValueError):  # ValueError: it is no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


if __name__ == "__main__":
    sys.exit(main())
