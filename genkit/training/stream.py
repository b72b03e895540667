"""Batches of training images, endless and seeded: any step's batch follows from (seed, step).

Images lie in memory as bytes; a batch is a gather and a multiplication, without workers. Data that
is binarised at random is drawn again for each batch, and so are mirroring and shifts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from genkit.compute.device import send
from genkit.compute.ranks import ALONE, Ranks
from genkit.compute.seeds import derive_seed
from genkit.data import Split
from genkit.model import Batch, to_unit_range


class Stream:
    """Endless batches over the images of one split, each epoch in an order of its own.

    The order of an epoch is a permutation seeded by (seed, epoch), and batches run across the
    ends of epochs, so the position alone decides what comes next: there is no state to save.

    If the split has an augmentation, each visit mirrors an image with probability 1/2 and moves it
    down and right by whole numbers of pixels, -shift to shift, from a generator seeded by
    (seed, number of the batch).

    If the split has intensities, each visit draws an image's pixels again, white with probability
    intensity / 255, from a generator seeded by (seed, number of the batch).

    Of the images only those are visited that the augmentation chooses, if it has a number of them.

    With several ranks, each gets its part of the batch that they share.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.binarises = split.intensities is not None
        pixels = split.images if split.intensities is None else split.intensities
        labels, self.augmentation = split.labels, split.augmentation
        if self.augmentation.images:
            chosen = self.augmentation.chosen(len(pixels))
            pixels, labels = pixels[chosen], None if labels is None else labels[chosen]
        self.images = torch.from_numpy(pixels).to(device)  # (count, C, H, W) uint8
        self.labels = None if labels is None else torch.from_numpy(labels).to(device)
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.part = ranks.part(batch_size)
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    def indices(self, number: int) -> Tensor:
        """Which images make up the batch of that number, counted from 0: int64, (N,), on the
        images' device."""
        parts, start, wanted = [], number * self.batch_size, self.batch_size
        while wanted:
            epoch, offset = divmod(start, len(self))
            part = self._permutation(epoch)[offset : offset + wanted]
            parts.append(part)
            start, wanted = start + len(part), wanted - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        """Drawn on the CPU, so that it is the same on all devices, and sent once an epoch."""
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", epoch))
            self._order = send(torch.randperm(len(self), generator=generator), self.device)
            self._epoch = epoch
        return self._order

    def batch(self, number: int) -> Batch:
        """The batch of that number, or this rank's part of it: images float32, (N, C, H, W), in
        [-1, 1]; labels int64, (N,), or None."""
        part = slice(None) if self.binarises else self.part
        indices = self.indices(number)[part]
        labels = None if self.labels is None else self.labels[indices]
        images = self.images[indices]
        if self.augmentation.moves:
            images = _moved(images, self._places(number)[part])
        if self.binarises:  # for the whole batch: the same with any number of ranks
            images = self._draw(images, derive_seed(self.seed, "binarise", number))[self.part]
            labels = None if labels is None else labels[self.part]
        return Batch(to_unit_range(images), labels)

    def _places(self, number: int) -> Tensor:
        """The place, row * W + column, that each pixel of a batch comes from: int64, (N, H * W).

        Three numbers an image are drawn on the CPU and sent; places are made of them on the device.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "augment", number))
        height, width = self.images.shape[2:]
        shift = self.augmentation.shift
        drawn = (2, self.batch_size, 1)
        moves = torch.randint(-shift, shift + 1, drawn, generator=generator)
        mirrored = torch.zeros(1, self.batch_size, 1, dtype=torch.int64)
        if self.augmentation.flip:
            mirrored[0] = torch.rand(self.batch_size, 1, generator=generator) < 0.5
        down, right, mirrored = send(torch.cat([moves, mirrored]), self.device)
        rows = torch.arange(height, device=self.device) - down
        columns = torch.arange(width, device=self.device) - right
        rows = rows.clamp(0, height - 1)  # what moves in repeats the edge
        columns = columns.clamp(0, width - 1)
        columns = torch.where(mirrored > 0, width - 1 - columns, columns)
        places: Tensor = rows[:, :, None] * width + columns[:, None, :]
        return places.flatten(1)

    def _draw(self, intensities: Tensor, seed: int) -> Tensor:
        """Black-and-white images, 0 or 255, from intensities; both uint8, (N, C, H, W).

        Of the numbers 0 to 254, exactly `intensity` lie below an intensity: the probability is
        exact.
        """
        generator = torch.Generator(self.device).manual_seed(seed)
        dice = torch.empty_like(intensities).random_(0, 255, generator=generator)
        return (dice < intensities).to(torch.uint8).mul_(255)


def _moved(images: Tensor, places: Tensor) -> Tensor:
    """Images, (N, C, H, W), whose pixels come from `places`, (N, H * W), all channels from one, so
    that colours stay premultiplied by their alpha."""
    pixels = images.flatten(2)
    return pixels.gather(2, places[:, None].expand_as(pixels)).view_as(images)


def split(batch: Batch, count: int) -> list[Batch]:
    """A batch in at most `count` parts of nearly equal size."""
    if count == 1:
        return [batch]
    images = batch.images.tensor_split(min(count, len(batch.images)))
    labels: Sequence[Tensor | None] = [None] * len(images)
    if batch.labels is not None:
        labels = batch.labels.tensor_split(len(images))
    return [
        replace(batch, images=part, labels=each, shared={})
        for part, each in zip(images, labels, strict=True)
    ]
