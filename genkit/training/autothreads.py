"""How many CPU threads a training is fastest on, here and now: its own iterations are timed."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import torch

from genkit.compute.device import cpu_threads, place
from genkit.compute.ranks import Ranks
from genkit.data import Split
from genkit.io.machine import count_cores
from genkit.model import GenerativeModel
from genkit.training.loop import Loop
from genkit.training.stream import Stream

ROUNDS = 3
ENOUGH_SECONDS = 10.0  # after which no other round begins


def fastest_threads(
    model: GenerativeModel, train: Split, device: torch.device, precision: str, ranks: Ranks
) -> int:
    """The number of threads for the training of a new model; a copy of it is trained for this, on
    what will be this rank's part of the batches. Ranks on one machine share its cores."""
    if device.type != "cpu":
        return 1
    trial = copy.deepcopy(model)
    place(trial, device)
    stream = Stream(train, batch_size=model.config.batch_size, seed=0, device=device, ranks=ranks)
    loop = Loop(trial, stream, seed=0, precision=precision)
    chosen = choose_threads(loop.iterate, max(1, count_cores() // ranks.count))
    return -int(ranks.largest(-chosen)[0])


def choose_threads(iterate: Callable[[], object], most: int) -> int:
    """The number of threads among 1, 2, 4, ... and `most` on which `iterate` takes the least time.

    More threads must be a tenth faster to be taken: beside other work two can be far slower than
    one, and a lucky moment proves little. The counts take turns, so that what else the machine
    does disturbs all of them alike.
    """
    counts = sorted({*(2**power for power in range(most.bit_length())), most})
    if len(counts) == 1:
        return 1
    iterate()  # the first has more to do
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    start = time.perf_counter()
    while len(seconds[1]) < ROUNDS and time.perf_counter() - start < ENOUGH_SECONDS:
        for count in counts:
            with cpu_threads(count):
                began = time.perf_counter()
                iterate()
                seconds[count].append(time.perf_counter() - began)
    best = 1
    for count in counts[1:]:
        if statistics.median(seconds[count]) < 0.9 * statistics.median(seconds[best]):
            best = count
    return best
