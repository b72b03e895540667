"""Small PixelRNNs with random weights, for tests of several files."""

import itertools
import math

import pytest
import torch
from torch import nn

from genkit.specs import ImageShape
from genkit_pixelrnn import PixelRNNConfig
from genkit_pixelrnn.model import PixelRNN

CELLS = ("diagonal", "row")
both_cells = pytest.mark.parametrize("cell", CELLS)


def make(shape, cell="diagonal", seed=0, classes=(), **values):
    """A small model with random weights everywhere; `classes` are their shares."""
    small = {"cell": cell, "layers": 3, "width": 6, "head_width": 18}
    torch.manual_seed(seed)
    images = ImageShape(*shape, len(classes), classes)
    model = PixelRNN(PixelRNNConfig(**{**small, **values}), images)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.35)
    return model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def all_images(shape):
    """Every image of black and white values, (2 ** dimensions, C, H, W)."""
    worlds = itertools.product((-1.0, 1.0), repeat=math.prod(shape))
    return torch.tensor(list(worlds)).view(-1, *shape)
