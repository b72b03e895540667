"""Two processes on two cores against one process on one core, with the same global batch of 128.

Each process has one thread and its own core; they exchange gradients by gloo. Wall time is judged,
so other work on the machine spoils this benchmark.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from timing import Figure, Spread, Turn, main

MODELS = ("dcgan", "vae")
BATCH_SIZE = 128


class Rank:
    """A process that trains some steps on request."""

    def __init__(self, model: str, rank: int, count: int, port: int) -> None:
        places = {
            "RANK": rank,
            "WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--train", model],
            env={**os.environ, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in places.items()}},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def start(self, steps: int) -> None:
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()

    def finish(self) -> float:
        """CPU seconds of the steps."""
        for line in self.process.stdout:  # gloo has something to say, too
            if line.startswith("["):
                continue
            return float(json.loads(line)["cpu"])
        raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")

    def close(self) -> None:
        self.process.communicate(timeout=60)


def train_when_told(model: str) -> None:
    """What each process does: a line with a number of steps in, a line with CPU seconds out."""
    import torch
    from subjects import new_loop, new_model

    from genkit.compute.ranks import joined

    torch.set_num_threads(1)
    with joined() as ranks:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[ranks.rank]})
        loop = new_loop(new_model(model, batch_size=BATCH_SIZE), ranks=ranks)
        for line in sys.stdin:
            start = time.process_time()
            for _ in range(int(line)):
                loop.iterate()
            print(json.dumps({"cpu": time.process_time() - start}), flush=True)


def take_turn(ranks: Sequence[Rank], steps: int) -> Turn:
    """Steps of all processes of one training: the largest CPU time of them, and wall time."""
    start = time.perf_counter()
    for rank in ranks:
        rank.start(steps)
    cpu = max(rank.finish() for rank in ranks)
    return Turn(cpu, time.perf_counter() - start)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def measure(quick: bool) -> list[Figure]:
    if len(os.sched_getaffinity(0)) < 2:
        return [Figure("two processes to one", note="skipped: one core only")]
    figures = []
    for model in MODELS:
        steps, rounds = (1, 1) if quick else ({"dcgan": 6, "vae": 40}[model], 5)
        groups = [[Rank(model, 0, 1, 0)], []]
        port = free_port()
        groups[1] = [Rank(model, rank, 2, port) for rank in range(2)]
        for group in groups:  # warm
            take_turn(group, steps)
        turns = [[take_turn(group, steps) for group in groups] for _ in range(rounds)]
        for rank in groups[0] + groups[1]:
            rank.close()
        one, two = (1000 * Spread.of(t[i].wall for t in turns).median / steps for i in range(2))
        busy = Spread.of(t[1].cpu / t[1].wall for t in turns).median
        figures.append(
            Figure(
                f"{model} training by two processes on two cores, one process to two",
                cpu=Spread.of(one.cpu / two.cpu for one, two in turns),
                wall=Spread.of(one.wall / two.wall for one, two in turns),
                judged_by="wall",
                must=1.4,
                aim=1.8,
                note=f"one {one:.3g} ms a step; two {two:.3g} ms. Of that a process computes "
                f"{busy:.0%}; the ratio by CPU time is to the busier process.",
            )
        )
    return figures


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train_when_told(sys.argv[2])
    else:
        main(measure, __doc__)
