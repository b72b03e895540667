"""Training speed of the VAE: genkit's loop against two loops written by hand.

The usual loop: PIL images with torchvision transforms, a DataLoader with two workers, fp32, plain
Adam, the loss read in each step. The tuned loop is the same at its best on a CPU: images in
memory, channels_last, fused Adam, autocast, nothing read. The same network, on one thread; CPU
time of the workers counts.
"""

from collections.abc import Iterator

import torch
from subjects import (
    CPU,
    PRECISIONS,
    classic_batches,
    memory_batches,
    new_loop,
    new_model,
    next_of,
    steps_of,
    tuned,
)
from timing import Figure, compare, interleave, main

from genkit.compute.device import autocast
from genkit.model import Batch


def classic(preset: str) -> Iterator[float]:
    """The usual loop as an endless generator of steps."""
    model = new_model("vae", preset).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for images in classic_batches(model.config.batch_size):
        optimizer.zero_grad()
        loss, _ = model.loss(Batch(images))
        loss.backward()
        optimizer.step()
        yield loss.item()


def careful(preset: str, precision: str) -> Iterator[None]:
    """The tuned loop."""
    model = tuned(new_model("vae", preset))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for images in memory_batches(model.config.batch_size):
        optimizer.zero_grad()
        with autocast(CPU, precision):
            loss, _ = model.loss(Batch(images))
        loss.backward()
        optimizer.step()
        yield


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    steps, rounds = (6, 1) if quick else (25, 7)
    figures = []
    for preset in ("full", "quick"):
        variants = {"DataLoader fp32": next_of(classic(preset), steps)}
        for precision in PRECISIONS:
            variants[f"tuned {precision}"] = next_of(careful(preset, precision), steps)
            loop = new_loop(new_model("vae", preset), precision)
            variants[f"genkit {precision}"] = steps_of(loop, steps)
        turns = interleave(variants, rounds)
        for precision in PRECISIONS:
            to = f"genkit {precision}"
            title = f"VAE training (`{preset}`), tuned loop to genkit, both in {precision}"
            names = f"tuned {precision}", to
            figures.append(compare(title, turns, *names, steps=steps, must=1, aim=1.1))
            title = f"VAE training (`{preset}`), DataLoader loop in fp32 to genkit in {precision}"
            figures.append(compare(title, turns, "DataLoader fp32", to, steps=steps))
    return figures


if __name__ == "__main__":
    main(measure, __doc__)
