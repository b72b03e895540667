"""Arguments that several commands share. Imports no pydantic: `genkit --help` must stay fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def check_json(target: str | None) -> str | None:
    """The target of --json, if it can be written to: checked before long work, not after."""
    if target not in (None, "-") and (Path(target).is_dir() or not Path(target).parent.is_dir()):
        raise typer.BadParameter(f"{target!r} is not a file in an existing folder.")
    return target


def check_budget(text: str | None) -> str | None:
    """The text of --budget, if it can be read as one."""
    from genkit.config.budget import Budget

    try:
        Budget.parse(text or "1s")
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None
    return text


Progress = Literal["auto", "bar", "lines", "json", "none"]
RunArgument = Annotated[Path, typer.Argument(help="run directory")]
Data = Annotated[
    str | None,
    typer.Option(
        help="data set: NAME, folder:PATH, prepared:PATH or npz:PATH; default: that of the run, "
        "or the default data set"
    ),
]
ComparedData = Annotated[
    str | None,
    typer.Option(help="data set; default: that of the first run, or the default data set"),
]
DataRoot = Annotated[
    Path | None, typer.Option(help="folder where data sets live (also GENKIT_DATA)")
]
DataOption = Annotated[
    list[str] | None, typer.Option(help="KEY=VALUE option of the data set, repeatable")
]
Samples = Annotated[int, typer.Option("-n", "--samples", min=10, help="samples to score")]
Features = Annotated[
    str | None, typer.Option(help="feature extractor; default: the data set's own; none for none")
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--feature-weights",
        "--inception-weights",
        help="file of the extractor's weights, when there is no network",
    ),
]
Draws = Annotated[
    int,
    typer.Option(
        min=1, max=10_000, help="importance samples per image in the bound on a likelihood"
    ),
]
RankBy = Annotated[
    str | None,
    typer.Option(help="score that ranks; default: an unbiased one below 5,000 samples"),
]
Cards = Annotated[
    bool, typer.Option("--cards", help="also print what each score was measured with")
]
Devices = Annotated[
    int, typer.Option(min=1, max=1024, help="processes that train together, one per device")
]
Best = Annotated[
    bool, typer.Option("--best", help="the weights that scored best in training, not the last")
]
SamplerOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--sampler",
        help="KEY=VALUE option of the model's sampler, repeatable; see: genkit info MODEL",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps")]
Seed = Annotated[int, typer.Option(min=0, help="seed of the samples")]
JSONPath = Annotated[
    str | None, typer.Option("--json", help="write JSON there; - for stdout", callback=check_json)
]
ProgressOption = Annotated[Progress, typer.Option(help="how progress is shown")]
Preview = Annotated[
    bool, typer.Option("--preview", help="show samples below the bar, on a terminal")
]
