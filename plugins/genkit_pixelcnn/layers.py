"""The gated layer of PixelCNN, (N, H, W, channels) throughout: 1 x 1 convolutions are products."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_KERNEL = 7
OTHER_KERNEL = 3


class GatedLayer(nn.Module):
    """One layer of the vertical and of the horizontal stack (figure 2 of the paper).

    Both stacks' inputs were shifted once, before the first layer, so a layer may look at its own
    position: no masks, and nothing to shift again.

    Args:
        inputs: channels that come in; `channels` leave on both stacks.
        dilation: distance between the pixels of a window.
        first: whether the layer sees images, in a wider window, and not features.
    """

    def __init__(self, inputs: int, channels: int, dilation: int, first: bool) -> None:
        super().__init__()
        kernel = FIRST_KERNEL if first else OTHER_KERNEL
        half = kernel // 2
        self.dilation = dilation
        self.reach = half * dilation
        self.vertical = nn.Conv2d(
            inputs,
            2 * channels,
            (half + 1, kernel),
            padding=(0, self.reach),
            dilation=dilation,
        )
        # The window from left to right, then the link from the vertical stack: one product.
        self.taps = (half + 1) * inputs
        self.horizontal = nn.Linear(self.taps + channels, 2 * channels)
        self.residual = nn.Linear(channels, channels, bias=False)
        # A gate's outputs are about an eighth of what it takes; without larger weights behind
        # it hardly anything of the vertical stack would arrive at the deeper layers.
        initialise(self.vertical.weight, 1 if first else 4)
        initialise(self.horizontal.weight[:, : self.taps], 1)
        initialise(self.horizontal.weight[:, self.taps :], 4)
        initialise(self.residual.weight, 2)
        assert self.vertical.bias is not None
        nn.init.zeros_(self.vertical.bias)
        nn.init.zeros_(self.horizontal.bias)

    def forward(
        self, above: Tensor, left: Tensor, biases: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """What leaves the gates of the vertical and of the horizontal stack, (N, H, W, channels),
        from (N, H, W, inputs) each. `biases` of both gates, (N, 2 * channels) each, are those of
        the images' classes (van den Oord et al. 2016, section 2.3, equation 4)."""
        features = self.convolve(above)
        if biases is not None:
            features = features + biases[0][:, None, None]
        vertical = gate(features)
        features = self.horizontal(torch.cat([*self.window(left), vertical], dim=3))
        if biases is not None:
            features = features + biases[1][:, None, None]
        return vertical, gate(features)

    def convolve(self, above: Tensor) -> Tensor:
        """The vertical stack's convolution, (N, H, W, inputs) to (N, H, W, 2 * channels)."""
        # Padding what comes in touches half the channels that cropping what goes out would.
        padded = F.pad(above, (0, 0, 0, 0, self.reach, 0)).permute(0, 3, 1, 2)
        features: Tensor = self.vertical(padded)  # (N, 2 * channels, H, W)
        return features.permute(0, 2, 3, 1)

    def window(self, left: Tensor) -> list[Tensor]:
        """What the horizontal stack sees of (N, H, W, inputs), the leftmost pixels first."""
        shifts = [min(s, left.shape[2]) for s in range(self.reach, 0, -self.dilation)]
        return [*(F.pad(left, (0, 0, shift, -shift)) for shift in shifts), left]


def gate(features: Tensor) -> Tensor:
    """tanh(a / 2) * sigmoid(b) / 2 for a, b = halves of (..., 2c), to (..., c).

    It is computed as (sigmoid(a) - 1 / 2) * sigmoid(b): one sigmoid over both halves.
    """
    a, b = torch.sigmoid(features).chunk(2, dim=-1)
    return (a - 0.5) * b


@torch.no_grad()
def initialise(weight: Tensor, gain: float) -> None:
    """Normal weights (outputs, ...) that multiply the spread of independent inputs by `gain`."""
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))
