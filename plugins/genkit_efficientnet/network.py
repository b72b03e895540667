"""EfficientNet-Lite0: the network alone, with batch normalisation folded into its convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Kernel size, stride, expansion, channels and repeats of EfficientNet-B0's blocks (Tan and Le 2019,
# arXiv 1905.11946, table 1). Lite0 has ReLU6 for swish and no squeeze-and-excitation.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM, TRUNK, HEAD, CLASSES = 32, 320, 1280, 1000  # channels of the layers; ImageNet's classes
EPSILON = 1e-3  # of batch normalisation, as in TensorFlow


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: ceil(side / stride) pixels come out, and of
    an odd number of padding pixels the greater half lies at the bottom and at the right."""

    def forward(self, images: Tensor) -> Tensor:
        sides = zip(images.shape[:1:-1], self.kernel_size, self.stride, strict=True)  # width first
        padding: list[int] = []
        for side, kernel_size, stride in sides:
            total = max((math.ceil(side / stride) - 1) * stride + kernel_size - side, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(images, padding))


class Residual(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        change: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return images + change


def unit(
    inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution without bias, and its batch normalisation."""
    if stride == 1:  # the same padding on all sides, which convolutions do by themselves
        conv = nn.Conv2d(inputs, outputs, size, 1, size // 2, groups=groups, bias=False)
    else:
        conv = SameConv(inputs, outputs, size, stride, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=EPSILON)]


def block(inputs: int, outputs: int, size: int, stride: int, expansion: int) -> nn.Module:
    """A mobile inverted bottleneck: expanded, filtered by channel, projected without activation."""
    wide = inputs * expansion
    layers = [*unit(inputs, wide), nn.ReLU6(inplace=True)] if expansion > 1 else []
    layers += [*unit(wide, wide, size, stride, groups=wide), nn.ReLU6(inplace=True)]
    layers += unit(wide, outputs)
    return (Residual if stride == 1 and inputs == outputs else nn.Sequential)(*layers)


class EfficientNetLite0(nn.Module):
    """Images, (N, 3, H, W), to pooled features and logits; 4,652,008 parameters."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs = STEM
        for size, stride, expansion, outputs, repeats in STAGES:
            for repeat in range(repeats):
                blocks.append(block(inputs, outputs, size, 1 if repeat else stride, expansion))
                inputs = outputs
        self.trunk = nn.Sequential(*unit(3, STEM, 3, 2), nn.ReLU6(inplace=True), *blocks)
        self.head = nn.Sequential(*unit(TRUNK, HEAD), nn.ReLU6(inplace=True))
        self.classify = nn.Linear(HEAD, CLASSES)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take published weights, which have other names but the same order."""
        tensors = zip(self.state_dict(), weights.values(), strict=True)
        self.load_state_dict(dict(tensors), assign=True)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel values, float, (N, 3, H, W) from 0 to 255, to the means over all places of the
        trunk, (N, 320), and the head, (N, 1280), and the logits, (N, 1000)."""
        trunk = self.trunk((images - 127) / 128)
        head = self.head(trunk).mean((2, 3))
        return trunk.mean((2, 3)), head, self.classify(head)


def fold(module: nn.Module) -> None:
    """Fold each batch normalisation of a network in evaluation mode into the convolution before
    it: the same values but for rounding, in less time."""
    for parent in module.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        for place, (conv, norm) in enumerate(pairwise(parent)):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent[place] = fuse_conv_bn_eval(conv, norm)
                parent[place + 1] = nn.Identity()
