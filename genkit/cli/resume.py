"""`genkit resume`: continues a training from its newest checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from genkit.cli.arguments import (
    DataOption,
    DataRoot,
    Preview,
    ProgressOption,
    RunArgument,
    check_budget,
)
from genkit.cli.common import make_reporter, registry
from genkit.errors import UsageError
from genkit.io.machine import count_cores, keep_freed_memory
from genkit.io.processes import is_first, is_launched, launch

if TYPE_CHECKING:
    from genkit.io.run_directory import RunDir


def _recorded_devices(run: RunDir) -> int:
    """How many processes trained a run; UsageError if so many cannot run here: the file may come
    from anybody."""
    count = run.record().ranks
    most = max(count_cores(), 8)  # as many as there are GPUs in a machine
    if not 1 <= count <= most:
        raise UsageError(
            f"{run.config_path} says that {count} processes trained it, here are {count_cores()} "
            "CPU cores; give the number of processes with --devices"
        )
    return count


def resume(
    context: typer.Context,
    run: RunArgument,
    budget: Annotated[
        str | None,
        typer.Option(
            help="train up to this budget instead of the recorded one", callback=check_budget
        ),
    ] = None,
    cooldown: Annotated[
        str | None,
        typer.Option(help="share of the budget at its end in which learning rates fall to zero"),
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
    cuda_graphs: Annotated[
        bool | None, typer.Option(help="on one GPU, record an iteration and replay it")
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
    """Resume a run from its last checkpoint, bit for bit. What is not given stays as it was."""
    from genkit.io.run_directory import RunDir

    if not is_launched():
        devices = devices or _recorded_devices(RunDir.open(run))
        if devices > 1:
            raise typer.Exit(launch(devices, context.find_root().obj))
    from genkit.report.page import refresh_page
    from genkit.training.resume import resume as resume_run

    keep_freed_memory()

    changes = {
        "budget": budget,
        "cooldown": cooldown,
        "log_every": log_every,
        "grids": grids,
        "watch": watch,
        "checkpoint_seconds": checkpoint_seconds,
        "threads": threads,
        "compile": compile,
        "cuda_graphs": cuda_graphs,
        "data": data,
        "data_root": data_root,
        "data_option": tuple(data_option) if data_option else None,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    found = registry()
    done = resume_run(run, found, reporter=make_reporter(progress, preview), **changes)
    if is_first():
        refresh_page(done.path, found)
        print(done.path)
