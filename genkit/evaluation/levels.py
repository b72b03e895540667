"""Numbers of grey levels: images rounded to fewer of them, and how many a set of images uses."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from genkit.data import ImageData, Split
from genkit.model import to_bytes

ALL = 256
MOST = 64  # levels; images with more count as having all 256
STRAY = 1e-3  # share of values that may lie between the levels


def round_to_levels(images: Tensor, levels: int) -> Tensor:
    """Images, uint8, any shape, with each value at the nearest of `levels` values evenly spaced
    from 0 to 255; with 2 it is black up to 127 and white from 128 on."""
    grid = _grid(levels)
    return torch.cat([grid[part.long()] for part in images.split(1000)])


def count_levels(images: Tensor) -> int:
    """The fewest levels that images, uint8, any shape, are made of: 2 for black and white; 256
    for photographs, and for whatever has more than 64.

    One value in a thousand may lie between the levels, so that a few stray pixels do not make
    black-and-white images grey ones. Images of one single value say nothing of levels: 256.
    """
    counts = torch.bincount(images.flatten(), minlength=ALL).double()
    if int((counts > 0).sum()) < 2:
        return ALL
    for levels in range(2, MOST + 1):
        step = 255 / (levels - 1)
        offset = torch.arange(ALL) / step
        between = ((offset - offset.round()) * step).abs() > 0.501
        if counts[between].sum() <= STRAY * counts.sum():
            return levels
    return ALL


def rounded_data(data: ImageData, levels: int) -> ImageData:
    """A data set with its images rounded to so many levels; the same if they are so already."""
    if all(
        count_levels(torch.from_numpy(each.images)) <= levels for each in (data.train, data.test)
    ):
        return data

    def rounded(split: Split) -> Split:
        images = round_to_levels(torch.from_numpy(split.images), levels)
        return replace(split, images=images.numpy())

    return replace(
        data,
        name=f"{data.name} at {levels} levels",
        train=rounded(data.train),
        test=rounded(data.test),
        reference=None,
    )


def _grid(levels: int) -> Tensor:
    """For each value, uint8, (256,), the nearest of the levels, as models draw them in [-1, 1]."""
    nearest = (torch.arange(ALL) * (levels - 1) / 255).round()
    return to_bytes(nearest * (2 / (levels - 1)) - 1)
