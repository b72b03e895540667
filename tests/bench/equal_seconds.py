"""Models after equal CPU seconds of training, which other processes do not take away: KID, and
modes where the data has them, of the averaged weights. One thread, preset `quick`, bf16.

    python tests/bench/equal_seconds.py dcgan gan --data emoji-mini --seconds 60,90 --seeds 3
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from genkit.compute.device import place
from genkit.config.resolve import fit, resolve
from genkit.config.run import RunConfig
from genkit.data import ImageData
from genkit.evaluation.evaluator import Evaluator
from genkit.evaluation.measure import measure_all
from genkit.evaluation.protocol import EvaluationProtocol
from genkit.registry.catalogue import Registry, load_registry
from genkit.runs.build import build_model, load_data
from genkit.sampling.draw import draw
from genkit.sampling.grids import make_grid, save_png
from genkit.sampling.statistics import recompute_statistics
from genkit.training.loop import Loop
from genkit.training.stream import Stream

CPU = torch.device("cpu")
STEPS = 20  # between looks at the clock


def new_loop(registry: Registry, data: ImageData, name: str, seed: int, given: Any) -> Loop:
    """As `genkit train NAME --preset quick` makes it for this data."""
    spec = registry.trainers.find(name)
    resolved = resolve(spec, preset="quick", given=given)
    options = fit(spec, resolved, data.facts)[0].options
    model = place(build_model(spec, options, data.shape, seed), CPU)
    stream = Stream(data.train, batch_size=options.batch_size, seed=seed, device=CPU)
    half_life = options.ema_half_life
    return Loop(model, stream, seed=seed, precision="bf16", ema_half_life=half_life)


def score(evaluator: Evaluator, loop: Loop, picture: Path) -> dict[str, float]:
    """Scores of the averaged weights, and a grid of their samples."""
    average = copy.deepcopy(loop.average)
    recompute_statistics(average)
    images = draw(average, evaluator.count, seed=0)
    save_png(make_grid(images[:64], 8), picture)
    samples = evaluator.image_set(images)
    if samples is None or evaluator.reference is None:
        raise SystemExit("this data has no features to score samples with")
    metrics = {k: v for k, v in evaluator.registry.metrics.items() if k in ("kid", "modes")}
    found = measure_all(metrics, samples, evaluator.reference, evaluator.reporter, set())
    return {name: value for name, value in found.values.items() if value is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", default="mnist-mini")
    parser.add_argument(
        "--seconds", default="60", help="CPU seconds of training, separated by commas"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--set", action="append", default=[], help="MODEL.OPTION=VALUE")
    parser.add_argument("--out", type=Path, default=Path("equal-seconds"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    registry = load_registry()
    data = load_data(registry, RunConfig(data=options.data))
    evaluator = Evaluator.choose(registry, data, EvaluationProtocol(samples=options.samples))
    options.out.mkdir(parents=True, exist_ok=True)
    rows: dict[tuple[str, float], list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for name in options.models:
            words = [word.split(".", 1)[1] for word in options.set if word.startswith(f"{name}.")]
            given = {key: json.loads(value) for key, value in (word.split("=") for word in words)}
            loop, spent = new_loop(registry, data, name, seed, given), 0.0
            for mark in map(float, options.seconds.split(",")):
                while spent < mark:
                    start = time.process_time()
                    for _ in range(STEPS):
                        loop.iterate()
                    spent += time.process_time() - start
                found = score(evaluator, loop, options.out / f"{name}-s{seed}-{mark:g}.png")
                rows.setdefault((name, mark), []).append(found)
                print(name, seed, mark, loop.images_seen, json.dumps(found), flush=True)
    for (name, mark), found in rows.items():
        for column in found[0]:
            values = [each[column] for each in found]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            print(f"{name}, {mark:g} s, {column}: {statistics.mean(values):.4g} ±{spread:.2g}")


if __name__ == "__main__":
    main()
