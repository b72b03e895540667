"""`genkit list`, `genkit info` and `genkit plugins`: what is installed."""

from __future__ import annotations

from typing import Annotated

import typer

from genkit.cli.arguments import JSONPath
from genkit.cli.common import registry


def list_(json: JSONPath = None) -> None:
    """List all models, data sets, metrics and feature extractors."""
    from genkit.cli.catalogue import catalogue, print_catalogue
    from genkit.report.tables import write_json_output

    found = registry()
    if json:
        write_json_output(json, catalogue(found))
    if json != "-":
        print_catalogue(found)


def info(
    name: Annotated[str, typer.Argument(help="a model, data set, metric or feature extractor")],
    channels: Annotated[int, typer.Option(min=1, max=4, help="of the images to count for")] = 1,
    size: Annotated[int, typer.Option(min=1, help="pixels a side of these images")] = 28,
) -> None:
    """Show one thing in full: options, presets and, for a model, its parameters."""
    from genkit.cli.catalogue import print_info

    print_info(registry(), name, channels, size)


def plugins(
    full: Annotated[bool, typer.Option("--traceback", help="show errors in full")] = False,
    json: JSONPath = None,
) -> None:
    """Show each plugin: where it comes from, what it provides and what is wrong with it."""
    from genkit.cli.catalogue import health, print_plugins
    from genkit.registry.catalogue import load_registry
    from genkit.report.tables import write_json_output

    found = load_registry(strict=False)
    if json:
        write_json_output(json, health(found))
    if json != "-":
        print_plugins(found, full)
