"""What `--compile` gains, and what keeping freed memory gains: steps of each model's quick preset.

Compiled and eager steps alternate in one process; steps with and without kept memory alternate in
new processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from timing import Figure, Turn, compare, interleave, main

STEPS = {"vae": 30, "dcgan": 15, "pixelcnn": 8}


def compiled(model: str, steps: int, rounds: int) -> Figure:
    import torch
    from subjects import PRECISION, new_loop, new_model, steps_of

    loops = {"eager": new_loop(new_model(model, "quick"))}
    loops["compiled"] = new_loop(new_model(model, "quick"), compile=True)
    torch.set_num_threads(1)
    start = time.perf_counter()
    loops["compiled"].iterate()
    warm = f"{time.perf_counter() - start:.0f} s for the first step"
    turns = interleave({name: steps_of(loop, steps) for name, loop in loops.items()}, rounds)
    title = f"{model} (`quick`, {PRECISION}), `--compile`"
    return compare(title, turns, "eager", "compiled", steps=steps, note=warm)


def train(model: str, keep: bool, steps: int) -> None:
    """What a fresh process does: prints the CPU and wall seconds of some steps."""
    import torch
    from subjects import new_loop, new_model

    from genkit.io.machine import keep_freed_memory

    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()
    loop = new_loop(new_model(model, "quick"))
    for _ in range(5):
        loop.iterate()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(steps):
        loop.iterate()
    print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]))


def kept(model: str, steps: int, rounds: int) -> Figure:
    turns: dict[str, list[Turn]] = {"returned": [], "kept": []}
    for _ in range(rounds):
        for name in turns:
            command = [sys.executable, __file__, "--train", model, name, str(steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            turns[name].append(Turn(*json.loads(done.stdout)))
    title = f"{model} (`quick`), freed memory kept"
    return compare(title, turns, "returned", "kept", steps=steps)


def measure(quick: bool) -> list[Figure]:
    rounds = 1 if quick else 5
    models = ["vae"] if quick else list(STEPS)
    figures = [compiled(model, 1 if quick else STEPS[model], rounds) for model in models]
    return figures + [kept(model, 1 if quick else 3 * STEPS[model], rounds) for model in models]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2], sys.argv[3] == "kept", int(sys.argv[4]))
    else:
        main(measure, __doc__)
