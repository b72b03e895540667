"""Training speed of the VAE: genkit's loop against the usual one over a DataLoader.

The usual loop: PIL images with torchvision transforms, a DataLoader with two workers, fp32, plain
Adam, the loss read in each step. The same network, on one thread; CPU time of the workers
counts.
"""

from collections.abc import Iterator

import torch
from subjects import PRECISION, classic_batches, new_loop, new_model, next_of, steps_of
from timing import Figure, compare, interleave, main

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


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    steps, rounds = (6, 1) if quick else (25, 7)
    figures = []
    for preset, goals in (("full", {"must": 1.8, "aim": 2.5}), ("quick", {})):
        variants = {
            "DataLoader": next_of(classic(preset), steps),
            "genkit": steps_of(new_loop(new_model("vae", preset)), steps),
        }
        turns = interleave(variants, rounds)
        name = f"VAE training (`{preset}`, {PRECISION}), DataLoader loop to genkit"
        figures.append(compare(name, turns, "DataLoader", "genkit", steps=steps, **goals))
    return figures


if __name__ == "__main__":
    main(measure, __doc__)
