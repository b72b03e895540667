"""Training speed of PixelCNN: genkit's loop against a plain gated block, in one interleaved run.

The plain network is written as most repositories write van den Oord et al. 2016: every layer a
masked convolution with a full kernel, tanh times sigmoid, a 1 x 1 convolution each for link and
residual, NCHW, fp32, Adam with its defaults; tuned, it is in channels_last, with fused Adam and
autocast. From a model's weights it computes the same logits (a test). In one point it is cheaper
than the paper's, which favours it: its link starts after the vertical stack's gate, with half the
channels.

    python tests/bench/pixelcnn_training.py [--rounds 9]
"""

import argparse
import statistics
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from genkit.compute.device import autocast, has_fast_bf16
from genkit.data import Split
from genkit.specs import ImageShape
from genkit.training.loop import Loop
from genkit.training.stream import Stream
from genkit_pixelcnn import PixelCNNConfig
from genkit_pixelcnn.model import PixelCNN

CPU = torch.device("cpu")
SETTINGS = {  # shape, levels, channels, layers, batch
    "28 x 28, 2 levels (preset quick)": ((1, 28, 28), 2, 32, 6, 16),
    "32 x 32 RGB, 2 levels (preset quick)": ((3, 32, 32), 2, 32, 6, 16),
    "32 x 32 RGB, 256 levels": ((3, 32, 32), 256, 32, 6, 16),
    "28 x 28, 256 levels (preset full)": ((1, 28, 28), 256, 64, 10, 32),
}


class MaskedConv(nn.Conv2d):
    """Sees its own row and those above or, one row high, its own column and those to the left."""

    def __init__(self, inputs, outputs, kernel, dilation):
        height, width = kernel
        padding = (height // 2 * dilation, width // 2 * dilation)
        super().__init__(inputs, outputs, kernel, padding=padding, dilation=dilation)
        mask = torch.ones(height, width)
        seen = mask[height // 2 + 1 :] if height > 1 else mask[:, width // 2 + 1 :]
        seen.zero_()
        self.register_buffer("mask", mask)

    def forward(self, x):
        weight = self.weight * self.mask
        return F.conv2d(x, weight, self.bias, 1, self.padding, self.dilation)


class PlainLayer(nn.Module):
    """Both stacks' gated layer, with the shape and the weights of a `GatedLayer`."""

    def __init__(self, layer, first):
        super().__init__()
        inputs, (rows, kernel) = layer.vertical.in_channels, layer.vertical.kernel_size
        channels, dilation = layer.residual.in_features, layer.dilation
        self.vertical = MaskedConv(inputs, 2 * channels, (kernel, kernel), dilation)
        self.horizontal = MaskedConv(inputs, 2 * channels, (1, kernel), dilation)
        self.link = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.residual = nn.Conv2d(channels, channels, 1, bias=False)
        # tanh(a) * sigmoid(b) is twice what the layer computes from 2 * a and b.
        half = torch.tensor([0.5, 1.0]).repeat_interleave(channels)[:, None]  # (2c, 1)
        behind = 1 if first else 0.5
        window, link = layer.horizontal.weight.split([layer.taps, channels], dim=1)
        with torch.no_grad():
            vertical = behind * half[..., None, None] * layer.vertical.weight
            self.vertical.weight[:, :, :rows] = vertical
            self.vertical.bias.copy_(half[:, 0] * layer.vertical.bias)
            window = (half * window).unflatten(1, (rows, inputs))
            self.horizontal.weight[:, :, 0, :rows] = window.transpose(1, 2)
            self.horizontal.bias.copy_(half[:, 0] * layer.horizontal.bias)
            self.link.weight.copy_((0.5 * half * link)[..., None, None])
            self.residual.weight.copy_(0.5 * layer.residual.weight[..., None, None])

    def forward(self, vertical, horizontal):
        vertical = self.vertical(vertical)
        a, b = vertical.chunk(2, dim=1)
        vertical = torch.tanh(a) * torch.sigmoid(b)
        a, b = (self.horizontal(horizontal) + self.link(vertical)).chunk(2, dim=1)
        return vertical, self.residual(torch.tanh(a) * torch.sigmoid(b))


class PlainPixelCNN(nn.Module):
    """The plain network with the weights of `model`; its inputs are `model`'s."""

    def __init__(self, model):
        super().__init__()
        colours, channels = model.image_shape.channels, model.config.channels
        self.stack_inputs = model.stack_inputs
        self.layers = nn.ModuleList(
            PlainLayer(layer, not i) for i, layer in enumerate(model.layers)
        )
        self.hidden = nn.Conv2d(channels, colours * channels, 1)
        self.known = nn.Conv2d(colours, colours * channels, 1, bias=False)
        self.logits = nn.Conv2d(colours * channels, colours * model.outputs, 1, groups=colours)
        mask = torch.ones(colours, colours).tril(-1).repeat_interleave(channels, dim=0)
        self.register_buffer("mask", mask[..., None, None])
        with torch.no_grad():
            self.hidden.weight.copy_(model.hidden.weight[..., None, None])
            self.hidden.bias.copy_(model.hidden.bias)
            for colour, layer in enumerate(model.known, 1):
                rows = self.known.weight[colour * channels :][:channels]
                rows[:, :colour, 0, 0] = layer.weight
            weights = torch.cat([layer.weight for layer in model.logits])
            self.logits.weight.copy_(weights[..., None, None])
            self.logits.bias.copy_(torch.cat([layer.bias for layer in model.logits]))

    def forward(self, images):
        """(N, C, H, W) to (N, C, outputs, H, W)."""
        inputs = self.stack_inputs(images.permute(0, 2, 3, 1))
        vertical, horizontal = (x.permute(0, 3, 1, 2).contiguous() for x in inputs)
        first, *others = self.layers
        vertical, features = first(vertical, horizontal)
        for layer in others:
            vertical, gain = layer(vertical, features)
            features = features + gain
        hidden = self.hidden(F.relu(features))
        hidden = hidden + F.conv2d(images, self.known.weight * self.mask)
        logits = self.logits(F.relu(hidden))
        return logits.unflatten(1, (images.shape[1], -1))


def plain(model, stream, precision="fp32", tuned=False):
    """Steps of the plain network, endlessly."""
    network = PlainPixelCNN(model).train()
    if tuned:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=tuned)
    step = 0
    while True:
        levels = model.quantise(stream.batch(step).images)
        with autocast(CPU, precision):
            logits = network(model.scale(levels)).float()
        if model.outputs == 1:
            loss = F.binary_cross_entropy_with_logits(logits[:, :, 0], levels.float())
        else:
            loss = F.cross_entropy(logits.transpose(1, 2), levels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        yield


def ours(model, stream, precision):
    """Steps of genkit's loop, endlessly, with all that it does besides."""
    half_life = model.config.ema_half_life
    loop = Loop(model, stream, seed=0, precision=precision, ema_half_life=half_life)
    while True:
        loop.iterate()
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="times that all variants take turns")
    parser.add_argument("--setting", type=int, help="only this one, from 0")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = list(SETTINGS.items())
    if arguments.setting is not None:
        chosen = [chosen[arguments.setting]]
    for title, (shape, levels, channels, layers, batch) in chosen:
        config = PixelCNNConfig(levels=levels, channels=channels, layers=layers, batch_size=batch)
        images = np.random.default_rng(0).integers(0, 256, (1024, *shape), dtype=np.uint8)
        stream = Stream(Split(images), batch_size=batch, seed=0, device=CPU)
        variants = {"plain fp32": plain(PixelCNN(config, ImageShape(*shape)), stream)}
        for precision in ("fp32", "bf16") if has_fast_bf16(CPU) else ("fp32",):
            model = PixelCNN(config, ImageShape(*shape))
            variants[f"genkit {precision}"] = ours(model, stream, precision)
        times = measure(variants, arguments.rounds)
        print(f"{title}, {channels} channels, {layers} layers, batch {batch}: CPU time, 1 thread")
        for name, values in times.items():
            ratios = [b / v for b, v in zip(times["plain fp32"], values, strict=True)]
            print(
                f"  {name:12} {statistics.median(values) * 1000:7.1f} ms a step  "
                f"x{statistics.median(ratios):.2f} (x{min(ratios):.2f} to x{max(ratios):.2f})"
            )


def measure(variants, rounds):
    """Seconds of CPU time of a step in each round, by variant; other work disturbs them least."""
    times = {name: [] for name in variants}
    for round_ in range(rounds + 2):
        for name, variant in variants.items():
            start = time.process_time()
            next(variant)
            if round_ > 1:
                times[name].append(time.process_time() - start)
    return times


if __name__ == "__main__":
    main()
