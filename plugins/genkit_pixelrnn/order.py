"""The order in which a recurrence visits the pixels of an image, and where it keeps states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Cell = Literal["diagonal", "row"]
Pixel = tuple[int, int]  # row and column


@dataclass(frozen=True)
class Step:
    """One step of a recurrence: `count` pixels at once.

    Args:
        slot: of the first pixel's own state; the others follow.
        taps: slot of the first state that the first pixel sees; the k-th follows k slots later.
    """

    count: int
    slot: int
    taps: int


class Order(nn.Module):
    """Pixels of (height, width) images, step by step.

    A Row LSTM takes a row per step. A Diagonal BiLSTM takes a diagonal per step, all pixels (i, j)
    of equal i + j. For this the paper skews the map, by one column more for each row (figure 3);
    here pixels are kept diagonal by diagonal, so a column of the skewed map is a view and has no
    holes. The second direction visits the image mirrored left to right, in the same steps.

    States are kept in slots. A step's pixels have consecutive ones, with one more on either side
    for the state outside the image.

    Attributes:
        taps: how many states a pixel sees: (i-1, j-1), (i-1, j) and (i-1, j+1) in a Row LSTM,
            (i-1, j) and (i, j-1) in a Diagonal BiLSTM. The second also gives the cell state.
        pixels: (P,), int64, the number in raster order of each pixel that is visited.
        place: (P,), the inverse of `pixels`.
        slots: (P,), the slot of each pixel's state.
        seen: (P,), the slot of the second state that each pixel sees.
        outside: slots that hold the learned state of what is outside the image.
        mirror: (P,), the place of the pixel mirrored left to right.
        above: (P,), the slot of the mirrored pixel one row further up: the second direction's map
            is shifted down by a row, or a pixel would see those to its right. In the first row
            `slot_count`, a slot behind all others that stays zero.
    """

    pixels: Tensor
    place: Tensor
    slots: Tensor
    seen: Tensor
    outside: Tensor
    mirror: Tensor
    above: Tensor

    def __init__(self, cell: Cell, height: int, width: int) -> None:
        super().__init__()
        diagonal = cell == "diagonal"
        self.directions, self.taps = (2, 2) if diagonal else (1, 3)
        lines = diagonals(height, width) if diagonal else rows(height, width)
        # The block of slots before the first step holds only what is outside the image.
        block, length = 0, 0 if diagonal else width
        outside = [0, 1] if diagonal else list(range(1, width + 1))
        self.steps: list[Step] = []
        slots: list[int] = []
        seen: list[int] = []
        first_row = 0
        for line in lines:
            # A diagonal that has left the first column begins further down than the last one.
            taps = block + (line[0][0] - first_row if diagonal else 0)
            block, length, first_row = block + length + 2, len(line), line[0][0]
            self.steps.append(Step(length, block + 1, taps))
            slots += range(block + 1, block + 1 + length)
            seen += range(taps + 1, taps + 1 + length)
            outside += [block, block + length + 1] if diagonal else []
        self.slot_count = block + length + 2

        visited = [pixel for line in lines for pixel in line]
        place = {pixel: number for number, pixel in enumerate(visited)}
        mirrored = [(row, width - 1 - column) for row, column in visited]
        above = [slots[place[i - 1, j]] if i else self.slot_count for i, j in mirrored]
        for name, numbers in {
            "pixels": [row * width + column for row, column in visited],
            "place": [place[pixel] for line in rows(height, width) for pixel in line],
            "slots": slots,
            "seen": seen,
            "outside": outside,
            "mirror": [place[pixel] for pixel in mirrored],
            "above": above,
        }.items():
            self.register_buffer(name, torch.tensor(numbers), persistent=False)


def rows(height: int, width: int) -> list[list[Pixel]]:
    """The rows of an image, from the top."""
    return [[(row, column) for column in range(width)] for row in range(height)]


def diagonals(height: int, width: int) -> list[list[Pixel]]:
    """The pixels of equal row + column, the uppermost first."""
    return [
        [(row, d - row) for row in range(max(0, d - width + 1), min(height, d + 1))]
        for d in range(height + width - 1)
    ]
