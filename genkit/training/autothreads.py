"""Finds in which precision, and on how many CPU threads, a training is fastest, by timing its own
iterations."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from genkit.compute.device import cpu_threads, has_fast_bf16, place
from genkit.compute.ranks import Ranks
from genkit.data import Split
from genkit.errors import GenkitError
from genkit.io.machine import count_cores
from genkit.model import GenerativeModel
from genkit.training.loop import Loop
from genkit.training.stream import Stream

ROUNDS = 3
ENOUGH_SECONDS = 10.0  # no round begins after this
PRECISIONS = ("fp32", "bf16")
MOST_TURNS, TURNS_SECONDS = 25, 2.0  # of the precisions; fewer turns are taken if they take longer
WORTH_IT = 0.97  # bf16 is taken if an iteration takes less than this share of the time in fp32


@dataclass(frozen=True)
class TimedPrecision:
    """The precision to train in, and the seconds of an iteration in each, if they were timed."""

    name: str
    seconds: Mapping[str, float] = field(default_factory=dict)


def fastest_precision(
    model: GenerativeModel, train: Split, device: torch.device, threads: int, ranks: Ranks
) -> TimedPrecision:
    """fp32 or bf16, whichever the model trains faster in on this machine; only fp32 where bf16 is
    emulated. A copy of the model is trained for this, as `fastest_threads` does."""
    if not has_fast_bf16(device):
        return TimedPrecision("fp32")
    loop = _trial(model, train, device, "fp32", ranks)

    def iterate(precision: str) -> None:
        loop.precision = precision
        loop.iterate()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    try:
        with cpu_threads(threads):
            seconds = time_in_turns(iterate, PRECISIONS)
    except (GenkitError, RuntimeError, MemoryError):
        seconds = dict.fromkeys(PRECISIONS, math.inf)  # the training itself will say what is wrong
    timed = dict(zip(PRECISIONS, ranks.largest(*seconds.values()), strict=True))
    if not all(map(math.isfinite, timed.values())):
        return TimedPrecision("fp32")
    faster = timed["bf16"] < WORTH_IT * timed["fp32"]
    return TimedPrecision("bf16" if faster else "fp32", timed)


def time_in_turns(iterate: Callable[[str], object], names: Sequence[str]) -> dict[str, float]:
    """The median seconds of an iteration of each kind. They take turns, in alternating order, so
    that other work disturbs all alike; before, each has one iteration, which takes longer."""
    for name in names:
        iterate(name)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for count in range(MOST_TURNS):
        spent = time.perf_counter() - start
        if spent > ENOUGH_SECONDS or (count >= ROUNDS and spent > TURNS_SECONDS):
            break
        for name in names[:: -1 if count % 2 else 1]:
            began = time.perf_counter()
            iterate(name)
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _trial(
    model: GenerativeModel, train: Split, device: torch.device, precision: str, ranks: Ranks
) -> Loop:
    """A loop that trains a copy of the model on this rank's part of the batches."""
    trial = copy.deepcopy(model)
    place(trial, device)
    stream = Stream(train, batch_size=model.config.batch_size, seed=0, device=device, ranks=ranks)
    return Loop(trial, stream, seed=0, precision=precision)


def fastest_threads(
    model: GenerativeModel, train: Split, device: torch.device, precision: str, ranks: Ranks
) -> int:
    """The number of threads to train a model on. A copy of the model is trained for this, on this
    rank's part of the batches. Ranks on one machine share its cores."""
    if device.type != "cpu":
        return 1
    loop = _trial(model, train, device, precision, ranks)
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
