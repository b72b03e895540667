"""`genkit export`: a run's model as a folder for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genkit.cli.arguments import Best, Device, JSONPath, RunArgument
from genkit.cli.common import registry


def export(
    run: RunArgument,
    to: Annotated[Path, typer.Option(help="folder to write; new or empty")],
    best: Best = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="also the network as ONNX, checked against PyTorch")
    ] = False,
    device: Device = "auto",
    json: JSONPath = None,
) -> None:
    """Write a run's weights, config, model card and samples into a folder for others."""
    from genkit.io.run_directory import RunDir

    RunDir.open(run).record()
    from genkit.report.tables import write_json_output
    from genkit.runs.export import check_target
    from genkit.runs.export import export as write
    from genkit.runs.onnx import check_packages
    from genkit.runs.run import load_run

    check_target(to)
    if onnx:
        check_packages()
    done = write(load_run(run, registry(), device, best=best), to, onnx=onnx)
    if json:
        write_json_output(json, done)
    if json != "-":
        if onnx:
            difference = done["onnx"]["difference"]
            print(f"model.onnx differs from PyTorch by {difference:.1e} at most")
        print(to)
