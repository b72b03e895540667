"""Augmentation that does not leak into samples: the network sees how each image was changed."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LABELS = 9
STRETCH = 2**0.2  # of one standard deviation
SHIFT = 1 / 8  # of a side, of one standard deviation


def augment(images: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Images, (N, C, H, W), some of them mirrored, turned, stretched and shifted, and what was done
    to each, (N, LABELS), 0 where nothing was (Karras et al. 2022, arXiv 2206.00364, appendix F.2
    and table 6). A sampler asks for images of label 0. Randomness comes from torch's global
    generators.

    Departure: values between pixels are bilinear, without filters.

    Args:
        share: of the images that each of the six changes is made to, independently.
    """
    count, _, height, width = images.shape
    device = images.device

    def chosen(values: Tensor) -> Tensor:
        return torch.where(torch.rand(count, device=device) < share, values, 0)

    def normal() -> Tensor:
        return torch.randn(count, device=device)

    def angle() -> Tensor:
        return (2 * torch.rand(count, device=device) - 1) * math.pi

    mirrored, upturned = (
        chosen(torch.randint(2, (count,), device=device).float()) for _ in range(2)
    )
    larger, turned = chosen(normal()), chosen(angle())
    longer, direction = chosen(normal()), angle()
    shifted = torch.rand(count, device=device) < share
    right, down = (torch.where(shifted, normal(), 0) for _ in range(2))
    change = scale(1 - 2 * mirrored, 1 - 2 * upturned)
    change = scale(STRETCH**larger, STRETCH**larger) @ change
    change = rotate(turned) @ change
    stretch = scale(STRETCH**longer, STRETCH**-longer)
    change = rotate(direction) @ stretch @ rotate(-direction) @ change
    change = translate(SHIFT * width * right, SHIFT * height * down) @ change
    labels = [mirrored, upturned, larger, turned.cos() - 1, turned.sin()]
    labels += [longer * direction.cos(), longer * direction.sin(), right, down]
    told = torch.stack(labels, 1)
    changed = (told != 0).any(1)[:, None, None, None]
    return torch.where(changed, transform(images, change), images), told


def transform(images: Tensor, change: Tensor) -> Tensor:
    """Images, (N, C, H, W), whose pixels are carried to other places by maps, (N, 3, 3), of
    homogeneous coordinates in pixels from the centre, to the right and down. What lies outside is
    reflected."""
    half = images.new_tensor([images.shape[3] / 2, images.shape[2] / 2, 1])
    source = torch.linalg.inv(change) * half / half[:, None]  # in units of half a side
    grid = F.affine_grid(source[:, :2], list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def scale(across: Tensor, along: Tensor) -> Tensor:
    """Maps that stretch, (N, 3, 3)."""
    return torch.diag_embed(torch.stack([across, along, torch.ones_like(across)], 1))


def rotate(angle: Tensor) -> Tensor:
    """Maps that turn, (N, 3, 3), clockwise as one sees it."""
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one]
    return torch.stack(rows, 1).view(-1, 3, 3)


def translate(right: Tensor, down: Tensor) -> Tensor:
    """Maps that shift, (N, 3, 3)."""
    shift = torch.stack([right, down, torch.zeros_like(right)], 1)[:, :, None]
    return torch.eye(3, device=right.device) + F.pad(shift, (2, 0))
