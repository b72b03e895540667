"""The gated PixelCNN of pytorch-generative (github.com/EugenHotaj/pytorch-generative), where the
environment variable PYTORCH_GENERATIVE names a checkout of it, against genkit's of the same size.

28 x 28, black and white, 32 channels, 7 layers, on one thread. Training: its own loss and Adam in
fp32, on prepared batches; genkit's whole iteration. Sampling: it makes 784 forward passes, whose
time is extrapolated from three of them.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from subjects import PRECISION, digits, new_loop, new_model, steps_of
from timing import Figure, Turn, compare, interleave, main
from torch import nn
from torch.nn import functional as F

NAME = "pytorch-generative"
SIZE = {"levels": 2, "channels": 32, "layers": 7, "dilation_cycle": 1, "batch_size": 32}
PIXELS, PASSES = 784, 3


def build_theirs(checkout: Path) -> nn.Module:
    """Its model, without what its packages import beside it, such as tensorboard."""
    for name in ("pytorch_generative", "pytorch_generative.models"):
        package = ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = package
    module = importlib.import_module("pytorch_generative.models.autoregressive.gated_pixel_cnn")
    return module.GatedPixelCNN(n_gated=SIZE["layers"] - 1, gated_channels=32, head_channels=32)


def train_theirs(model: nn.Module, steps: int) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images = torch.from_numpy(digits().images[: SIZE["batch_size"]]).float().div(255).round()

    def turn() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            logits = model(images)
            losses = F.binary_cross_entropy_with_logits(logits, images, reduction="none")
            losses.flatten(1).sum(1).mean().backward()
            optimizer.step()

    return turn


@torch.no_grad()
def sample_theirs(model: nn.Module, batch_size: int) -> None:
    images = torch.full((batch_size, 1, 28, 28), -1.0)
    for place in range(PASSES):
        logits = model(images)[:, :, 0, place]
        images[:, :, 0, place] = torch.distributions.Bernoulli(logits=logits).sample()


def measure(quick: bool) -> list[Figure]:
    checkout = os.environ.get("PYTORCH_GENERATIVE")
    if not checkout:
        return [Figure(NAME, note="skipped: PYTORCH_GENERATIVE names no checkout of it")]
    torch.set_num_threads(1)
    steps, rounds = (1, 1) if quick else (3, 7)
    theirs, ours = build_theirs(Path(checkout)), new_model("pixelcnn", **SIZE)
    sizes = " and ".join(f"{sum(p.numel() for p in m.parameters()):,}" for m in (theirs, ours))
    loop = new_loop(new_model("pixelcnn", **SIZE))
    turns = interleave({NAME: train_theirs(theirs, steps), "genkit": steps_of(loop, steps)}, rounds)
    title = f"PixelCNN training (batch 32), {NAME} in fp32 to genkit in {PRECISION}"
    note = f"{sizes} parameters."
    figures = [compare(title, turns, NAME, "genkit", steps=steps, note=note)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for size in (2,) if quick else (16, 64):
            variants = {
                NAME: lambda size=size: sample_theirs(theirs, size),
                "genkit": lambda size=size: ours.sample(size, generator=generator),
            }
            turns = interleave(variants, min(rounds, 5))
            turns[NAME] = [Turn(*(PIXELS / PASSES * t for t in turn)) for turn in turns[NAME]]
            title = f"PixelCNN sampling (batch {size}), {NAME} to genkit"
            figures.append(compare(title, turns, NAME, "genkit"))
    return figures


if __name__ == "__main__":
    main(measure, __doc__)
