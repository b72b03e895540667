"""`genkit sample`: samples of a run, and other pictures that its model can give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genkit.cli.arguments import Best, Device, RunArgument, SamplerOptions, Seed
from genkit.cli.common import is_given, registry
from genkit.cli.sampler_options import GIVEN
from genkit.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from genkit.io.run_records import RunRecord
    from genkit.runs.run import Run

Half = Literal["top", "bottom", "left", "right"]
# Options that each of these excludes; they also exclude one another.
KINDS: dict[str, tuple[str, ...]] = {
    "grid": ("n", "columns", "hide"),
    "interpolate": ("columns", "hide", "balanced"),
    "complete": ("columns", "balanced"),
    "labels": ("columns", "hide", "balanced"),
    "sweep": ("columns", "hide"),
    "film": ("n", "columns", "hide", "seed", "output", "best", "device", "balanced", "sampler"),
}
TOGETHER = {("interpolate", "labels"), ("complete", "labels")}  # do not exclude one another
NAMES = {
    "interpolate": "interpolation",
    "complete": "completion",
    "labels": "classes",
    "sweep": "sweep",
}
SAMPLES, ROWS, COMPLETIONS, IN_A_ROW = 64, 8, 6, 8  # defaults of -n
PANEL = "Other pictures"


def sample(
    context: typer.Context,
    run: RunArgument,
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--samples",
            min=1,
            help="images to draw, by default 64; or rows of --interpolate (8), completions of "
            "each image (6), images of each class or of each value of --sweep (8)",
        ),
    ] = None,
    seed: Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="grid.png, samples.npz, or a folder of PNG files"),
    ] = None,
    columns: Annotated[int | None, typer.Option(min=1, help="images in a row of the grid")] = None,
    grid: Annotated[
        str | None, typer.Option(help="COLUMNSxROWS of a grid, such as 8x8", metavar="CxR")
    ] = None,
    interpolate: Annotated[
        int | None,
        typer.Option(
            min=2,
            rich_help_panel=PANEL,
            help="rows of this many images from one sample to another, for models with latents",
        ),
    ] = None,
    complete: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=PANEL,
            help="image file whose hidden half is drawn again, for models that can; repeatable",
        ),
    ] = None,
    hide: Annotated[
        Half,
        typer.Option(
            rich_help_panel=PANEL,
            help="half that --complete hides; models that "
            "draw pixel by pixel know what lies above and, in the same row, to the left",
        ),
    ] = "bottom",
    labels: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PANEL,
            help="a row for each class: 0,1,2, or their names, or each, or all that have an "
            "attribute: colour=2; for models that follow labels; also the classes of --interpolate "
            "and --complete",
        ),
    ] = None,
    balanced: Annotated[
        bool,
        typer.Option(
            "--balanced",
            help="all classes in turn, for models that follow labels; by default labels are drawn "
            "from their shares of the training images",
        ),
    ] = False,
    sweep: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PANEL,
            metavar="KEY=VALUES",
            help="a row for each value of an option of the model's sampler, all from the same "
            "noise, such as steps=1,2,4,8,16",
        ),
    ] = None,
    film: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=PANEL, help="film.webp of the grids drawn while the run trained"
        ),
    ] = None,
    sampler: SamplerOptions = None,
    best: Best = False,
    device: Device = "auto",
) -> None:
    """Draw samples from a run; needs no data set. Image i of a seed is always the same.

    Options of its model's sampler are options here: genkit sample RUN --help.
    """
    from genkit.io.run_directory import RunDir

    kind = choose_kind(context)
    size = read_grid(grid) if grid is not None else None
    directory = RunDir.open(run)
    record = directory.record()
    if film:
        from genkit.report.film import make_film

        make_film(directory, film)
        print(film)
        return
    chosen = read_labels(labels, record) if labels is not None else []
    import torch

    from genkit.config.sampler import read_pairs
    from genkit.runs.run import load_run
    from genkit.sampling.draw import draw, draw_classes
    from genkit.sampling.files import check_output, save_samples
    from genkit.sampling.labels import choose_labels

    path = output or Path(f"{run.resolve().name}-{NAMES.get(kind, 'samples')}.png")
    check_output(path)
    options = {**read_pairs(sampler or ()), **context.meta.get(GIVEN, {})}
    loaded = load_run(run, registry(), device, best=best, sampler=options)
    names = record.data.classes
    drawn, titles = None, []  # labels of all images, names of rows
    if interpolate:
        count = n or len(chosen) or ROWS
        rows = loaded.interpolate(count, interpolate, seed, labels=in_turn(chosen, count))
    elif complete:
        own = in_turn(chosen, len(complete))
        rows = complete_files(loaded, complete, hide, n or COMPLETIONS, seed, own)
    elif chosen:
        rows = draw_classes(loaded.model, chosen, n or IN_A_ROW, seed)
        drawn = torch.tensor(chosen).repeat_interleave(rows.shape[1])
        titles = [names[label] if label < len(names) else str(label) for label in chosen]
    elif sweep:
        titles = [f"{key}={value}" for key, value in read_sweep(sweep)]
        drawn = choose_labels(loaded.model, n or IN_A_ROW, seed, "balanced" if balanced else None)
        each = []
        for key, value in read_sweep(sweep):
            loaded = load_run(run, registry(), device, best=best, sampler={**options, key: value})
            each.append(draw(loaded.model, n or IN_A_ROW, seed, labels=drawn))
        rows = torch.stack(each)
        drawn = None if drawn is None else drawn.repeat(len(each))
    else:
        columns, count = (size[0], size[0] * size[1]) if size else (columns, n or SAMPLES)
        drawn = choose_labels(loaded.model, count, seed, "balanced" if balanced else None)
        rows = draw(loaded.model, count, seed, labels=drawn)[:, None]
    if kind in NAMES:
        columns = rows.shape[1]
    save_samples(rows.flatten(0, 1), path, columns, labels=drawn, classes=names, rows=titles)
    print(path)


def in_turn(labels: list[int], count: int) -> list[int] | None:
    """So many labels, the given ones in turn; None if none were given."""
    return [labels[i % len(labels)] for i in range(count)] if labels else None


def choose_kind(context: typer.Context) -> str:
    """Which picture to draw, "samples" if none of `KINDS` was given; UsageError for options that
    exclude one another."""
    given = [name for name in context.params if is_given(context, name)]
    kinds = [name for name in KINDS if name in given]
    others = [kind for kind in kinds[1:] if (kinds[0], kind) not in TOGETHER]
    excluded = [*others, *(name for name in given if name in KINDS[kinds[0]])] if kinds else []
    if excluded:
        first, other = (f"-{'' if name == 'n' else '-'}{name}" for name in (kinds[0], excluded[0]))
        raise UsageError(f"{first} and {other} exclude one another; leave one of them out")
    if not kinds and "hide" in given:
        raise UsageError("--hide is for --complete; give the image to complete as well")
    return kinds[0] if kinds else "samples"


def read_grid(text: str) -> tuple[int, int]:
    """Columns and rows out of the text of --grid."""
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text, re.ASCII)
    if not match:
        raise UsageError(f"--grid {text!r} is not COLUMNSxROWS, 1 to 9999 each; an example is 8x8")
    return int(match[1]), int(match[2])


def read_sweep(text: str) -> list[tuple[str, str]]:
    """The key and each value out of the text of --sweep."""
    from genkit.config.sampler import read_pairs

    ((key, values),) = read_pairs([text], "--sweep").items()
    return [(key, value.strip()) for value in values.split(",")]


def read_labels(text: str, record: RunRecord) -> list[int]:
    """Labels out of the text of --labels: numbers, or names of classes as in config.json."""
    count, names = record.image_shape.classes, record.data.classes
    if count < 1:
        raise UsageError("--labels: the run was trained on images without classes; leave it out")
    if text == "each":
        return list(range(count))
    labels = []
    for word in (part.strip() for part in text.split(",")):
        if word in names[:count]:
            labels.append(names.index(word))
        elif re.fullmatch(r"\d{1,7}", word, re.ASCII) and int(word) < count:
            labels.append(int(word))
        elif having := _having(word, record):
            labels += having
        else:
            raise UsageError(
                f"--labels: there is no class {word!r}; give each, or some of "
                f"{', '.join(names[:count]) or f'0 to {count - 1}'}"
            )
    return labels


def _having(word: str, record: RunRecord) -> list[int]:
    """The labels of the classes with an attribute's value, such as colour=2; none if the word is
    no such thing."""
    attributes = record.model_shape().attributes
    name, _, text = word.partition("=")
    if attributes is None or name not in attributes.names:
        return []
    try:
        return attributes.having(name, float(text))
    except ValueError:
        return []


def complete_files(
    loaded: Run,
    paths: list[Path],
    hide: Half,
    n: int,
    seed: int,
    labels: list[int] | None = None,
) -> Tensor:
    """A row for each image file, fitted to the model's shape: its known half, n completions, the
    whole image. uint8, (files, n + 2, C, H, W)."""
    import numpy as np
    import torch

    from genkit.data.decode import read_image
    from genkit.sampling.completion import completion_rows, known_half

    shape = loaded.model.image_shape
    side = max(shape.height, shape.width)
    top, left = (side - shape.height) // 2, (side - shape.width) // 2
    squares = np.stack([read_image(path, side, shape.channels) for path in paths])
    cut = squares[:, :, top : top + shape.height, left : left + shape.width]
    images = torch.from_numpy(np.ascontiguousarray(cut))
    known = known_half(shape, hide)
    return completion_rows(images, known, loaded.complete(images, known, n, seed, labels=labels))
