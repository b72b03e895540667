"""Writes commands.md and options.md from the code, and tables of other pages (sections.py).

    python docs/reference.py            write all of them
    python docs/reference.py --check    exit code 1 if one of them is stale

Only what comes with genkit is written, whatever plugins are installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import typer
from sections import RECORDS, file_tables, record_tables, within

from genkit.cli import app
from genkit.config.run import RunConfig
from genkit.data.splits import Augmentation
from genkit.registry.catalogue import Entry, load_registry
from genkit.specs import Config

DOCS = Path(__file__).parent
COMMAND = "python docs/reference.py"
HEAD = f"<!-- made by {COMMAND}; do not edit -->\n\n"
KINDS = {"trainers": "Models", "datasets": "Data sets", "metrics": "Metrics"} | {
    "features": "Feature extractors"
}
NAMES = {str: "text", int: "whole number", float: "number", bool: "switch", Path: "path"}


def pages() -> dict[str, str]:
    """The pages by their file names."""
    contributing, runs = (
        (DOCS / name).read_text(encoding="utf-8")
        for name in ("contributing.md", "run-directory.md")
    )
    return {
        "commands.md": commands_page(),
        "options.md": options_page(),
        "contributing.md": within(contributing, "files", file_tables()),
        "run-directory.md": within(runs, "records", record_tables(RECORDS)),
    }


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; bars within cells are escaped."""
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def kind(annotation: Any) -> str:
    """A type in words: `whole number`, `text, repeatable`, or its choices."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (list, tuple):
        return f"{kind(arguments[0])}, repeatable"
    inner = [each for each in arguments if each is not NoneType]
    return kind(inner[0]) if inner else NAMES.get(annotation, "text")


def value(default: Any) -> str:
    """A default as one would type it; nothing for none."""
    if default in (None, (), [], ""):
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    words = default if isinstance(default, (list, tuple)) else [default]
    return f"`{' '.join(str(word) for word in words)}`"


def limits(low: Any = None, high: Any = None, above: Any = None, below: Any = None) -> str:
    """A range in words, from inclusive and exclusive bounds."""

    def number(bound: Any) -> str:
        return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"

    words = [f"from {number(low)}"] if low is not None else []
    words += [f"above {number(above)}"] if above is not None else []
    words += [f"to {number(high)}"] if high is not None else []
    words += [f"below {number(below)}"] if below is not None and below < 2**31 else []
    return " ".join(words)


# ---- commands.md

COMMANDS = """# Commands

Each command of `genkit` with its arguments and options, as `--help` shows them. Options may
stand in any order. Models, data sets and feature extractors have options of their
own, in [Options](options.md).

Options of `genkit` itself:

"""


def commands_page() -> str:
    root: Any = typer.main.get_command(app)
    text = HEAD + COMMANDS
    text += parameter_table(p for p in root.params if "completion" not in p.name)
    text += "\n`genkit --install-completion` teaches your shell to complete names and options.\n"
    for name in own_commands():
        text += command_section(f"genkit {name}", root.commands[name])
    return text


def own_commands() -> list[str]:
    """Names of genkit's own commands, without third-party and hidden ones."""
    from typer.main import get_command_name

    names = {group.name for group in app.registered_groups}
    for command in app.registered_commands:
        if not command.hidden and command.callback:
            names.add(command.name or get_command_name(command.callback.__name__))
    return sorted(filter(None, names))


def command_section(path: str, command: Any) -> str:
    """A command: what it does, how it is called, its arguments and options."""
    if path == "genkit train":
        return train_section(command)
    if hasattr(command, "commands"):
        parts = (command_section(f"{path} {n}", c) for n, c in sorted(command.commands.items()))
        return "".join(parts)
    arguments = [p for p in command.params if not option_names(p)]
    words = [f"{p.name.upper()}{'...' * (p.nargs == -1)}" for p in arguments]
    words = [w if p.required else f"[{w}]" for w, p in zip(words, arguments, strict=True)]
    text = f"\n## `{path}`\n\n{paragraph(command.help)}\n\n"
    text += f"Usage: `{' '.join([path, *words, '[OPTIONS]'])}`\n\n"
    return text + parameter_table(p for p in command.params if not p.hidden)


def train_section(command: Any) -> str:
    """`genkit train`: the options that all models have; each model's own are in options.md."""
    own = built_in(load_registry(strict=False).trainers)
    common: list[Any] = []
    for name, entry in own.items():
        fields = entry.spec.config.model_fields
        found = [p for p in command.commands[name].params if p.name not in fields]
        names = [p.name for p in found]
        assert not common or [p.name for p in common] == names
        common = found
    links = ", ".join(f"[{name}](options.md#{name})" for name in own)
    for parameter in common:
        if parameter.name == "preset":
            parameter.help = "starting values: `full` or `quick`, or another one of the model's"
    text = f"\n## `genkit train`\n\n{paragraph(command.help)}\n\nUsage: `genkit train MODEL "
    text += f"[OPTIONS]`\n\nEach model has options of its own beside these: {links}.\n\n"
    return text + parameter_table(p for p in common if not getattr(p, "hidden", False))


def paragraph(text: str | None) -> str:
    """A help text with its single line breaks undone."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", (text or "").strip())


def option_names(parameter: Any) -> str:
    """`-n`, `--samples` and so on; empty for an argument."""
    names = [n for n in [*parameter.opts, *parameter.secondary_opts] if n.startswith("-")]
    return ", ".join(f"`{name}`" for name in names)


def parameter_table(parameters: Iterable[Any]) -> str:
    """Arguments and options with type, range, default and meaning."""
    rows = []
    for p in parameters:
        if p.name == "help":
            continue
        rows.append(
            (
                option_names(p) or f"`{p.name.upper()}`",
                kind(p.type_descriptor.annotation),
                limits(p.min, p.max),
                "required" if p.required else value(p.default),
                paragraph(p.help),
            )
        )
    return table(("option", "type", "range", "default", "meaning"), rows)


# ---- options.md

OPTIONS = """# Options

All options, from the classes that check them. Options of a run and of a model are given to
`genkit train MODEL` as they stand here, in a TOML file (`--config`) under the same names with `_`
for `-`, or to `genkit compare` by `--set MODEL.OPTION=VALUE`. A data set's are given by
`--data-option KEY=VALUE`. Empty cells: no limit, no default; without `--data`, the data set is the
one that is the default below.

## Every run

"""


def built_in(entries: Mapping[str, Entry[Any]]) -> dict[str, Entry[Any]]:
    """The entries that come with genkit."""
    return {name: entry for name, entry in entries.items() if entry.plugin.built_in}


def options_page() -> str:
    text = HEAD + OPTIONS
    text += fields_table(RunConfig, "--", {})
    registry = load_registry(strict=False)
    for catalogue, title in KINDS.items():
        text += f"\n## {title}\n"
        if catalogue == "datasets":
            text += "\nEvery data set has these options, beside its own:\n\n"
            text += fields_table(Augmentation, "", {})
        for name, entry in built_in(getattr(registry, catalogue)).items():
            spec = entry.spec
            text += f"\n### `{name}`\n\n{spec.summary.rstrip('.')}.\n"
            if spec == registry.datasets[registry.default_data].spec:
                text += "The default data set.\n"
            if spec.config.model_fields:
                prefix = "--" if catalogue == "trainers" else ""
                text += "\n" + fields_table(spec.config, prefix, getattr(spec, "presets", {}))
            if catalogue == "trainers" and spec.sampler.model_fields:
                text += "\nChosen when samples are drawn, by `genkit sample RUN`:\n\n"
                text += fields_table(spec.sampler, "--", {})
    return text


def fields_table(
    config: type[Config], prefix: str, presets: Mapping[str, Mapping[str, Any]]
) -> str:
    """The fields of a config class: type, range, default, presets that change it, meaning."""
    presets = {name: values for name, values in presets.items() if values}
    rows = [
        (
            f"`{flag(name, field) if prefix else name}`",
            kind(field.annotation),
            limits(*bounds(field)),
            value(field.get_default(call_default_factory=True)),
            *(value(values.get(name)) for values in presets.values()),
            field.description or "",
        )
        for name, field in config.model_fields.items()
    ]
    headings = ("option", "type", "range", "default", *(f"`{p}`" for p in presets), "meaning")
    return table(headings, rows)


def flag(name: str, field: Any) -> str:
    """How a field is written on the command line."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return str(extra.get("flag", f"--{name.replace('_', '-')}"))


def bounds(field: Any) -> Iterator[Any]:
    """The narrowest bounds of a field: from, to, above, below; None where there is none."""
    for name, narrowest in (("ge", max), ("le", min), ("gt", max), ("lt", min)):
        found = [getattr(m, name) for m in field.metadata if hasattr(m, name)]
        yield narrowest(found) if found else None


def main(arguments: list[str]) -> int:
    stale = []
    for name, text in pages().items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8")
    if "--check" in arguments and stale:
        print(f"stale: {', '.join(stale)}; run: {COMMAND}", file=sys.stderr)
        return 1
    print("\n".join(str(DOCS / name) for name in stale) or "up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
