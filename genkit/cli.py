"""The command line. Modules that import torch are imported inside the commands that need them."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from genkit.arguments import (
    ComparedData,
    Data,
    DataOption,
    DataRoot,
    Device,
    Features,
    JSONPath,
    ProgressOption,
    RunArgument,
    Samples,
    Seed,
    Weights,
    check_budget,
)
from genkit.errors import GenkitError
from genkit.train_command import TrainGroup, is_given, registry

app = typer.Typer(
    name="genkit",
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


@app.command()
def evaluate(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(help="runs, folders or .npz files of samples, or the words real and noise"),
    ],
    data: Data = "mnist-mini",
    data_root: DataRoot = None,
    data_option: DataOption = None,
    samples: Samples = 10_000,
    seed: Seed = 0,
    features: Features = None,
    inception_weights: Weights = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=1, max=1024, help="CPU threads")] = 1,
    alone: Annotated[bool, typer.Option("--alone", help="no rows for real and noise")] = False,
    json: JSONPath = None,
    progress: ProgressOption = "auto",
) -> None:
    """Score runs or samples against a data set; runs use the one they were trained on."""
    import torch

    from genkit.evaluation import Yardstick, choose_data
    from genkit.evaluation import evaluate as score
    from genkit.progress import new_reporter
    from genkit.report import CALIBRATION, print_rows, score_columns, write_json_output
    from genkit.rundir import RunDir, write_json
    from genkit.runs import load_data, load_run

    torch.set_num_threads(threads)
    found = registry()
    reporter = new_reporter(progress)
    chosen = {"data": data, "data_root": data_root, "data_option": tuple(data_option or ())}
    chosen = {key: value for key, value in chosen.items() if is_given(context, key)}
    try:
        yardstick = Yardstick.choose(
            found,
            load_data(found, choose_data(targets[0], chosen)),
            samples=samples,
            seed=seed,
            features=features,
            weights=str(inception_weights) if inception_weights else None,
            device=device,
            reporter=reporter,
        )
        more = [] if alone else [name for name in CALIBRATION if name not in targets]
        rows = score(
            [*targets, *more], yardstick, lambda path: load_run(path, found, device), reporter
        )
    finally:
        reporter.stop()
    for row in rows:
        if row.get("run"):
            write_json(RunDir(Path(row["run"])).evaluation_path, rows)
    if json:
        write_json_output(json, rows)
    if json != "-" and progress != "json":
        print_rows(rows, score_columns(found), features or yardstick.data.features)


@app.command("inspect", hidden=True)
def inspect_(
    data: Data = "mnist-mini",
    data_root: DataRoot = None,
    data_option: DataOption = None,
    features: Features = None,
    inception_weights: Weights = None,
    device: Device = "auto",
    json: JSONPath = "-",
    grid: Annotated[Path | None, typer.Option(help="write a grid of test images there")] = None,
) -> None:
    """Check data, features and device, and say what they are."""
    from genkit.evaluation import inspect_data
    from genkit.report import write_json_output

    chosen = {"data": data, "data_root": data_root, "data_option": tuple(data_option or ())}
    weights = str(inception_weights) if inception_weights else None
    facts = inspect_data(registry(), chosen, features, weights, device, grid)
    write_json_output(json or "-", facts)


@app.command()
def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="names of models to train, and paths of runs to take as they are",
            autocompletion=lambda: list(registry().trainers),
        ),
    ],
    data: ComparedData = None,
    data_root: DataRoot = None,
    data_option: DataOption = None,
    budget: Annotated[
        str, typer.Option(help="for each model: 90s, 10m, 200kimg, 5000steps or 20epochs")
    ] = "120s",
    preset: Annotated[
        str | None, typer.Option(help="default: quick on a CPU, full elsewhere")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(help="MODEL.OPTION=VALUE for one of the models, repeatable"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of the trainings")] = 0,
    samples: Samples = 2000,
    features: Features = None,
    inception_weights: Weights = None,
    device: Device = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="trainings at a time; default: one per CPU core")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for all results; must be new")] = None,
    json: JSONPath = None,
) -> None:
    """Train models under one budget, score all alike, and rank them in one table."""
    from genkit.comparison import compare as run_comparison
    from genkit.protocol import Options
    from genkit.report import CALIBRATION, write_json_output

    options = Options(
        data=data,
        data_root=data_root,
        data_option=tuple(data_option or ()),
        budget=budget,
        preset=preset,
        set=tuple(set or ()),
        seed=seed,
        samples=samples,
        features=features,
        inception_weights=inception_weights,
        device=device,
        workers=workers,
    )
    comparison = run_comparison(models, options, registry(), out)
    if json:
        write_json_output(json, comparison.rows)
    if json != "-":
        comparison.print()
        print(f"{comparison.path / 'grid.png'} shows samples of each model side by side")
        print(comparison.path)
    if all(row.get("error") for row in comparison.rows if row["name"] not in CALIBRATION):
        raise GenkitError("no model came through; the table says why")


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
    traceback: Annotated[bool, typer.Option("--traceback", help="show errors in full")] = False,
) -> None:
    """Show each plugin: where it comes from, what it provides and what is wrong with it."""
    from genkit.registry import load_registry
    from genkit.show import print_plugins

    print_plugins(load_registry(), traceback)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="show the version")] = False,
) -> None:
    if version:
        from genkit import __version__

        print(f"genkit {__version__}")
        raise typer.Exit()


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code. What genkit raises is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")  # a sign that the terminal lacks ends no command
    try:
        app(arguments, prog_name="genkit")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except GenkitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
