"""PixelRNN: training against a plain recurrence, sampling against one forward pass per pixel.

28 x 28, black and white, the paper's 7 layers with 16 features, one thread. The plain network is
that of `plain_pixelrnn`. The naive sampler makes 784 forward passes of genkit's own network, of
which two are timed; both samplers give the same pixels (a test).
"""

import torch
import torch.nn.functional as F
from plain_pixelrnn import PlainPixelRNN
from subjects import CPU, PRECISION, digits, new_model, next_of
from timing import Figure, Turn, compare, interleave, main
from torch import nn

from genkit.io.machine import keep_freed_memory
from genkit.training.loop import Loop
from genkit.training.stream import Stream

PIXELS, PASSES = 784, 2


def plain(model, stream):
    """Training steps of the plain network, endlessly."""
    network = PlainPixelRNN(model).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    step = 0
    while True:
        levels = model.quantise(stream.batch(step).images)
        logits = network(model.scale(levels))
        loss = F.binary_cross_entropy_with_logits(logits[:, :, 0], levels.float())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1)
        optimizer.step()
        step += 1
        yield loss


def ours(model, stream, precision):
    """Iterations of genkit's loop, endlessly."""
    loop = Loop(model, stream, seed=0, precision=precision, ema_half_life=50_000)
    while True:
        loop.iterate()
        yield


def training(cell: str, steps: int, rounds: int, **goals: float) -> list[Figure]:
    model = new_model("pixelrnn", cell=cell)
    stream = Stream(digits(), batch_size=model.config.batch_size, seed=0, device=CPU)
    variants = {"plain": next_of(plain(model, stream), steps)}
    for precision in dict.fromkeys(("fp32", PRECISION)):
        variants[precision] = next_of(
            ours(new_model("pixelrnn", cell=cell), stream, precision), steps
        )
    turns = interleave(variants, rounds)
    return [
        compare(
            f"PixelRNN training ({cell}, {name}), plain recurrence to genkit",
            turns,
            "plain",
            name,
            steps=steps,
            **goals,
        )
        for name in variants
        if name != "plain"
    ]


@torch.no_grad()
def sampling(cell: str, batch_size: int, rounds: int) -> Figure:
    model = new_model("pixelrnn", cell=cell)
    images = torch.randn(batch_size, 1, 28, 28).sign()
    generator = torch.Generator().manual_seed(0)
    variants = {
        "naive": lambda: [model(images) for _ in range(PASSES)],
        "cached": lambda: model.sample(batch_size, generator=generator),
    }
    turns = interleave(variants, rounds)
    turns["naive"] = [Turn(*(PIXELS / PASSES * t for t in turn)) for turn in turns["naive"]]
    title = f"PixelRNN sampling ({cell}, batch {batch_size}), naive to cached"
    return compare(title, turns, "naive", "cached", must=300, aim=600)


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    keep_freed_memory()  # as `genkit train` does, here for both
    steps, rounds, batch_size = (1, 1, 2) if quick else (2, 7, 64)
    goals = {"must": 3, "aim": 5}
    return [
        *training("diagonal", steps, rounds, **goals),
        *training("row", steps, rounds, **goals),
        *(sampling(cell, batch_size, rounds) for cell in ("diagonal", "row")),
    ]


if __name__ == "__main__":
    main(measure, __doc__)
