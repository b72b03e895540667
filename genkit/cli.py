"""The command line. Modules that import torch are imported inside the commands that need them."""

from __future__ import annotations

import os
import sys
import traceback
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from genkit.arguments import Device, JSONPath, ProgressOption, RunArgument, Seed, check_budget
from genkit.commands import RootGroup
from genkit.compare_command import compare, inspect
from genkit.errors import GenkitError, UsageError
from genkit.evaluate_command import evaluate, report
from genkit.new_plugin import new_plugin
from genkit.train_command import TrainGroup, registry

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


@app.command()
def resume(
    run: RunArgument,
    budget: Annotated[
        str | None,
        typer.Option(
            help="train up to this budget instead of the recorded one", callback=check_budget
        ),
    ] = None,
    progress: ProgressOption = "auto",
) -> None:
    """Go on with a run from its last checkpoint."""
    from genkit.progress import new_reporter
    from genkit.rundir import RunDir

    RunDir.open(run).config()
    from genkit.training import resume as go_on

    print(go_on(run, registry(), budget=budget, reporter=new_reporter(progress)).path)


@app.command()
def sample(
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", "--samples", min=1, help="images to draw")] = 64,
    seed: Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="grid.png, samples.npz, or a folder of PNG files"),
    ] = None,
    columns: Annotated[int | None, typer.Option(min=1, help="images in a row of the grid")] = None,
    device: Device = "auto",
) -> None:
    """Draw samples from a run; needs no data set. Image i of a seed is always the same."""
    from genkit.rundir import RunDir

    RunDir.open(run).config()
    from genkit.runs import load_run
    from genkit.sampling import check_output, save_samples

    path = output or Path(f"{run.resolve().name}-samples.png")
    check_output(path)
    save_samples(load_run(run, registry(), device).sample(n, seed), path, columns)
    print(path)


app.command()(evaluate)
app.command()(compare)
app.command()(report)
app.command()(new_plugin)
app.command("inspect", hidden=True)(inspect)


@app.command("list")
def list_(json: JSONPath = None) -> None:
    """List all models, data sets, metrics and feature extractors."""
    from genkit.report import write_json_output
    from genkit.show import catalogue, print_catalogue

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
    from genkit.show import print_info

    print_info(registry(), name, channels, size)


@app.command()
def plugins(
    full: Annotated[bool, typer.Option("--traceback", help="show errors in full")] = False,
) -> None:
    """Show each plugin: where it comes from, what it provides and what is wrong with it."""
    from genkit.registry import load_registry
    from genkit.show import print_plugins

    print_plugins(load_registry(strict=False), full)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="show the version")] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="Python file that is a plugin, for this command only; repeatable"),
    ] = None,
) -> None:
    if version:
        from genkit import __version__

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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")  # a sign that the terminal lacks ends no command
    try:
        app(take_plugins(sys.argv[1:] if arguments is None else arguments), prog_name="genkit")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except GenkitError as error:
        if error.__cause__ is not None and os.environ.get("GENKIT_TRACEBACK", "") not in ("", "0"):
            traceback.print_exception(error.__cause__)
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
