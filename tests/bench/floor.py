"""Share of the floor: convolutions and matrix products alone against a whole iteration.

Each model at its quick preset on one thread. An iteration of genkit's loop is watched once; its
convolutions and matrix products, forward and backward, are then done again on the same tensors, and
nothing else: no activation, norm, loss, data, optimizer or average.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from subjects import PRECISIONS, new_loop, new_model, steps_of
from timing import Figure, compare, interleave, main
from torch.utils._python_dispatch import TorchDispatchMode

from genkit.training.loop import Loop

MODELS = ("dcgan", "vae", "pixelcnn")
PRODUCTS = {"convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm"}


class Products(TorchDispatchMode):
    """Keeps the calls of convolutions and matrix products made within."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        call = partial(function, *args, **(kwargs or {}))
        if function.overloadpacket.__name__ in PRODUCTS:
            self.calls.append(call)
        return call()


def products_of(loop: Loop, count: int) -> Callable[[], None]:
    """The products of some iterations as a turn."""
    with Products() as products:
        loop.iterate()

    @torch.no_grad()
    def turn() -> None:
        for _ in range(count):
            for call in products.calls:
                call()

    return turn


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    figures = []
    for name in MODELS:
        for precision in PRECISIONS:
            steps, rounds = (1, 1) if quick else (12, 7)
            loop = new_loop(new_model(name, "quick"), precision)
            variants = {
                "products": products_of(loop, steps),
                "iteration": steps_of(loop, steps),
            }
            turns = interleave(variants, rounds)
            title = f"{name} (`quick`, {precision}), share of the floor in an iteration"
            figures.append(compare(title, turns, *variants, steps=steps))
    return figures


if __name__ == "__main__":
    main(measure, __doc__)
