"""`genkit new-plugin`: writes a small plugin that works as it is, from the files in `templates`.

Imports no pydantic: `genkit --help` must stay fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated, Literal

import typer

from genkit.errors import UsageError

TEMPLATES = Path(__file__).with_name("templates")
Kind = Literal["trainer", "dataset", "metric", "features"]


@dataclass(frozen=True)
class Description:
    """A kind of plugin: its name in a sentence, its second module, a command that uses it."""

    noun: str
    module: str
    command: str


DESCRIPTIONS: dict[Kind, Description] = {
    "trainer": Description("model", "model", "genkit train {} --budget 60s"),
    "dataset": Description("data set", "data", "genkit train vae --data {} --budget 60s"),
    "metric": Description("metric", "metric", "genkit evaluate real --samples 1000"),
    "features": Description(
        "feature extractor", "extractor", "genkit evaluate real --samples 1000 --features {}"
    ),
}


def new_plugin(
    name: Annotated[str, typer.Argument(help="what it will be called, such as my-model")],
    kind: Annotated[Kind, typer.Option(help="what it provides")] = "trainer",
    out: Annotated[
        Path, typer.Option(help="where its folder, torch-genkit-NAME, will lie")
    ] = Path(),
) -> None:
    """Write a small plugin that works as it is: code, a test, a README."""
    project = write_plugin(name, kind, out)
    print(project)
    print("Next:")
    for command in next_commands(name, kind, project):
        print(f"  {command}")


def next_commands(name: str, kind: Kind, project: Path) -> list[str]:
    """Command lines that install a new plugin, show it and test it."""
    return [
        f'pip install -e "{project}[test]"',
        DESCRIPTIONS[kind].command.format(name),
        f'pytest "{project}"',
    ]


def write_plugin(name: str, kind: Kind, out: Path) -> Path:
    """Write an installable package into `out`/torch-genkit-`name` and return that folder.

    Raises:
        UsageError: the name cannot be used, or the folder exists already; nothing is written.
    """
    identifier = name.replace("-", "_")
    package, project = f"genkit_{identifier}", out / f"torch-genkit-{name}"
    check_name(name, package)
    module = DESCRIPTIONS[kind].module
    sources = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{package}/__init__.py": f"{kind}/__init__.py",
        f"{package}/{module}.py": f"{kind}/{module}.py",
        f"tests/test_{identifier}.py": f"{kind}/test.py",
    }
    words = {
        "name": name,
        "identifier": identifier,
        "package": package,
        "noun": DESCRIPTIONS[kind].noun,
        "command": DESCRIPTIONS[kind].command.format(name),
    }
    words["first_changes"] = _fill(f"{kind}/first_changes.md", words).rstrip()
    contents = {target: _fill(source, words) for target, source in sources.items()}
    try:
        if project.exists() and (not project.is_dir() or any(project.iterdir())):
            raise UsageError(f"{project} is there already; choose another name or --out")
        for target, content in contents.items():
            path = project / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(
            f"{project} cannot be written ({error.strerror or error}); choose another --out"
        ) from error
    return project


def check_name(name: str, package: str) -> None:
    """Raise UsageError for a name that is not valid, or that is taken."""
    from genkit.cli.catalogue import KINDS
    from genkit.registry.catalogue import load_registry
    from genkit.report.rows import CALIBRATION
    from genkit.specs import NAME

    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name: use small letters, digits and single hyphens, as in my-model"
        )
    if name in (*CALIBRATION, "none"):
        raise UsageError(f"{name!r} is a word of the command line; choose another name")
    registry = load_registry(strict=False)
    for kind in KINDS:
        catalogue = getattr(registry, kind)
        if name in catalogue or name in catalogue.contested:
            raise UsageError(f"{catalogue.kind} {name!r} is there already; choose another name")
    for metric, entry in registry.metrics.items():
        if name.replace("-", "_") in {column.name for column in entry.spec.columns}:
            raise UsageError(f"{name!r} is a column of metric {metric!r}; choose another name")
    found = find_spec(package)
    if found is not None:
        raise UsageError(
            f"{name!r} would be the package {package}, which is there already, in "
            f"{found.origin or found.name}; choose another name, or uninstall that one"
        )


def _fill(template: str, words: dict[str, str]) -> str:
    text = (TEMPLATES / f"{template}.template").read_text(encoding="utf-8")
    return Template(text).substitute(words)
