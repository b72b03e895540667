"""The film of a training: its grids of samples, one after the other, as an animated WebP."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from genkit.data.image_file import BadImage, opened, read_content
from genkit.errors import UsageError
from genkit.io.files import write_atomic
from genkit.io.run_directory import RunDir
from genkit.report.thumbnails import double_small

TITLE = 32  # pixels above each grid
BAR = 4  # pixels of them that show how far the training is
SECONDS = 12  # that all grids but the last should take
SHORTEST, LONGEST, LAST = 80, 500, 3000  # milliseconds of a frame, and of the last one
MOST_SIDE = 16383  # pixels, of a WebP


def check_film(path: Path) -> None:
    """Raise UsageError if a film cannot go to a path, before any work is done."""
    if path.suffix.lower() != ".webp":
        raise UsageError(f"--film {path}: a film is an animated WebP; give a name in .webp")
    if path.exists():
        raise UsageError(f"--film {path} exists; nothing was overwritten, choose another name")


def make_film(directory: RunDir, path: Path) -> int:
    """Write the film of a run's grids in the order of their steps, each under its step; the
    last is shown longest. Returns the number of frames.

    Raises:
        UsageError: there are fewer than two grids, one is damaged or of another size.
    """
    check_film(path)
    grids = directory.grids()
    if len(grids) < 2:
        raise UsageError(
            f"--film: {directory.samples} holds {len(grids) or 'no'} "
            f"grid{'' if len(grids) == 1 else 's'} of samples and a film needs two; train with "
            "--grids 2 or more"
        )
    last = grids[-1][0]
    frames = [_frame(source, step, last) for step, source in grids]
    for frame, (_, source) in zip(frames, grids, strict=True):
        if frame.size != frames[0].size:
            raise UsageError(f"{source} is not of the size of the first grid, {grids[0][1].name}")
    each = max(SHORTEST, min(LONGEST, 1000 * SECONDS // (len(frames) - 1)))
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=[each] * (len(frames) - 1) + [LAST],
        loop=0,
        lossless=True,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--film {path}: its folder cannot be made: {error.strerror}") from None
    write_atomic(path, buffer.getvalue())
    return len(frames)


def _frame(source: Path, step: int, last: int) -> Image.Image:
    """A grid under its step and a bar that grows to the grid's width, small ones at twice their
    size."""
    try:
        with opened(read_content(source)) as image:
            grid = double_small(image.convert("RGB"))
    except BadImage as error:
        raise BadImage(error.reason, str(source)) from None
    size = (grid.width, grid.height + TITLE)
    if max(size) > MOST_SIDE:
        raise UsageError(
            f"{source} is too large for a film: WebP takes {MOST_SIDE:,} pixels a side"
        )
    frame = Image.new("RGB", size, "white")
    frame.paste(grid, (0, TITLE))
    pen = ImageDraw.Draw(frame)
    text = f"step {step:,} of {last:,}"
    pen.text((4, 2), text, fill="black", font=ImageFont.load_default(18))
    width = round(frame.width * step / max(last, 1))
    pen.rectangle((0, TITLE - BAR, max(width - 1, 0), TITLE - 1), fill=(40, 90, 160))
    return frame
