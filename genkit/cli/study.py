"""`genkit study`: repeatable studies, shipped with plugins or the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genkit.cli.arguments import Data, DataRoot, Device, JSONPath, check_budget
from genkit.cli.common import registry
from genkit.errors import GenkitError


def study(
    name: Annotated[
        str | None,
        typer.Argument(help="name of a study, or path of a study file; without one all are listed"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="fewer trainings, shorter: minutes on two cores")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="folder of all results; where the study was begun, it is continued. "
            "Default: runs/NAME"
        ),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    budget: Annotated[
        str | None,
        typer.Option(help="of each training, instead of the study's", callback=check_budget),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="trainings of each case, instead of the study's"),
    ] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each training")] = 1,
    workers: Annotated[
        int | None, typer.Option(min=1, help="trainings at a time; default: one per CPU core")
    ] = None,
    json: JSONPath = None,
) -> None:
    """Run a study: train its cases with several seeds, count what failed, and write one page."""
    from genkit.report.tables import write_json_output
    from genkit.study.find import find_study
    from genkit.study.page import PAGE
    from genkit.study.run import StudyOptions, run_study
    from genkit.study.table import print_study

    found = registry()
    if name is None:
        list_studies()
        return
    title, content = find_study(name, found)
    content = content.with_quick() if quick else content
    chosen = StudyOptions(data, data_root, budget, seeds, threads, device, workers)
    out = out or Path("runs", f"{title}-quick" if quick else title)
    comparison = run_study(title, content, chosen, found, out)
    if json:
        write_json_output(json, [row.to_json() for row in comparison.rows])
    if json != "-":
        print_study(content, out)
        print(f"{out / PAGE} shows all of it, to be opened in a browser")
    if all(row.error for row in comparison.ranking.models):
        raise GenkitError("all trainings failed; the page says why")


def list_studies() -> None:
    """Print all studies that plugins ship."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from genkit.errors import printable
    from genkit.report.tables import print_table
    from genkit.study.file import read_study
    from genkit.study.find import shipped_studies

    table = Table(title="Studies", title_justify="left", show_header=False, box=None)
    for name, path in shipped_studies(registry()).items():
        try:
            title = read_study(path).title
        except GenkitError as error:
            title = f"cannot be used: {error}"
        table.add_row(Text(name, style="bold"), Text(printable(title)))
    print_table(table, Console())
    print("\ngenkit study NAME runs one; genkit study mine.toml one of your own")
