"""What `genkit list`, `info` and `plugins` print. Light, except that `info` builds a model to count
its parameters."""

from __future__ import annotations

import traceback as tracebacks
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from genkit.config.validation import suggest
from genkit.errors import UsageError, printable
from genkit.io.files import JsonObject
from genkit.registry.catalogue import Entry, Registry
from genkit.registry.plugin import Plugin
from genkit.report.tables import print_table
from genkit.specs import Config, DatasetSpec, ImageShape, MetricSpec, Spec, TrainerSpec

KINDS = {
    "trainers": "Models",
    "datasets": "Data sets",
    "metrics": "Metrics",
    "features": "Feature extractors",
}


def catalogue(registry: Registry) -> dict[str, dict[str, dict[str, str]]]:
    """All that is installed, by kind and name: summary and the distribution it comes from."""
    return {
        kind: {
            name: {"summary": entry.spec.summary, "from": entry.plugin.distribution}
            for name, entry in getattr(registry, kind).items()
        }
        for kind in KINDS
    }


def print_catalogue(registry: Registry) -> None:
    """All that is installed, one table a kind."""
    console = Console()
    for kind, title in KINDS.items():
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        entries: Mapping[str, Entry[Spec]] = getattr(registry, kind)
        for name, entry in entries.items():
            source = "" if entry.plugin.built_in else f" ({entry.plugin.distribution})"
            table.add_row(Text(name, style="bold"), Text(printable(entry.spec.summary + source)))
        print_table(table, console)
        console.print()


def print_info(registry: Registry, name: str, channels: int, size: int) -> None:
    """A model, data set, metric or feature extractor in full; UsageError with the closest name if
    there is none of that name."""
    console = Console()
    found = [k for k in KINDS if name in getattr(registry, k) or name in contested(registry, k)]
    if not found:
        names = [n for kind in KINDS for n in getattr(registry, kind)]
        raise UsageError(f"there is nothing named {name!r}.{suggest(name, names)} See: genkit list")
    for kind in found:
        spec = getattr(registry, kind).find(name)
        plugin = getattr(registry, kind)[name].plugin
        console.print(Text(f"{KINDS[kind]}: {name}", style="bold"))
        console.print(Text(printable(spec.summary)))
        console.print(Text(f"from {plugin.distribution} {plugin.version}, {spec.target}\n"))
        if spec.config.model_fields:
            print_table(_option_table(spec), console)
        if isinstance(spec, DatasetSpec):
            from genkit.data.splits import Augmentation  # loads NumPy

            console.print(Text("Of every data set, also by --data-option KEY=VALUE:"))
            print_table(_keys_table(Augmentation), console)
        if isinstance(spec, MetricSpec):
            _print_metric(console, spec)
        if isinstance(spec, TrainerSpec):
            if spec.sampler.model_fields:
                console.print(Text("\nChosen after training, by --sampler KEY=VALUE:"))
                print_table(_keys_table(spec.sampler), console)
            _print_model(console, spec, ImageShape(channels, size, size))


def contested(registry: Registry, kind: str) -> JsonObject:
    """Names of a kind that more than one third-party plugin claims."""
    return dict(getattr(registry, kind).contested)


def _option_table(spec: Any) -> Table:
    presets = dict(getattr(spec, "presets", {}))
    table = Table(box=None)
    for heading in ("option", "default", *presets, ""):
        table.add_column(heading)
    for field, details in spec.config.model_fields.items():
        cells = [f"--{field.replace('_', '-')}", str(details.default)]
        cells += [str(values.get(field, "")) for values in presets.values()]
        table.add_row(*(Text(printable(cell)) for cell in [*cells, details.description or ""]))
    return table


def _keys_table(config: type[Config]) -> Table:
    table = Table("key", "default", "", box=None)
    for field, details in config.model_fields.items():
        cells = (field, str(details.default), details.description or "")
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _print_metric(console: Console, spec: MetricSpec) -> None:
    """What a metric's values are called and how they rank."""
    for column in spec.columns:
        words = [f"{column.better} is better"] if column.better else []
        words += ["ranks models"] if column.ranks else []
        words += ["unbiased"] if column.unbiased else []
        words += ["corrected for its bias"] if column.corrected else []
        console.print(Text(f"  {column.name}: {', '.join(words) or 'in JSON only'}"))
        if column.help:
            console.print(Text(f"    {printable(column.help)}"))
    console.print(Text(f"  {printable(spec.definition)}"))


def _print_model(console: Console, spec: TrainerSpec, shape: ImageShape) -> None:
    """The docstring of the model's class, and its parameters part by part."""
    import inspect

    from genkit.config.resolve import resolve
    from genkit.runs.build import build_model, count_parameters

    model = build_model(spec, resolve(spec).options, shape, seed=0)
    console.print()
    console.print(Markdown(inspect.cleandoc(type(model).__doc__ or "")))
    console.print(Text(f"\nTrainable parameters at {shape}, default options:"))
    for part, module in model.named_children():
        console.print(Text(f"  {part}: {count_parameters(module):,}"))
    console.print(Text(f"  in all: {count_parameters(model):,}"))


def health(registry: Registry) -> list[JsonObject]:
    """Each plugin: where it comes from, what it provides, what importing it cost, its problem,
    None if it has none, and notes on what it should not do."""
    return [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "provides": _provided(registry, plugin),
            "import_seconds": plugin.import_seconds,
            "imported_torch": plugin.imported_torch,
            "problem": plugin.problem,
            "notes": plugin.notes,
        }
        for plugin in registry.plugins.plugins
    ]


def _provided(registry: Registry, plugin: Plugin) -> dict[str, list[str]]:
    """Names by kind, studies among them, and the run events that the plugin listens to."""
    from genkit.study.find import shipped_studies

    found = {kind: _names(getattr(registry, kind), plugin) for kind in KINDS}
    found["studies"] = list(shipped_studies(registry, plugin))
    found["events"] = registry.plugins.events_of(plugin)
    return {kind: names for kind, names in found.items() if names}


def _names(entries: Mapping[str, Entry[Any]], plugin: Plugin) -> list[str]:
    return [name for name, entry in entries.items() if entry.plugin is plugin]


def print_plugins(registry: Registry, traceback: bool) -> None:
    """Each plugin's health; with `traceback`, errors in full."""
    console = Console()
    table = Table(box=None)
    for heading in ("plugin", "distribution", "provides", "import", "torch", "problem or note"):
        table.add_column(heading)
    for plugin in health(registry):
        cells = [
            plugin["name"],
            f"{plugin['distribution']} {plugin['version']}",
            ", ".join(name for names in plugin["provides"].values() for name in names),
            f"{1000 * plugin['import_seconds']:.0f} ms",
            "at import" if plugin["imported_torch"] else "",
            "; ".join(filter(None, [plugin["problem"], *plugin["notes"]])),
        ]
        table.add_row(*(Text(cell) for cell in cells))
    print_table(table, console)
    for failed in registry.plugins.failed if traceback else []:
        if failed.error is not None:
            console.print(Text("\n" + "".join(tracebacks.format_exception(failed.error))))
