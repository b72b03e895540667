"""Layers whose weights are masked by colour, (P, N, features) throughout: pixels come first."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genkit_pixelrnn.order import Order
from genkit_pixelrnn.scan import Scan

KERNEL = 7  # of the first convolution, table 1


def colours_of(features: int, colours: int) -> Tensor:
    """The colour that each of so many features belongs to, (features,), int64: the first third
    belongs to red, the second to green, the last to blue (section 3.4)."""
    return torch.arange(features) * colours // features


def mask_b(inputs: Tensor, outputs: Tensor) -> Tensor:
    """What a feature may see of its own pixel: its own colour and those before, (in, out)."""
    return (inputs[:, None] <= outputs).float()


def mask_a(inputs: Tensor, outputs: Tensor) -> Tensor:
    """What a feature may see of its own pixel's values: the colours before its own, (in, out)."""
    return (inputs[:, None] < outputs).float()


class MaskedLinear(nn.Module):
    """A 1 x 1 convolution with mask B.

    Args:
        inputs, outputs: the colours of the features, (in,) and (out,).
        gain: spread of the outputs for independent inputs of spread 1.
    """

    mask: Tensor

    def __init__(self, inputs: Tensor, outputs: Tensor, gain: float, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(outputs), len(inputs)))
        self.bias = nn.Parameter(torch.zeros(len(outputs))) if bias else None
        nn.init.normal_(self.weight, std=gain / math.sqrt(len(inputs)))
        self.register_buffer("mask", mask_b(inputs, outputs).t(), persistent=False)

    @property
    def masked(self) -> Tensor:
        """The weights that count, (out, in)."""
        return self.weight * self.mask

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """A copy of the weights that count, (in, out), and the bias, (out,), for `torch.addmm`."""
        bias = self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias
        return self.masked.t().clone(memory_format=torch.contiguous_format), bias

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.masked, self.bias)


class FirstConvolution(nn.Module):
    """7 x 7 with mask A: the rows above, the pixels to the left, and earlier colours."""

    mask: Tensor

    def __init__(self, colours: int, features: int) -> None:
        super().__init__()
        half = KERNEL // 2
        self.weight = nn.Parameter(torch.empty(features, colours, half + 1, KERNEL))
        self.bias = nn.Parameter(torch.zeros(features))
        mask = torch.ones(features, colours, half + 1, KERNEL)
        mask[:, :, half, half:] = 0
        own = mask_a(torch.arange(colours), colours_of(features, colours))
        mask[:, :, half, half] = own.t()
        self.register_buffer("mask", mask, persistent=False)
        nn.init.normal_(self.weight, std=1 / math.sqrt(colours * (KERNEL * KERNEL // 2)))

    @property
    def masked(self) -> Tensor:
        """The weights that count, (features, colours, 4, 7)."""
        return self.weight * self.mask

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, features, H, W)."""
        half = KERNEL // 2
        return F.conv2d(F.pad(images, (half, half, half, 0)), self.masked, self.bias)


class LSTM(nn.Module):
    """Row LSTM or Diagonal BiLSTM (sections 3.1 and 3.2).

    Input-to-state and state-to-state are one product. Of the input a pixel sees itself, with mask
    B, and in a Row LSTM its left neighbour: the 3 x 1 convolution of the paper without the pixel
    to the right, which is masked. States are those of whole pixels of the past, so there is
    nothing to mask.

    `weight`, (directions, inputs + states, gates), has the gates o, f, i and g in this order.
    """

    scale: Tensor
    bias_scale: Tensor

    def __init__(self, colours: int, width: int, order: Order) -> None:
        super().__init__()
        directions, self.own = order.directions, 2 * width
        self.left = 0 if directions == 2 else 2 * width  # features of the pixel to the left
        inputs = self.left + self.own + order.taps * width
        self.weight = nn.Parameter(torch.empty(directions, inputs, 4 * width))
        self.bias = nn.Parameter(torch.zeros(directions, 4 * width))
        self.hidden = nn.Parameter(torch.zeros(directions, width))
        self.cell = nn.Parameter(torch.zeros(directions, width))
        nn.init.normal_(self.weight, std=1 / math.sqrt(inputs))
        with torch.no_grad():
            self.bias[:, width : 2 * width] = 1  # an LSTM that has learned nothing remembers

        # The mask, and what `Scan` wants: h at half its size, g before its tanh at twice.
        gates = colours_of(width, colours).repeat(4)  # each gate has all colours
        scale = torch.ones(inputs, 4 * width)
        own = slice(self.left, self.left + self.own)
        scale[own] = mask_b(colours_of(self.own, colours), gates)
        scale[own.stop :] *= 2
        scale[:, 3 * width :] *= 2
        self.register_buffer("scale", scale, persistent=False)

        bias_scale = torch.ones(4 * width)
        bias_scale[3 * width :] = 2
        self.register_buffer("bias_scale", bias_scale, persistent=False)

    def scaled(self, own: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weight, bias, (D, 1, 4h), and both states outside the image, (D, 1, 1, h), for `Scan`.
        With `own`, (D, N, 4h), what the images' classes add to the bias, that is (D, N, 4h)."""
        hidden, cell = 0.5 * self.hidden, 2 * self.cell
        bias = self.bias[:, None] if own is None else self.bias[:, None] + own
        weight, bias = self.weight * self.scale, bias * self.bias_scale
        return weight, bias, hidden[:, None, None], cell[:, None, None]

    def forward(self, features: Tensor, order: Order, own: Tensor | None = None) -> Tensor:
        """(P, N, 2h), in the order of pixels, to (P, N, h): the sum of both directions. `own`,
        (D, N, 4h), is what the images' classes add to what the gates get."""
        if self.left:
            rows = features.view(len(order.steps), -1, *features.shape[1:])  # (H, W, N, 2h)
            left = F.pad(rows, (0, 0, 0, 0, 1, -1)).flatten(0, 1)
            features = torch.cat([left, features], dim=2)
        device = features.device.type
        # Products in the precision of autocast, as `nn.Linear` does it; the cell always in fp32.
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            state: Tensor = scan(features, *self.scaled(own), order, low or features.dtype)
        return 2 * state


# Hundreds of small steps in a row: a compiler would unroll them.
scan = torch.compiler.disable(Scan.apply)
