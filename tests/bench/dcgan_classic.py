"""Training speed of DCGAN: genkit's loop against the classic script.

The classic script is the usual tutorial: a data set of PIL images with torchvision transforms, a
DataLoader with two workers, fp32, plain Adam, a print of losses each step. Both train the exact
1 x 28 x 28 network on the same digits with the same batch size, on one thread.
"""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout

import torch
from subjects import PRECISION, classic_batches, new_loop, new_model, next_of, steps_of
from timing import Figure, compare, interleave, main
from torch import nn

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


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    steps, rounds = (1, 1) if quick else (3, 7)
    precisions = dict.fromkeys(["fp32", PRECISION])
    variants = {"classic": next_of(classic(), steps)}
    for precision in precisions:
        loop = new_loop(new_model("dcgan", batch_size=BATCH_SIZE), precision)
        variants[f"genkit {precision}"] = steps_of(loop, steps)
    turns = interleave(variants, rounds)
    goals = {"bf16": {"must": 1.7, "aim": 2.3}}
    return [
        compare(
            f"DCGAN training in {precision}, classic script to genkit",
            turns,
            "classic",
            f"genkit {precision}",
            steps=steps,
            **goals.get(precision, {}),
        )
        for precision in precisions
    ]


if __name__ == "__main__":
    main(measure, __doc__)
