"""Precision, recall, density, coverage and their error bars against torch-fidelity's P and R alone.

    python tests/bench/manifold.py [-n 10000] [--dimensions 64] [--rounds 5]

Both in turns, on the same random features, on one thread; prints medians and their ratio.
"""

import argparse
import statistics
import time

import torch
from torch_fidelity.metric_prc import calculate_precision_recall_part

from genkit.metrics import blocks_of
from genkit_fidelity.manifold import manifold_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    samples, reals = torch.randn(2, options.n, options.dimensions, generator=generator).relu()
    seconds: dict[str, list[float]] = {"torch-fidelity": [], "genkit": []}
    for _ in range(options.rounds):
        start = time.perf_counter()
        expected = calculate_precision_recall_part(samples, reals)
        seconds["torch-fidelity"].append(time.perf_counter() - start)
        start = time.perf_counter()
        found = manifold_scores(samples, reals, *blocks_of(len(samples)))
        seconds["genkit"].append(time.perf_counter() - start)
        # torch-fidelity's are means in float32
        values = torch.tensor([found["precision"][0], found["recall"][0]]).tolist()
        assert values == list(expected), (values, expected)
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    for name, times in seconds.items():
        print(f"{name}: {statistics.median(times):.2f} s")
    print(
        f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
        "precision and recall are equal to all digits"
    )


if __name__ == "__main__":
    main()
