"""Training on a GPU: steps launched one operation at a time against replays of a CUDA graph.

    python tests/bench/gpu.py [--quick] [--json PATH]

For each model, batch and precision: images per second both ways; and the share of the floor, which
is convolutions and matrix products alone, launched as one graph on the same tensors. Takes less
than ten minutes. Without a GPU it says so and exits with 2.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from floor import Products
from subjects import new_loop, new_model
from timing import Figure, as_json, as_markdown, compare, interleave

from genkit.compute.device import choose_device, has_fast_bf16, time_convolutions
from genkit.compute.graphs import CudaRecorder, Recorder
from genkit.phases.replay import WARM, Replays
from genkit.sampling.draw import draw

MODELS = ("dcgan", "vae", "pixelcnn", "flow")
BATCHES = (64, 256, 1024)
MOST_SECONDS = 480.0  # no measurement begins after this
SECONDS = 0.3  # that a turn should take


def measure_training(
    name: str, batch: int, precision: str, device: torch.device, recorder: Recorder, rounds: int
) -> list[Figure]:
    """One model's steps both ways, and beside the floor, by wall time."""
    said: list[str] = []
    eager = new_loop(new_model(name, batch_size=batch), precision, device=device)
    replays = Replays(recorder, said.append)
    replayed = new_loop(
        new_model(name, batch_size=batch), precision, device=device, replays=replays
    )
    for _ in range(WARM + 2):
        eager.iterate()
        replayed.iterate()
    with Products() as products:
        eager.iterate()
    floor = recorder.record(torch.no_grad()(lambda: [call() for call in products.calls]))
    count = _count(eager.iterate, device) if rounds > 1 else 1
    variants = {
        "operations": _turn(eager.iterate, count, device),
        "graph": _turn(replayed.iterate, count, device),
        "products": _turn(floor.replay, count, device),
    }
    turns = interleave(variants, rounds)
    eager.check_weights()
    replayed.check_weights()
    title = f"{name} (`full`, batch {batch}, {precision})"
    speeds = {
        way: f"{way} {batch * count / min(turn.wall for turn in turns[way]):,.0f} images/s at best"
        for way in ("operations", "graph")
    }
    note = "; ".join([*speeds.values(), *said])
    pairs = [("operations", "graph", f"{title}, operations to graph", note)]
    pairs += [
        ("products", way, f"{title}, share of the floor, {way}", "")
        for way in ("operations", "graph")
    ]
    return [
        compare(what, turns, of, to, steps=count, judged_by="wall", note=words)
        for of, to, what, words in pairs
    ]


def measure_sampling(name: str, device: torch.device, counts: tuple[int, ...]) -> Iterator[Figure]:
    """Images a second that are drawn, of few and of many."""
    model = new_model(name).to(device)
    for count in counts:
        draw(model, count, seed=0)
        start = time.perf_counter()
        draw(model, count, seed=1)
        took = time.perf_counter() - start
        yield Figure(f"{name} (`full`), {count:,} samples", note=f"{count / took:,.0f} images/s")


def _turn(step: Callable[[], object], count: int, device: torch.device) -> Callable[[], None]:
    """Some steps, and the wait until the device has done them."""

    def turn() -> None:
        for _ in range(count):
            step()
        _wait(device)

    return turn


def _count(step: Callable[[], object], device: torch.device) -> int:
    """How many steps a turn should have."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(5):
        step()
    _wait(device)
    return max(1, int(SECONDS * 5 / (time.perf_counter() - start)))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_all(device: torch.device, quick: bool) -> Iterator[Figure]:
    """All figures; those that do not fit into the time or into memory are said to be left out."""
    start = time.perf_counter()
    precisions = ("bf16", "fp32") if has_fast_bf16(device) else ("fp32",)
    for name in MODELS[:1] if quick else MODELS:
        for batch in BATCHES[:1] if quick else BATCHES:
            for precision in precisions[:1] if quick else precisions:
                title = f"{name} (`full`, batch {batch}, {precision})"
                if time.perf_counter() - start > MOST_SECONDS:
                    yield Figure(title, note="skipped: no time was left")
                    continue
                try:
                    yield from measure_training(
                        name, batch, precision, device, CudaRecorder(device), 1 if quick else 5
                    )
                except torch.OutOfMemoryError:
                    yield Figure(title, note="skipped: out of memory")
                gc.collect()
                torch.cuda.empty_cache()
    for name in ("dcgan", "pixelcnn"):
        if time.perf_counter() - start < MOST_SECONDS:
            yield from measure_sampling(name, device, (64,) if quick else (64, 2048))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that it runs")
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        said = "This machine has no GPU that PyTorch can use, so nothing was measured"
        print(said, file=sys.stderr)
        return 2
    device = choose_device("cuda")
    time_convolutions(device)
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}", file=sys.stderr)
    figures = []
    for figure in measure_all(device, options.quick):
        figures.append(figure)
        print(f"{figure.name}: {figure.wall or ''} {figure.note}", file=sys.stderr)
    print(as_markdown(figures))
    if options.json:
        text = json.dumps(as_json(figures, options.quick), indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
