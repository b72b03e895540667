"""`genkit compare`, and `genkit inspect`, by which it checks data, features and device first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from genkit.cli.arguments import (
    Cards,
    ComparedData,
    Data,
    DataOption,
    DataRoot,
    Device,
    Features,
    JSONPath,
    RankBy,
    Samples,
    Weights,
)
from genkit.cli.common import registry
from genkit.errors import GenkitError


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="names of models to train, and paths of runs to take as they are, also "
            "RUN@KEY=VALUE with an option of the sampler",
            autocompletion=lambda: list(registry().trainers),
        ),
    ],
    data: ComparedData = None,
    data_root: DataRoot = None,
    data_option: DataOption = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="for each training: 90s, 10m, 200kimg, 5000steps, 20epochs or 10tflop; default: "
            "with preset quick each model's own, which repeats on any machine; else 120s"
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="default: quick on a CPU, full elsewhere")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(help="MODEL.OPTION=VALUE for one of the models, repeatable"),
    ] = None,
    conditional: Annotated[
        bool,
        typer.Option("--conditional", help="train all models by class, for data with labels"),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="seed of the trainings")] = 0,
    seeds: Annotated[
        int,
        typer.Option(min=1, max=100, help="trainings of each model, with seeds from --seed on"),
    ] = 1,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUES",
            help="score runs with each value of an option of their sampler, such as "
            "steps=1,2,4,8; the page draws the score over them",
        ),
    ] = None,
    samples: Samples = 2000,
    features: Features = None,
    feature_weights: Weights = None,
    rank_by: RankBy = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option(help="of the trainings; auto: for each model the faster one, by timing"),
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="trainings at a time; default: one per CPU core")
    ] = None,
    grids: Annotated[
        int | None, typer.Option(min=0, help="of each training, as in genkit train")
    ] = None,
    watch: Annotated[
        int | None, typer.Option(min=0, help="of each training, as in genkit train")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for all results; must be new")] = None,
    cards: Cards = False,
    json: JSONPath = None,
) -> None:
    """Train models under one budget, score all alike, and rank them in one table."""
    from genkit.comparison.compare import compare as run_comparison
    from genkit.comparison.options import CompareOptions
    from genkit.report.tables import print_cards, write_json_output

    options = CompareOptions(
        data=data,
        data_root=data_root,
        data_option=tuple(data_option or ()),
        budget=budget,
        preset=preset,
        set=tuple(set or ()),
        conditional=conditional,
        seed=seed,
        seeds=seeds,
        samples=samples,
        features=features,
        feature_weights=feature_weights,
        rank_by=rank_by,
        device=device,
        precision=precision,
        workers=workers,
        grids=grids,
        watch=watch,
    )
    if sweep:
        from genkit.config.sampler import sweep as each_value

        models = each_value(models, sweep, lambda name: Path(name, "config.json").exists())
    comparison = run_comparison(models, options, registry(), out)
    if json != "-":
        comparison.print()
        if cards:
            print_cards(comparison.rows)
    if json:
        write_json_output(json, [row.to_json() for row in comparison.rows])
    if json != "-":
        print(f"{comparison.path / 'grid.png'} shows samples of each model side by side")
        print(f"{comparison.path / 'report.html'} shows all of it, to be opened in a browser")
        print(comparison.path)
    failed = [row.name for row in comparison.ranking.models if row.error]
    if len(failed) == len(comparison.ranking.models):
        raise GenkitError("all models failed; the table says why")
    if failed:
        raise GenkitError(f"{', '.join(failed)} failed; the table says why")


def inspect(
    data: Data = None,
    data_root: DataRoot = None,
    data_option: DataOption = None,
    features: Features = None,
    feature_weights: Weights = None,
    device: Device = "auto",
    json: JSONPath = "-",
    grid: Annotated[Path | None, typer.Option(help="write a grid of test images there")] = None,
) -> None:
    """Check data, features and device, and say what they are."""
    from genkit.evaluation.preflight import inspect_data
    from genkit.report.tables import write_json_output

    chosen = {"data": data, "data_root": data_root, "data_option": tuple(data_option or ())}
    weights = str(feature_weights) if feature_weights else None
    facts = inspect_data(registry(), chosen, features, weights, device, grid)
    write_json_output(json or "-", facts.to_json())
