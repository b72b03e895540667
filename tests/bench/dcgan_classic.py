"""Training speed of DCGAN: genkit's loop against two loops written by hand.

The classic script is the usual tutorial: a data set of PIL images with torchvision transforms, a
DataLoader with two workers, fp32, plain Adam, a print of losses each step. The tuned script is the
same at its best on a CPU: images in memory, channels_last, fused Adam, autocast, nothing printed.
All train the exact 1 x 28 x 28 network on the same digits with the same batch size, on one thread.
"""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout

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
from torch import nn

from genkit.compute.device import autocast

BATCH_SIZE = 128


def classic() -> Iterator[None]:
    """The tutorial's loop as an endless generator of steps."""
    model = new_model("dcgan", batch_size=BATCH_SIZE).train()
    generator, discriminator = model.generator, model.discriminator
    criterion = nn.BCEWithLogitsLoss()
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for real in classic_batches(BATCH_SIZE):
        ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
        discriminator.zero_grad()
        loss_real = criterion(discriminator(real), ones)
        loss_real.backward()
        fake = generator(torch.randn(len(real), 100))
        loss_fake = criterion(discriminator(fake.detach()), zeros)
        loss_fake.backward()
        optimizer_d.step()
        generator.zero_grad()
        loss_g = criterion(discriminator(fake), ones)
        loss_g.backward()
        optimizer_g.step()
        with redirect_stdout(io.StringIO()):
            print((loss_real + loss_fake).item(), loss_g.item())
        yield


def careful(precision: str) -> Iterator[None]:
    """The tuned loop. In the generator's turn the discriminator has no gradients of its own."""
    model = tuned(new_model("dcgan", batch_size=BATCH_SIZE))
    generator, discriminator = model.generator, model.discriminator
    criterion = nn.BCEWithLogitsLoss()
    adam = {"lr": 2e-4, "betas": (0.5, 0.999), "fused": True}
    optimizer_d = torch.optim.Adam(discriminator.parameters(), **adam)
    optimizer_g = torch.optim.Adam(generator.parameters(), **adam)
    ones, zeros = torch.ones(BATCH_SIZE), torch.zeros(BATCH_SIZE)
    for real in memory_batches(BATCH_SIZE):
        optimizer_d.zero_grad()
        with autocast(CPU, precision):
            fake = generator(torch.randn(BATCH_SIZE, 100))
            judged_real, judged_fake = discriminator(real), discriminator(fake.detach())
        (criterion(judged_real.float(), ones) + criterion(judged_fake.float(), zeros)).backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        discriminator.requires_grad_(False)
        with autocast(CPU, precision):
            judged = discriminator(fake)
        criterion(judged.float(), ones).backward()
        discriminator.requires_grad_(True)
        optimizer_g.step()
        yield


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    steps, rounds = (1, 1) if quick else (3, 7)
    variants = {"classic fp32": next_of(classic(), steps)}
    for precision in PRECISIONS:
        loop = new_loop(new_model("dcgan", batch_size=BATCH_SIZE), precision)
        variants[f"tuned {precision}"] = next_of(careful(precision), steps)
        variants[f"genkit {precision}"] = steps_of(loop, steps)
    turns = interleave(variants, rounds)
    figures = []
    for precision in PRECISIONS:
        to = f"genkit {precision}"
        title = f"DCGAN training (`full`), tuned loop to genkit, both in {precision}"
        names = f"tuned {precision}", to
        figures.append(compare(title, turns, *names, steps=steps, must=1, aim=1.1))
        title = f"DCGAN training (`full`), classic script in fp32 to genkit in {precision}"
        figures.append(compare(title, turns, "classic fp32", to, steps=steps))
    return figures


if __name__ == "__main__":
    main(measure, __doc__)
