"""Share of the floor: forward and backward alone against a whole iteration of genkit's loop.

Each model at its quick preset and genkit's default precision, on one thread. The floor computes the
same losses and gradients on one prepared batch: no data, no optimizer, no average, no checks.
"""

from collections.abc import Callable

import torch
from subjects import CPU, PRECISION, new_loop, new_model, steps_of
from timing import Figure, compare, interleave, main

from genkit.compute.device import autocast
from genkit.training.loop import Loop

MODELS = ("dcgan", "vae", "pixelcnn")


def floor_of(loop: Loop, count: int) -> Callable[[], None]:
    """Forward and backward of the loop's phases, each with only its own parameters trainable."""
    batch = loop.stream.batch(0)
    everything = list(loop.model.parameters())
    own = [
        {id(p) for g in phase.optimizer.param_groups for p in g["params"]} for phase in loop.phases
    ]

    def turn() -> None:
        for _ in range(count):
            for phase, mine in zip(loop.phases, own, strict=True):
                for parameter in everything:
                    parameter.grad = None
                    parameter.requires_grad_(id(parameter) in mine)
                with autocast(CPU, loop.precision):
                    loss, _ = phase.loss(batch)
                loss.backward()

    return turn


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    figures = []
    for name in MODELS:
        steps, rounds = (1, 1) if quick else (12, 7)
        variants = {
            "forward and backward": floor_of(new_loop(new_model(name, "quick")), steps),
            "iteration": steps_of(new_loop(new_model(name, "quick")), steps),
        }
        turns = interleave(variants, rounds)
        title = f"{name} (`quick`, {PRECISION}), share of the floor in an iteration"
        figures.append(compare(title, turns, *variants, steps=steps))
    return figures


if __name__ == "__main__":
    main(measure, __doc__)
