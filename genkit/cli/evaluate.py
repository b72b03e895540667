"""`genkit evaluate`: scores of runs and of files of samples."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from genkit.cli.arguments import (
    Best,
    Cards,
    Data,
    DataOption,
    DataRoot,
    Device,
    Draws,
    Features,
    JSONPath,
    ProgressOption,
    RankBy,
    SamplerOptions,
    Seed,
    Weights,
)
from genkit.cli.common import is_given, registry, show


def evaluate(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(
            help="runs, also RUN@KEY=VALUE with an option of the sampler; folders or .npz files of "
            "samples; or the words real, copy and noise"
        ),
    ],
    data: Data = None,
    data_root: DataRoot = None,
    data_option: DataOption = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "-n", "--samples", min=10, help="samples to score; default: 10,000, or all of a file"
        ),
    ] = None,
    seed: Seed = 0,
    features: Features = None,
    feature_weights: Weights = None,
    draws: Draws = 64,
    likelihood_images: Annotated[
        int, typer.Option(min=1, help="test images whose likelihood is taken")
    ] = 1000,
    levels: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=255,
            help="levels to which samples and reference are rounded for a second score; default: "
            "the fewest that any samples have, if they differ",
        ),
    ] = None,
    balanced: Annotated[
        bool,
        typer.Option(
            "--balanced",
            help="draw all classes in turn from models that follow labels; by default labels are "
            "drawn from their shares of the training images",
        ),
    ] = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="also score each class by itself")
    ] = False,
    utility: Annotated[
        bool,
        typer.Option(
            "--utility",
            help="also train a classifier on samples, on real images and on both, and test it on "
            "real ones; for models by class, takes minutes",
        ),
    ] = False,
    sampler: SamplerOptions = None,
    best: Best = False,
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads; default: one per core")
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="no rows real, copy and noise")] = False,
    rank_by: RankBy = None,
    cards: Cards = False,
    json: JSONPath = None,
    keep_features: Annotated[Path | None, typer.Option(hidden=True)] = None,
    keep_samples: Annotated[Path | None, typer.Option(hidden=True)] = None,
    part: Annotated[
        Literal["all", "scores", "likelihood", "levels"], typer.Option(hidden=True)
    ] = "all",
    progress: ProgressOption = "auto",
) -> None:
    """Score runs or samples against a data set; runs use the one they were trained on."""
    import torch

    from genkit.config.sampler import read_pairs, split_target
    from genkit.evaluation.evaluator import Evaluator
    from genkit.evaluation.preflight import choose_data
    from genkit.evaluation.protocol import EvaluationProtocol
    from genkit.evaluation.targets import evaluate as evaluate_targets
    from genkit.io.files import write_atomic
    from genkit.io.machine import count_cores
    from genkit.io.progress import new_reporter
    from genkit.io.run_directory import RunDir
    from genkit.report.page import refresh_page
    from genkit.report.ranking import choose_column, score_columns
    from genkit.report.rows import CALIBRATION, ScoreRow, write_evaluation
    from genkit.report.tables import write_json_output
    from genkit.runs.build import load_data
    from genkit.runs.run import Run, load_run

    def load(target: str) -> Run:
        path, own = split_target(target)
        return load_run(path, found, device, best=best, sampler={**given, **own})

    given = read_pairs(sampler or ())
    torch.set_num_threads(threads or count_cores())
    found = registry()
    choose_column(score_columns(found), [], rank_by)  # an error now, not after the scoring
    reporter = new_reporter(progress)
    chosen = {"data": data, "data_root": data_root, "data_option": tuple(data_option or ())}
    chosen = {key: value for key, value in chosen.items() if is_given(context, key)}
    protocol = EvaluationProtocol(
        samples=samples,
        seed=seed,
        features=features,
        weights=str(feature_weights) if feature_weights else None,
        device=device,
        likelihood_images=likelihood_images,
        draws=draws,
        levels=levels,
        balanced=balanced,
        per_class=per_class,
        utility=utility,
    )
    try:
        opened = load_data(found, choose_data(targets[0], chosen))
        evaluator = Evaluator.choose(found, opened, protocol, reporter)
        if keep_features and evaluator.extractor and evaluator.extractor.file:
            write_atomic(keep_features, evaluator.extractor.file.read_bytes())
        more = [] if alone else [name for name in CALIBRATION if name not in targets]
        rows = evaluate_targets([*targets, *more], evaluator, load, keep_samples, part)
    finally:
        reporter.stop()
    calibration = [row for row in rows if row.is_calibration]

    def store(row: ScoreRow) -> None:
        if row.run and not (row.card and row.card.sampler):  # a run's own scores are the default's
            write_evaluation(RunDir(Path(row.run)).evaluation_path, [row, *calibration])
            refresh_page(Path(row.run), found)

    with ExitStack() as last:  # all of it is done, the last callback first, whatever fails
        for row in reversed(rows):
            last.callback(store, row)
        if json:
            last.callback(write_json_output, json, [row.to_json() for row in rows])
        if json != "-" and progress != "json":
            last.callback(show, rows, found, features or opened.features, rank_by, cards)
