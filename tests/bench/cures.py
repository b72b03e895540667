"""How often a DCGAN with unbalanced rates fails, and which options cure it: trainings of `quick` on
mnist-mini over seeds. Prints how many collapsed or were won by the discriminator, and KID.

    python tests/bench/cures.py --seeds 10 --steps 1500 --out cures.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from genkit.registry.catalogue import load_registry
from genkit.training.train import train_by_name

FAILURES: dict[str, dict[str, Any]] = {
    "generator's rate times 20": {"generator_rate": 0.01},
    "discriminator's rate times 10, saturating loss": {
        "loss": "minimax",
        "discriminator_rate": 0.005,
    },
}
CURES: dict[str, dict[str, Any]] = {
    "no cure": {},
    "--r1 1": {"r1": 1.0},
    "--spectral-norm": {"spectral_norm": True},
    "--spectral-norm --loss hinge": {"spectral_norm": True, "loss": "hinge"},
    "--loss relativistic --r1 1 --r2 1": {"loss": "relativistic", "r1": 1.0, "r2": 1.0},
}
STEADY = "the rates of the preset"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=Path("cures.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    registry = load_registry()
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        for failure, rates in {**FAILURES, STEADY: {}}.items():
            for cure, more in CURES.items():
                given = {**rates, **more, "data": "mnist-mini", "seed": seed, "grids": 4}
                given |= {"budget": f"{options.steps}steps", "precision": "bf16"}
                with tempfile.TemporaryDirectory() as folder:
                    run = train_by_name(
                        registry, "dcgan", preset="quick", run_dir=Path(folder, "run"), given=given
                    )
                    lines = (run.path / "metrics.jsonl").read_text("utf-8").splitlines()
                    warnings = run.summary.warnings if run.summary else ()
                rows = [row for row in map(json.loads, lines) if "kid" in row]
                result = {
                    "kid": rows[-1]["kid"],
                    "diversity": rows[-1]["diversity"],
                    "warnings": [warning.split(":")[0] for warning in warnings],
                }
                found.setdefault(f"{failure} | {cure}", []).append(result)
                print(seed, failure, cure, json.dumps(result), flush=True)
        options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print("| rates | options | failed | KID x1000: median (range) |\n|---|---|---|---|")
    for name, results in found.items():
        failed = sum(bool(each["warnings"]) for each in results)
        kids = [1000 * each["kid"] for each in results]
        spread = f"{statistics.median(kids):.0f} ({min(kids):.0f} to {max(kids):.0f})"
        print(f"| {name} | {failed} of {len(results)} | {spread} |")


if __name__ == "__main__":
    main()
