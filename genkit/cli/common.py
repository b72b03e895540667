"""What several commands share: loaded plugins, given options, progress, tables of scores."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import typer

from genkit.io.processes import is_first

if TYPE_CHECKING:
    from genkit.io.progress import Reporter
    from genkit.registry.catalogue import Registry
    from genkit.report.rows import ScoreRow


def registry() -> Registry:
    """All plugins loaded; one line on stderr if some failed, except while a shell completes."""
    from genkit.registry.catalogue import load_registry

    loaded = load_registry()
    failed = loaded.plugins.failed
    if failed and "_GENKIT_COMPLETE" not in os.environ:
        names = ", ".join(plugin.name for plugin in failed)
        print(f"Plugins with problems: {names}; see: genkit plugins", file=sys.stderr)
    return loaded


def make_reporter(progress: str, preview: bool) -> Reporter:
    """The reporter of that kind; of several ranks only the first reports."""
    from genkit.io.progress import new_reporter

    return new_reporter(progress if is_first() else "none", preview)


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def show(
    rows: list[ScoreRow],
    found: Registry,
    features: str | None,
    rank_by: str | None,
    cards: bool,
) -> None:
    """Print rows, ranked if they may be, and their cards if these are asked for."""
    from rich.console import Console

    from genkit.report.footnotes import footnotes
    from genkit.report.ranking import rank, score_columns
    from genkit.report.tables import class_table, print_cards, print_ranking, print_table

    ranking = rank(rows, score_columns(found), rank_by)
    print_ranking(ranking, features, footnotes(ranking))
    for row in ranking.rows:
        if row.by_class:
            print_table(class_table(row, ranking.columns), Console())
    if cards:
        print_cards(ranking.rows)
