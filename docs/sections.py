"""Tables within pages that are otherwise written by hand; reference.py writes them.

The list of files of contributing.md comes from the first sentence of each file's docstring, the
fields of run-directory.md from the record classes that read and write those files.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from genkit.io.records import BestPointer, Record
from genkit.io.run_records import ClockMark, RunRecord, Summary
from genkit.report.rows import ComparisonRecord, ScoreRow

PACKAGE = Path(__file__).parents[1] / "genkit"
# The files of a run directory, in the order of the page: heading and record class. Records within
# these follow by themselves.
RECORDS: dict[str, type[Record]] = {
    "config.json": RunRecord,
    "summary.json": Summary,
    "clock.jsonl, for budgets in seconds: a line each": ClockMark,
    "checkpoints/best.json": BestPointer,
    "evaluation.json: a list of rows": ScoreRow,
    "compare.json, of a comparison": ComparisonRecord,
}
FIELDS = """
## What the files hold

Each JSON file is written and read through a class, from which these tables are made. Unknown
fields are ignored; a file with a missing or wrong field is refused, with a message that names it.
"""
NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null"}


def within(page: str, name: str, content: str) -> str:
    """A page with other content between its comments `made: NAME` and `end: NAME`."""
    before, start, rest = page.partition(f"<!-- made: {name} -->\n")
    _, end, after = rest.partition(f"<!-- end: {name} -->")
    if not (start and end):
        raise ValueError(f"the comments around {name!r} are missing")
    return f"{before}{start}{content}{end}{after}"


# ---- files of the code


def file_tables() -> str:
    """A table for each folder of genkit: its files, and what each is for."""
    text = file_table("genkit/", PACKAGE, sorted(PACKAGE.glob("*.py")))
    for path in sorted(PACKAGE.glob("*/__init__.py")):
        files = sorted(set(path.parent.glob("*.py")) - {path})
        text += file_table(f"genkit/{path.parent.name}/", path.parent, files)
    return text


def file_table(title: str, folder: Path, files: Iterable[Path]) -> str:
    text = f"\n### `{title}`\n\n{summary(folder / '__init__.py')}\n\n| file | what it is for |\n"
    return text + "|---|---|\n" + "".join(f"| `{f.name}` | {summary(f)} |\n" for f in files)


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, in one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", first)[0].replace("|", "\\|")


# ---- fields of records


def record_tables(records: Mapping[str, type[Record]]) -> str:
    """A section with a table for each record, by its heading, and for each record within one."""
    if not records:
        return ""
    titles = {record: title for title, record in records.items()}
    for record in list(titles):
        for inner in records_within(record):
            titles.setdefault(inner, f"`{inner.__name__}`")
    tables = (record_table(title, record, titles) for record, title in titles.items())
    return FIELDS + "".join(tables)


def record_table(
    title: str, record: type[Record], titles: Mapping[type[Record], str] | None = None
) -> str:
    """The fields of a record: what JSON holds, what is assumed if it is missing, and its meaning,
    from the field's description or from "Args:" in the docstring."""
    meanings = arguments(record.__doc__ or "")
    first = " ".join((record.__doc__ or "").partition("\n\n")[0].split())
    text = (
        f"\n### {title}\n\n{first}\n\n| field | holds | if missing | meaning |\n|---|---|---|---|\n"
    )
    for name, field in record.model_fields.items():
        missing = (
            "refused"
            if field.is_required()
            else shown(field.get_default(call_default_factory=True))
        )
        meaning = field.description or meanings.get(name, "").rstrip(".")
        cells = (f"`{name}`", kind(field.annotation, titles or {}), missing, meaning)
        text += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    return text


def shown(default: Any) -> str:
    """A default as JSON."""
    return f"`{json.dumps(default.to_json() if isinstance(default, Record) else default)}`"


def records_within(record: type[Record]) -> Iterator[type[Record]]:
    """The record classes that fields hold, at any depth."""

    def parts(annotation: Any) -> Iterator[Any]:
        yield annotation
        for part in get_args(annotation):
            yield from parts(part)

    for field in record.model_fields.values():
        for part in parts(field.annotation):
            if isinstance(part, type) and issubclass(part, Record):
                yield part
                yield from records_within(part)


def kind(annotation: Any, titles: Mapping[type[Record], str]) -> str:
    """A type as people name what JSON holds; a record as a link to its table."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind(inner[0], titles)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in inner)
    if origin in (Union, UnionType):
        return " or ".join(kind(part, titles) for part in inner)
    if origin in (list, tuple):
        part = kind(inner[0], titles)
        return f"list of {part}s" if part.endswith("number") else f"list of {part}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"by name: {kind(inner[1], titles)}"
    if annotation in titles:
        anchor = re.sub(r"[^\w -]", "", titles[annotation]).lower().replace(" ", "-")
        return f"[{titles[annotation]}](#{anchor})"
    return NAMES.get(annotation, "any JSON")


def arguments(docstring: str) -> dict[str, str]:
    """Meanings by name, from the lines below "Args:" of a docstring."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in docstring.partition("Args:\n")[2].partition("\n\n")[0].splitlines():
        opening = re.fullmatch(r"\s*(\w+(?:, \w+)*): (.+)", line)
        if opening:
            names = opening[1].split(", ")
            found |= dict.fromkeys(names, opening[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found
