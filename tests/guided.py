"""Guided samples of autoregressive models by their definition, for tests of several models."""

from __future__ import annotations

import torch
from torch import Tensor

from genkit.model import GenerativeModel

SHARES = (0.7, 0.2, 0.1)


@torch.no_grad()
def slowly_drawn(
    model: GenerativeModel,
    uniforms: Tensor,
    label: int,
    strength: float,
    known: Tensor,
    given: Tensor,
) -> Tensor:
    """One image, (C, H, W), by the definition: probabilities p(v | past, y) ** w /
    p(v | past) ** (w - 1), each of one pass through the network for all classes."""
    colours, height, width = uniforms.shape
    image = torch.zeros(1, colours, height, width)
    joint = torch.tensor(SHARES, dtype=torch.float64)  # p(k, past)
    spacing = 2 / (model.config.levels - 1)
    for row in range(height):
        for column in range(width):
            for colour in range(colours):
                logits = model(image.expand(3, -1, -1, -1), torch.arange(3)).double()
                logits = logits[:, colour, :, row, column]  # (3, outputs)
                if model.config.levels == 2:
                    logits = torch.cat([torch.zeros_like(logits), logits], 1)
                each = logits.softmax(1)  # p(v | past, k)
                mixed = (joint[:, None] * each).sum(0) / joint.sum()
                guided = each[label] ** strength / mixed ** (strength - 1)
                ends = guided.cumsum(0) / guided.sum()
                u = uniforms[colour, row, column].item()
                if model.config.levels == 2:  # the upper level is below its probability
                    level = int(u < 1 - ends[0])
                else:
                    level = int((ends <= u).sum())
                if known[0, row, column]:
                    level = round((given[colour, row, column].item() + 1) / spacing)
                image[0, colour, row, column] = level * spacing - 1
                joint = joint * each[:, level]
    return image[0]
