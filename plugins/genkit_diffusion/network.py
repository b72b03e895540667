"""The U-Net that flow, diffusion and meanflow share. What its output means is in the models."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP = 8  # channels that are normalised together, at least
FREQUENCIES = 16
HEAD = 32  # channels of an attention head


def set_to_zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Weights and biases of 0: the layer adds nothing until it is trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Embedding(nn.Module):
    """Times in [0, 1], (N, times), labels, (N,), and further facts, (N, facts), to vectors,
    (N, size).

    A time is sines and cosines of it, as Ho et al. 2020 (arXiv 2006.11239, appendix B) embed
    steps. The label number `classes` stands for "no label" (Ho and Salimans 2022, arXiv
    2207.12598, section 3.1).
    """

    frequencies: Tensor  # (FREQUENCIES,)

    def __init__(self, size: int, times: int, turns: float, classes: int, facts: int) -> None:
        super().__init__()
        # from half a turn over the whole path on
        frequencies = math.pi * torch.logspace(0, math.log10(2 * turns), FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.first = nn.Linear(2 * FREQUENCIES * times, size)
        self.classes = nn.Embedding(classes + 1, size) if classes else None
        self.facts = nn.Linear(facts, size, bias=False) if facts else None
        self.second = nn.Linear(size, size)

    def forward(self, times: Tensor, labels: Tensor | None, facts: Tensor | None) -> Tensor:
        angles = (times[:, :, None].float() * self.frequencies).flatten(1)
        hidden = self.first(torch.cat([angles.sin(), angles.cos()], 1))
        if self.classes is not None:
            none = self.classes.num_embeddings - 1
            rows = self.classes.weight[none] if labels is None else self.classes(labels)
            hidden = hidden + rows
        if self.facts is not None and facts is not None:
            hidden = hidden + self.facts(facts)
        return F.silu(self.second(F.silu(hidden)))


class Normalisation(nn.GroupNorm):
    """Group normalisation in float32, which on CPUs is also four times as fast as in bfloat16."""

    def __init__(self, channels: int) -> None:
        super().__init__(min(32, channels // GROUP), channels)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = super().forward(x.float())
        return normalised


class Block(nn.Module):
    """A residual block, (N, C, H, W) to (N, C', H, W): its second normalisation is scaled and
    shifted by the embedding. It starts as the identity, or as a 1 x 1 convolution."""

    def __init__(self, channels: int, out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = Normalisation(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * out)
        self.norm2 = Normalisation(out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = set_to_zero(nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        hidden = torch.addcmul(shift, self.norm2(hidden), 1 + scale)
        out: Tensor = self.skip(x) + self.conv2(self.dropout(F.silu(hidden)))  # (N, C', H, W)
        return out


class Attention(nn.Module):
    """Self-attention of all places, (N, C, H, W) to the same shape, in float32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(channels // HEAD, 1)
        self.norm = Normalisation(channels)
        self.mixed = nn.Conv2d(channels, 3 * channels, 1)
        self.out = set_to_zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        mixed = self.mixed(self.norm(x)).flatten(2).float()  # (N, 3C, HW)
        parts = mixed.view(n, 3, self.heads, channels // self.heads, -1)
        query, key, value = parts.unbind(1)  # (N, heads, C / heads, HW)
        with torch.autocast(x.device.type, enabled=False):  # its backward pass in bfloat16 is slow
            scores = query.transpose(2, 3) @ key / math.sqrt(query.shape[2])
            seen = value @ scores.softmax(3).transpose(2, 3)  # (N, heads, C / heads, HW)
        out: Tensor = x + self.out(seen.reshape(n, channels, height, width))
        return out


class UNet(nn.Module):
    """Images, (N, C, H, W), times, (N, times), labels, (N,) or None, and facts, (N, facts) or None
    for zeros, to images, (N, C, H, W) float32, at first all zero.

    Residual blocks at each level, down and up, with skips between and attention at the coarsest
    levels (Ho et al. 2020, arXiv 2006.11239, appendix B). Departures: a place of the finest level
    is a patch of pixels, since on a CPU most of the time would go into the finest level, and has a
    learned vector that says where it is; one skip per level; images are padded with zeros to a
    size that can be halved, and what comes out is cropped.

    Args:
        size: height and width of the images.
        widths: channels of each level, the finest first.
        blocks: residual blocks of each level, down and up.
        attention: the number of coarsest levels with attention.
        turns: of the fastest wave that a time in [0, 1] becomes.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: tuple[int, int],
        widths: tuple[int, ...],
        blocks: int,
        patch: int,
        attention: int = 1,
        times: int = 1,
        turns: float = 50,
        classes: int = 0,
        facts: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        levels = len(widths)
        self.patch = patch
        self.multiple = patch * 2 ** (levels - 1)
        embedding = 4 * widths[0]
        self.embedding = Embedding(embedding, times, turns, classes, facts)
        sides = (math.ceil(side / self.multiple) * self.multiple // patch for side in size)
        self.places = nn.Parameter(torch.zeros(1, widths[0], *sides))
        self.head = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.down, self.coarsen = nn.ModuleList(), nn.ModuleList()
        self.up, self.refine = nn.ModuleList(), nn.ModuleList()
        self.look_down, self.look_up = nn.ModuleList(), nn.ModuleList()
        for level, own in enumerate(widths):
            first = own if level == levels - 1 else 2 * own  # with the skip
            ins = [first] + [own] * (blocks - 1)
            self.down.append(
                nn.ModuleList(Block(own, own, embedding, dropout) for _ in range(blocks))
            )
            self.up.append(nn.ModuleList(Block(each, own, embedding, dropout) for each in ins))
            coarse = level >= levels - attention
            self.look_down.append(Attention(own) if coarse else nn.Identity())
            last = level == levels - 1  # where down and up meet, one is enough
            self.look_up.append(Attention(own) if coarse and not last else nn.Identity())
        for own, coarser in pairwise(widths):
            self.coarsen.append(nn.Conv2d(own, coarser, 2, stride=2))
            self.refine.append(nn.ConvTranspose2d(coarser, own, 2, stride=2))
        self.tail_norm = Normalisation(widths[0])
        self.tail = set_to_zero(nn.Conv2d(widths[0], channels * patch**2, 3, padding=1))

    def forward(
        self,
        images: Tensor,
        times: Tensor,
        labels: Tensor | None = None,
        facts: Tensor | None = None,
    ) -> Tensor:
        height, width = images.shape[2:]
        x = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple))
        x = F.pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last)
        embedding = self.embedding(times, labels, facts)  # (N, embedding)
        x = self.head(x) + self.places  # (N, widths[0], H / patch, W / patch)
        skips = []
        for level, blocks in enumerate(self.down):
            if level:
                skips.append(x)
                x = self.coarsen[level - 1](x)  # half the sides
            for block in cast(Iterable[Block], blocks):
                x = block(x, embedding)
            x = self.look_down[level](x)
        for level in reversed(range(len(self.up))):
            if level < len(self.up) - 1:
                x = torch.cat([self.refine[level](x), skips.pop()], 1)  # twice the sides
            for block in cast(Iterable[Block], self.up[level]):
                x = block(x, embedding)
            x = self.look_up[level](x)
        x = self.tail(F.silu(self.tail_norm(x))).float()
        return F.pixel_shuffle(x, self.patch)[:, :, :height, :width]
