"""`genkit evaluate` and `genkit report`: scores of what is there already."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    Seed,
    Weights,
)
from genkit.cli.train import is_given, registry

if TYPE_CHECKING:
    from genkit.registry.catalogue import Registry


def evaluate(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(
            help="runs, folders or .npz files of samples, or the words real, copy and noise"
        ),
    ],
    data: Data = "mnist-mini",
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
    best: Best = False,
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads; default: one per core")
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="no rows real, copy and noise")] = False,
    rank_by: RankBy = None,
    cards: Cards = False,
    json: JSONPath = None,
    progress: ProgressOption = "auto",
) -> None:
    """Score runs or samples against a data set; runs use the one they were trained on."""
    import torch

    from genkit.evaluation.evaluator import Protocol, Yardstick
    from genkit.evaluation.evaluator import evaluate as score
    from genkit.evaluation.preflight import choose_data
    from genkit.io.machine import count_cores
    from genkit.io.progress import new_reporter
    from genkit.io.run_directory import RunDir, write_json
    from genkit.report.page import refresh_page
    from genkit.report.ranking import CALIBRATION, choose_column, score_columns
    from genkit.report.tables import write_json_output
    from genkit.runs.run import load_data, load_run

    torch.set_num_threads(threads or count_cores())
    found = registry()
    choose_column(score_columns(found), [], rank_by)  # better said now than after the scoring
    reporter = new_reporter(progress)
    chosen = {"data": data, "data_root": data_root, "data_option": tuple(data_option or ())}
    chosen = {key: value for key, value in chosen.items() if is_given(context, key)}
    protocol = Protocol(
        samples=samples,
        seed=seed,
        features=features,
        weights=str(feature_weights) if feature_weights else None,
        device=device,
        likelihood_images=likelihood_images,
        draws=draws,
    )
    try:
        opened = load_data(found, choose_data(targets[0], chosen))
        yardstick = Yardstick.choose(found, opened, protocol, reporter)
        more = [] if alone else [name for name in CALIBRATION if name not in targets]
        rows = score(
            [*targets, *more], yardstick, lambda path: load_run(path, found, device, best=best)
        )
    finally:
        reporter.stop()
    calibration = [row for row in rows if row["name"] in CALIBRATION]
    for row in rows:
        if row.get("run"):
            write_json(RunDir(Path(row["run"])).evaluation_path, [row, *calibration])
            refresh_page(Path(row["run"]), found)
    if json:
        write_json_output(json, rows)
    if json != "-" and progress != "json":
        show(rows, found, features or opened.features, rank_by, cards)


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(help="runs, or folders of comparisons"),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="the page; default: report.html, in the source if there is one"
        ),
    ] = None,
    rank_by: RankBy = None,
    cards: Cards = False,
    json: JSONPath = None,
) -> None:
    """Show stored scores side by side and write a page with samples and curves, report.html."""
    from genkit.errors import UsageError, printable
    from genkit.report.page import REPORT, write_page
    from genkit.report.rows import read_rows
    from genkit.report.run_view import unscored
    from genkit.report.tables import write_json_output

    if output and output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"-o {output} is no name of a page; give one that ends in .html")
    waiting = unscored(sources)
    found = registry()
    rows = read_rows(sources if json else [s for s in sources if s not in waiting])
    if json:
        write_json_output(json, rows)
    if json != "-" and rows:
        features = next((row["card"]["features"] for row in rows if row.get("card")), None)
        show(rows, found, str(features).rpartition("-")[0] or None, rank_by, cards)
    for source in waiting:
        line = f"{source} has not been scored; to do so: genkit evaluate {source}"
        print(printable(line), file=sys.stderr)
    if json != "-" or output:
        page = output or (sources[0] / REPORT if len(sources) == 1 else Path(REPORT))
        write_page(sources, page, found, rank_by)
        if json != "-":
            print(printable(page))


def show(
    rows: list[dict[str, Any]],
    found: Registry,
    features: str | None,
    rank_by: str | None,
    cards: bool,
) -> None:
    """Print rows, ranked if they may be, and their cards if these are asked for."""
    from genkit.report.ranking import footnotes, rank, score_columns
    from genkit.report.tables import print_cards, print_ranking

    ranking = rank(rows, score_columns(found), rank_by)
    print_ranking(ranking, features, footnotes(ranking))
    if cards:
        print_cards(ranking.rows)
