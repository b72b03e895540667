"""Draws docs/paths.png and docs/sweeps.png: how samples of a flow leave noise, and how they fail.

genkit train flow --conditional --run-dir flow
genkit train flow --conditional --ema-half-life 32 --run-dir raw
python docs/paths.py flow raw
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import genkit
from genkit.sampling.grids import make_grid

HERE, GAP = Path(__file__).parent, 16
IN_A_ROW = 10


def block(rows: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """Rows of images, uint8, (N, C, H, W), with their names."""
    images = torch.cat([images for _, images in rows])
    return make_grid(images, IN_A_ROW, names=[name for name, _ in rows])


def drawn(run: Path, labels: Sequence[int], **sampler: object) -> Tensor:
    """Samples of a run, uint8, (N, C, H, W), always of the same noise."""
    return genkit.load(run, "cpu", sampler=sampler).sample(len(labels), labels=list(labels))


def beside(pictures: Sequence[Image.Image], path: Path) -> None:
    """Write pictures side by side, at twice their size."""
    width = sum(each.width for each in pictures) + GAP * (len(pictures) - 1)
    page = Image.new("RGB", (width, max(each.height for each in pictures)), "white")
    left = 0
    for each in pictures:
        page.paste(each.convert("RGB"), (left, 0))
        left += each.width + GAP
    page.resize((2 * page.width, 2 * page.height), Image.Resampling.NEAREST).save(
        path, optimize=True
    )


def main(run: Path, raw: Path) -> None:
    torch.set_num_threads(1)
    kinds = ("path", "clean-images-seen-on-the-path")
    newest = [max((run / "samples").glob(f"{kind}-*.png")) for kind in kinds]
    beside([Image.open(path) for path in newest], HERE / "paths.png")
    digits, three = range(IN_A_ROW), [3] * IN_A_ROW
    steps = [
        (f"{steps} Euler", drawn(run, digits, steps=steps, solver="euler"))
        for steps in (1, 2, 4, 8, 32)
    ]
    guided = [(f"guidance {g}", drawn(run, three, guidance=g)) for g in (0, 1, 2, 5, 20)]
    averaged = [("averaged", drawn(run, digits)), ("not averaged", drawn(raw, digits))]
    beside([block(steps), block(guided), block(averaged)], HERE / "sweeps.png")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
