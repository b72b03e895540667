"""PixelCNN: training against a plain gated block, sampling against one forward pass per pixel.

28 x 28, black and white, 32 channels, one thread. The plain network is that of `pixelcnn_training`,
which measures other sizes, too. The naive sampler makes 784 forward passes, whose time is
extrapolated from three of them; both samplers give the same pixels (a test).
"""

import torch
from pixelcnn_training import ours, plain
from subjects import CPU, PRECISIONS, digits, new_model, next_of
from timing import Figure, Turn, compare, interleave, main

from genkit.training.stream import Stream

SIZE = {"levels": 2, "channels": 32, "layers": 7, "dilation_cycle": 1}
PIXELS, PASSES = 784, 3


def training(steps: int, rounds: int) -> list[Figure]:
    model = new_model("pixelcnn", "quick")
    stream = Stream(digits(), batch_size=model.config.batch_size, seed=0, device=CPU)
    variants = {"plain fp32": next_of(plain(model, stream), steps)}
    for precision in PRECISIONS:
        careful = plain(model, stream, precision, tuned=True)
        variants[f"tuned {precision}"] = next_of(careful, steps)
        loop = ours(new_model("pixelcnn", "quick"), stream, precision)
        variants[f"genkit {precision}"] = next_of(loop, steps)
    turns = interleave(variants, rounds)
    figures = []
    for precision in PRECISIONS:
        to = f"genkit {precision}"
        title = f"PixelCNN training (`quick`), tuned gated block to genkit, both in {precision}"
        names = f"tuned {precision}", to
        figures.append(compare(title, turns, *names, steps=steps, must=1.5, aim=2.5))
        title = f"PixelCNN training (`quick`), plain gated block in fp32 to genkit in {precision}"
        figures.append(compare(title, turns, "plain fp32", to, steps=steps))
    return figures


@torch.no_grad()
def sampling(batch_size: int, rounds: int) -> Figure:
    model = new_model("pixelcnn", **SIZE)
    images = torch.randn(batch_size, 1, 28, 28).sign()
    generator = torch.Generator().manual_seed(0)
    variants = {
        "naive": lambda: [model(images) for _ in range(PASSES)],
        "cached": lambda: model.sample(batch_size, generator=generator),
    }
    turns = interleave(variants, rounds)
    turns["naive"] = [Turn(*(PIXELS / PASSES * t for t in turn)) for turn in turns["naive"]]
    must = {16: 400, 64: 700}.get(batch_size)
    title = f"PixelCNN sampling (batch {batch_size}), naive to cached"
    return compare(title, turns, "naive", "cached", must=must, aim=must and 1000)


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    sizes, steps, rounds = ((2,), 1, 1) if quick else ((16, 64), 5, 7)
    return [*training(steps, rounds), *(sampling(size, rounds) for size in sizes)]


if __name__ == "__main__":
    main(measure, __doc__)
