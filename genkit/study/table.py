"""The table of a study, for terminals and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genkit.errors import printable
from genkit.report.headline import plain
from genkit.report.tables import print_table
from genkit.study.file import StudyFile
from genkit.study.page import Group, has_likelihoods, make_groups, read_results

Line = tuple[str, ...]


def study_table(study: StudyFile, folder: Path) -> tuple[Line, list[Line]]:
    """The headings and the lines of a study's table: each failure, below it its cures."""
    record = read_results(folder)
    title = plain(record.columns[0].title) if record.columns and record.ranked_by else "score"
    groups = make_groups(study, folder, {})
    also = has_likelihoods(groups)
    headings = ["case", "options", "failed", "95% interval", "first warned", title]
    headings += ["NLL nats"] * also
    return tuple(headings), [line for group in groups for line in _lines(group, also)]


def _lines(group: Group, also: bool) -> list[Line]:
    """A line for each case, with its likelihood if one of them has any."""
    lines: list[Line] = []
    for member in group.members:
        outcome = member.outcome
        low, high = outcome.interval
        lines.append(
            (
                f"{'  ' * bool(member.case.cures)}{member.case.label}",
                member.options,
                outcome.rate,
                f"{low:.0%} to {high:.0%}" if outcome.trainings else "-",
                first_step(outcome.warnings),
                member.score,
                *[member.nats] * also,
            )
        )
    return lines


def first_step(warnings: Sequence[str]) -> str:
    """The earliest step that a warning names: "step 725", or nothing."""
    steps = [int(m[1].replace(",", "")) for w in warnings if (m := re.match(r"step ([\d,]+):", w))]
    return f"step {min(steps):,}" if steps else ""


def print_study(study: StudyFile, folder: Path, console: Console | None = None) -> None:
    """Print the table of a study, and what its numbers are."""
    headings, lines = study_table(study, folder)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < 2 else "right")
    for line in lines:
        table.add_row(*(Text(printable(cell)) for cell in line))
    console = console or Console()
    print_table(table, console)
    console.print(
        "\nFailed: the watcher warned, or the training ended by an error; with Wilson's interval. "
        "A score's ± is half its 95% interval over trainings, or of one training two standard "
        "deviations over samples.",
        markup=False,
        highlight=False,
    )


def to_markdown(study: StudyFile, folder: Path) -> str:
    """The table as Markdown."""
    headings, lines = study_table(study, folder)
    rows = [headings, ("---",) * len(headings), *(_quoted(line) for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _quoted(line: Line) -> Line:
    label, options, *others = line
    name = label.strip()
    name = f"- {name}" if label != name else f"**{name}**"
    return (name, f"`{options}`" if options else "", *others)
