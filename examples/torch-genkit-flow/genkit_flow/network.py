"""A small U-Net from images and times to images. What the images mean is in the model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8
FREQUENCIES = 16


def set_to_zero(layer: nn.Conv2d) -> None:
    """Weights and biases of 0: the layer adds nothing until it is trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class TimeEmbedding(nn.Module):
    """Times in [0, 1], (N,), to vectors, (N, D): sines and cosines through two layers."""

    frequencies: Tensor  # (FREQUENCIES,)

    def __init__(self, size: int) -> None:
        super().__init__()
        # from half a turn over the whole path to 50 of them
        frequencies = math.pi * torch.logspace(0, 2, FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU()
        )

    def forward(self, time: Tensor) -> Tensor:
        angles = time[:, None].float() * self.frequencies
        embedding: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], 1))
        return embedding


class Normalisation(nn.GroupNorm):
    """Group normalisation in float32, which on CPUs is also four times as fast as in bfloat16."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = super().forward(x.float())
        return normalised


class Block(nn.Module):
    """A residual block, (N, C, H, W) to (N, C', H, W): its second normalisation is scaled and
    shifted by the time. It starts as the identity, or as a 1 x 1 convolution."""

    def __init__(self, channels: int, out: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = Normalisation(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * out)
        self.norm2 = Normalisation(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)
        set_to_zero(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        hidden = torch.addcmul(shift, self.norm2(hidden), 1 + scale)
        out: Tensor = self.skip(x) + self.conv2(F.silu(hidden))  # (N, C', H, W)
        return out


class Attention(nn.Module):
    """Self-attention of all places, (N, C, H, W) to the same shape, one head per 32 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(channels // 32, 1)
        self.norm = Normalisation(channels)
        self.mixed = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        set_to_zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        mixed = self.mixed(self.norm(x)).flatten(2).float()  # (N, 3C, HW)
        # (3, N, heads, HW, C / heads)
        parts = mixed.view(n, 3, self.heads, channels // self.heads, -1).permute(1, 0, 2, 4, 3)
        with torch.autocast(x.device.type, enabled=False):  # its backward pass in bfloat16 is slow
            seen = F.scaled_dot_product_attention(*parts)
        seen = seen.transpose(2, 3).reshape(n, channels, height, width)
        out: Tensor = x + self.out(seen)
        return out


class UNet(nn.Module):
    """Images, (N, C, H, W), and times, (N,), to images, (N, C, H, W) float32, at first all zero.

    Residual blocks at each level, down and up, with skips between and attention at the coarsest
    level (Ho et al. 2020, arXiv 2006.11239, appendix B). Departures: a place of the finest level is
    a patch of pixels, since on a CPU most of the time would go into the finest level; images are
    padded with zeros to a size that can be halved, and what comes out is cropped.
    """

    def __init__(self, *, channels: int, levels: int, width: int, blocks: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.multiple = patch * 2 ** (levels - 1)
        widths = [width * min(2**level, 4) for level in range(levels)]
        embedding = 4 * width
        self.time = TimeEmbedding(embedding)
        self.head = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.down, self.coarsen = nn.ModuleList(), nn.ModuleList()
        self.up, self.refine = nn.ModuleList(), nn.ModuleList()
        for level, own in enumerate(widths):
            self.down.append(nn.ModuleList(Block(own, own, embedding) for _ in range(blocks)))
            self.up.append(
                nn.ModuleList(
                    Block(own if i or level == levels - 1 else 2 * own, own, embedding)
                    for i in range(blocks)
                )
            )
        for own, coarser in pairwise(widths):
            self.coarsen.append(nn.Conv2d(own, coarser, 2, stride=2))
            self.refine.append(nn.ConvTranspose2d(coarser, own, 2, stride=2))
        self.attention = Attention(widths[-1])
        last = nn.Conv2d(width, channels * patch**2, 3, padding=1)
        self.tail = nn.Sequential(Normalisation(width), nn.SiLU(), last)
        set_to_zero(last)

    def forward(self, images: Tensor, time: Tensor) -> Tensor:
        height, width = images.shape[2:]
        x = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple))
        x = F.pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last)
        embedding = self.time(time)
        x = self.head(x)
        skips = []
        for level, blocks in enumerate(self.down):
            if level:
                skips.append(x)
                x = self.coarsen[level - 1](x)
            for block in cast(Iterable[Block], blocks):
                x = block(x, embedding)
        x = self.attention(x)
        for level in reversed(range(len(self.up))):
            if level < len(self.up) - 1:
                x = torch.cat([self.refine[level](x), skips.pop()], 1)
            for block in cast(Iterable[Block], self.up[level]):
                x = block(x, embedding)
        return F.pixel_shuffle(self.tail(x).float(), self.patch)[:, :, :height, :width]
