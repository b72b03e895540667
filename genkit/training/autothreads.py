"""Finds how many CPU threads a training is fastest on, by timing its own iterations."""

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
ENOUGH_SECONDS = 10.0  # no round begins after this


def fastest_threads(
    model: GenerativeModel, train: Split, device: torch.device, precision: str, ranks: Ranks
) -> int:
    """The number of threads to train a model on. A copy of the model is trained for this, on this
    rank's part of the batches. Ranks on one machine share its cores."""
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

    More threads are taken only if they are a tenth faster: on a busy machine two can be far slower
    than one, and timings vary. The counts take turns, so that other work disturbs all alike.
    """
    counts = sorted({*(2**power for power in range(most.bit_length())), most})
    if len(counts) == 1:
        return 1
    iterate()  # the first iteration takes longer
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
