"""Which digits a run's samples show, according to the `digits` classifier.

python tests/bench/class_coverage.py RUN... [--samples 1000]
"""

import argparse

import torch

from genkit.registry.catalogue import load_registry
from genkit.runs.run import load_run
from genkit.specs import Config
from genkit_fidelity.features import Digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    registry, digits = load_registry(), Digits(Config())
    for path in arguments.runs:
        run = load_run(path, registry)
        with torch.inference_mode():
            probabilities = digits(run.sample(arguments.samples))[1].softmax(1)
        counts = probabilities.argmax(1).bincount(minlength=10)
        sure = (probabilities.amax(1) > 0.9).float().mean()
        print(f"{path}: {counts.tolist()} of digits 0 to 9, {sure:.0%} read with more than 90%")


if __name__ == "__main__":
    main()
