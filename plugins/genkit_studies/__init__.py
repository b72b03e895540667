"""The studies that come with genkit, as a plugin: a TOML file each."""

from pathlib import Path

from genkit.hookspecs import hookimpl


@hookimpl
def register_studies() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.toml"))
