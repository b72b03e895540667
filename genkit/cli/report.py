"""`genkit report`: a page and tables of scores that were stored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from genkit.cli.arguments import Cards, JSONPath, RankBy
from genkit.cli.common import registry, show


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
    from genkit.report.rows import features_name, read_rows
    from genkit.report.run_view import unscored
    from genkit.report.tables import write_json_output

    if output and output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"-o {output} is not a name of a page; give one that ends in .html")
    waiting = unscored(sources)
    found = registry()
    rows = read_rows(sources if json else [s for s in sources if s not in waiting])
    if json != "-" and rows:
        show(rows, found, features_name(rows), rank_by, cards)
    if json:
        write_json_output(json, [row.to_json() for row in rows])
    for source in waiting:
        line = f"{source} has not been scored; to do so: genkit evaluate {source}"
        print(printable(line), file=sys.stderr)
    if json != "-" or output:
        page = output or (sources[0] / REPORT if len(sources) == 1 else Path(REPORT))
        write_page(sources, page, found, rank_by)
        if json != "-":
            print(printable(page))
