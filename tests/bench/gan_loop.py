"""Training speed of `gan`: genkit's loop against a careful one written by hand for the same losses.

The loop by hand has images in memory, channels_last, fused Adam and autocast, penalises both kinds
of images in one pass of each fourth step, in fp32, and neither averages weights nor logs nor checks
anything. Both train the preset `quick` on the same digits, on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from subjects import CPU, PRECISIONS, memory_batches, new_loop, new_model, next_of, steps_of, tuned
from timing import Figure, compare, interleave, main
from torch.nn import functional as F

from genkit.compute.device import autocast

BATCH_SIZE = 16
EVERY = 4
GAMMA = 10.0


def careful(precision: str) -> Iterator[None]:
    """Endless steps. In the generator's turn the discriminator has no gradients of its own."""
    model = tuned(new_model("gan", "quick", batch_size=BATCH_SIZE))
    generator, discriminator = model.generator, model.discriminator
    adam = {"lr": 5e-4, "betas": (0.5, 0.999), "fused": True}
    optimizer_g = torch.optim.Adam(generator.parameters(), **adam)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), **adam)
    for step, real in enumerate(memory_batches(BATCH_SIZE)):
        optimizer_g.zero_grad()
        discriminator.requires_grad_(False)
        with autocast(CPU, precision):
            fake = generator(torch.randn(BATCH_SIZE, 100))
            with torch.no_grad():
                on_real = discriminator(real).float()
            on_fake = discriminator(fake).float()
        F.softplus(on_real - on_fake).mean().backward()
        optimizer_g.step()
        discriminator.requires_grad_(True)
        both = torch.cat([real, fake.detach().float()])
        optimizer_d.zero_grad()
        with autocast(CPU, precision):
            on_real, on_fake = discriminator(both).float().chunk(2)
        F.softplus(on_fake - on_real).mean().backward()
        optimizer_d.step()
        if step % EVERY == 0:
            optimizer_d.zero_grad()
            both.requires_grad_()
            (slopes,) = torch.autograd.grad(discriminator(both).sum(), both, create_graph=True)
            (EVERY * GAMMA / 2 * slopes.square().sum() / BATCH_SIZE).backward()
            optimizer_d.step()
        yield


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    steps, rounds = (1, 1) if quick else (EVERY, 7)
    variants = {}
    for precision in PRECISIONS:
        loop = new_loop(new_model("gan", "quick", batch_size=BATCH_SIZE), precision)
        variants[f"tuned {precision}"] = next_of(careful(precision), steps)
        variants[f"genkit {precision}"] = steps_of(loop, steps)
    turns = interleave(variants, rounds)
    return [
        compare(
            f"gan training (`quick`), tuned loop to genkit, both in {precision}",
            turns,
            f"tuned {precision}",
            f"genkit {precision}",
            steps=steps,
            must=1,
            aim=1,
        )
        for precision in PRECISIONS
    ]


if __name__ == "__main__":
    main(measure, __doc__)
