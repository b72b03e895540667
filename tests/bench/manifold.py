"""Precision, recall, density, coverage and their error bars against torch-fidelity's P and R alone.

On the same random features, on one thread.
"""

import torch
from timing import Figure, compare, interleave, main
from torch_fidelity.metric_prc import calculate_precision_recall_part

from genkit.metrics import blocks_of
from genkit_fidelity.manifold import manifold_scores

DIMENSIONS = 64


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    count, rounds = (200, 1) if quick else (10_000, 3)
    generator = torch.Generator().manual_seed(0)
    samples, reals = torch.randn(2, count, DIMENSIONS, generator=generator).relu()
    found = {}

    def stock() -> None:
        found["stock"] = calculate_precision_recall_part(samples, reals)

    def ours() -> None:
        found["genkit"] = manifold_scores(samples, reals, *blocks_of(count))

    turns = interleave({"torch-fidelity": stock, "genkit": ours}, rounds, warm=0)
    # torch-fidelity's are means in float32
    values = [found["genkit"][name][0] for name in ("precision", "recall")]
    assert torch.tensor(values).tolist() == list(found["stock"]), found
    name = f"precision, recall and more of {count:,} samples, torch-fidelity to genkit"
    note = "Precision and recall are equal to all digits."
    return [compare(name, turns, "torch-fidelity", "genkit", note=note)]


if __name__ == "__main__":
    main(measure, __doc__)
