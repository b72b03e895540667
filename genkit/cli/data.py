"""`genkit data`: commands on data sets. Imports no pydantic: `genkit --help` must stay fast."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genkit.cli.arguments import JSONPath, ProgressOption

if TYPE_CHECKING:
    from genkit.data.prepare import Prepared

data = typer.Typer(help="Data sets: prepare a folder of images for fast starts.")


@data.callback()
def group() -> None:
    """Data sets: prepare a folder of images for fast starts."""


@data.command("prepare")
def prepare_folder(
    folder: Annotated[
        Path, typer.Argument(help="folder of PNG, JPEG, WebP, BMP, GIF or TIFF files")
    ],
    out: Annotated[Path, typer.Option(help="folder for the result; new, or prepared before")],
    size: Annotated[
        str,
        typer.Option(
            help="pixels a side, or WIDTHxHEIGHT, that images are scaled to; 8 to 256",
        ),
    ] = "32",
    fit: Annotated[
        Literal["crop", "pad", "stretch", "none"],
        typer.Option(
            help="images of another shape: cut out the centre, pad the edges, stretch; none leaves "
            "out what has another size"
        ),
    ] = "crop",
    resample: Annotated[
        Literal["auto", "smooth", "nearest"],
        typer.Option(
            help="how images are scaled; auto takes nearest for small ones of few colours"
        ),
    ] = "auto",
    channels: Annotated[
        Literal["auto", "1", "2", "3", "4"],
        typer.Option(
            help="1 for grey, 3 for colour, 2 and 4 for the same with transparency; auto takes the "
            "fewest that show all"
        ),
    ] = "auto",
    window: Annotated[
        str, typer.Option(help="LOW-HIGH, the values of 16-bit images that become black and white")
    ] = "0-65535",
    splits: Annotated[
        Literal["auto", "none"],
        typer.Option(
            help="auto: sub-folders train and test, or train and val, are the splits; none: all "
            "are classes"
        ),
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="processes that decode; default: one per CPU core"),
    ] = None,
    progress: ProgressOption = "auto",
    json: JSONPath = None,
) -> None:
    """Decode a folder of images once; train on the result with --data prepared:OUT.

    If it is killed, the same command continues where it stopped. Given again later, it decodes only
    the files that have changed.
    """
    from genkit.data.prepare import prepare
    from genkit.io.machine import count_cores
    from genkit.io.progress import new_reporter
    from genkit.io.signals import signals_raised
    from genkit.report.tables import write_json_output

    with signals_raised():
        prepared = prepare(
            Path(os.path.expanduser(folder)),
            Path(os.path.expanduser(out)),
            size=size,
            channels=channels,
            window=window,
            splits=splits,
            fit=fit,
            resample=resample,
            workers=workers or count_cores(),
            reporter=new_reporter(progress),
        )
    if json:
        write_json_output(json, to_json(prepared))
    if json != "-" and progress != "json":
        print_prepared(prepared)


def to_json(prepared: Prepared) -> dict[str, object]:
    """The content of `--json`."""
    manifest = prepared.manifest
    return {
        "path": str(prepared.path),
        "data": f"prepared:{prepared.path}",
        "up_to_date": prepared.up_to_date,
        "decoded": prepared.decoded,
        "shape": manifest.shape[1:],
        "train_images": manifest.train_images,
        "test_images": manifest.shape[0] - manifest.train_images,
        "held_out": manifest.held_out,
        "classes": manifest.classes,
        "fingerprint": manifest.fingerprint,
        "left_out": manifest.left_out,
        "other_files": manifest.other_files,
    }


def print_prepared(prepared: Prepared) -> None:
    """Print what the folder holds; its path comes last."""
    manifest = prepared.manifest
    count, *sides = manifest.shape
    test = "held out for testing" if manifest.held_out else "to test on"
    print(
        f"{count:,} images of {' x '.join(map(str, sides))}: {manifest.train_images:,} to train "
        f"on, {count - manifest.train_images:,} {test}"
    )
    if manifest.classes:
        print(f"{len(manifest.classes):,} classes")
    for note in manifest.notes:
        print(note)
    print("up to date" if prepared.up_to_date else f"decoded {prepared.decoded:,} files")
    print(prepared.path)
