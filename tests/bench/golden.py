"""Prints hashes of weights and samples, and scores: none may change when code is only moved.

    python tests/bench/golden.py --out before.json     # in the old checkout
    python tests/bench/golden.py --against before.json # in the new one

Each built-in family trains for 200 steps on one thread in fp32; its weights and 200 of its
samples are hashed, and the samples are scored with all of their digits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import genkit
from genkit.cli import main as genkit_command

FAMILIES = ("dcgan", "vae", "pixelcnn")
STEPS = 200
SAMPLES = 200


def hash_of(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].contiguous().numpy()
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def train_and_score(family: str, folder: Path) -> dict[str, Any]:
    """Hashes of a family's weights and samples, and the scores of the samples."""
    run = genkit.train(
        family, preset="quick", run_dir=folder / family, budget=f"{STEPS}steps", seed=1,
        precision="fp32", threads=1, device="cpu", progress="none",
    )  # fmt: skip
    rows = folder / f"{family}.json"
    arguments = ["evaluate", str(run.path), "-n", str(SAMPLES), "--threads", "1"]
    arguments += ["--likelihood-images", "100", "--draws", "4", "--json", str(rows)]
    code = genkit_command([*arguments, "--progress", "none"])
    assert code == 0, f"evaluating {family} ended with code {code}"
    kept = ("name", "scores", "deviations", "likelihood")
    return {
        "weights": hash_of(load_file(run.path / "model.safetensors")),
        "samples": hash_of({"samples": torch.as_tensor(run.sample(SAMPLES))}),
        "rows": [
            {key: row[key] for key in kept if key in row} for row in json.loads(rows.read_text())
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the hashes and scores there")
    parser.add_argument("--against", type=Path, help="compare with what was written before")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {family: train_and_score(family, Path(folder)) for family in FAMILIES}
    text = json.dumps({"torch": torch.__version__, **found}, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    if not arguments.against:
        print(text)
        return 0
    before = json.loads(arguments.against.read_text(encoding="utf-8"))
    for family, now in found.items():
        for part, value in now.items():
            same = before[family][part] == json.loads(json.dumps(value))
            print(f"{family:9} {part:8} {'the same' if same else 'DIFFERENT'}")
    changed = any(before[family] != json.loads(json.dumps(found[family])) for family in FAMILIES)
    return int(changed)


if __name__ == "__main__":
    sys.exit(main())
