"""Files damaged at random, for every reader: only genkit's own errors may come out, and soon.

By hand, for longer than the test suite does: python tests/fuzz.py --mutants 1000000 --seed 7
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import io
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from toys import Denoiser, bright_squares, make_loop, registry, train_tiny, write_npz

from genkit.config.resolve import resolve
from genkit.errors import GenkitError
from genkit.io.run_directory import RunDir
from genkit.runs.checkpoint import load_state, load_weights, save_state, save_weights
from genkit.runs.run import load_run
from genkit.runs.state_file import check_state

MOST_SECONDS = 1.0
# What a mutant may be given in place of some of its bytes.
TOKENS = [b"", b"\0", b"\xff" * 8, b"\x7f" + b"\xff" * 3, b"\x80" * 4, b"\n", b"\xef\xbb\xbf"]
TOKENS += [b"NaN", b"1e999", b"-1", b"0", b"9" * 400, b"9" * 5000, b"null", b"true", b'"', b"{}"]
TOKENS += [b"[" * 2000, b'{"a":' * 500, b"\\ud800", b"\x1b[31m", b"../../x", b"1" * 20, b","]
TOKENS += [b"0.5", b"[]", b"=", b"os:system", b"\xc3\x28", "\u202e".encode()]


@dataclass(frozen=True)
class Target:
    """A reader: bytes that it reads, and what takes a mutant of them."""

    whole: bytes
    read: Callable[[bytes], object]


def mutate(content: bytes, chance: random.Random) -> bytes:
    """The content with one to four changes."""
    mutant = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        start = chance.randrange(len(mutant) + 1)
        if chance.random() < 0.5:  # near the front lie headers
            start = min(start, chance.randrange(200))
        end = min(start + chance.choice((0, 1, 1, 2, 4, 8, 64)), len(mutant))
        kind = chance.randrange(6)
        if kind == 0 and start < len(mutant):
            mutant[start] ^= 1 << chance.randrange(8)
        elif kind == 1:
            mutant[start:end] = chance.randbytes(end - start)
        elif kind == 2:
            mutant[start:end] = chance.choice(TOKENS)
        elif kind == 3:
            mutant[start:start] = mutant[start : start + chance.choice((1, 8, 100))]
        elif kind == 4:
            del mutant[start:end]
        elif chance.random() < 0.2:
            del mutant[start:]
    return bytes(mutant)


def mutate_inside(content: bytes, chance: random.Random) -> bytes:
    """A zip archive whose members are mutated, so that its check sums are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    place = 0 if chance.random() < 0.7 else chance.randrange(len(members))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (name, data) in enumerate(members):
            member = zipfile.ZipInfo(name)  # without the time of day, which would be another one
            archive.writestr(member, mutate(data, chance) if number == place else data)
    return buffer.getvalue()


def mutate_header(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file whose header is mutated, its length being right."""
    size = int.from_bytes(content[:8], "little")
    header = mutate(content[8 : 8 + size], chance)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


INSIDE = {"npz": mutate_inside, "state": mutate_header, "weights": mutate_header}


def targets(folder: Path) -> dict[str, Target]:
    """All readers of files that a third party may have written."""
    folder.mkdir(exist_ok=True)

    def through(path: Path, read: Callable[[], object]) -> Target:
        """A reader of a file that is there already."""

        def write_and_read(content: bytes) -> object:
            path.write_bytes(content)
            return read()

        return Target(path.read_bytes(), write_and_read)

    found: dict[str, Target] = {}
    loop = make_loop(Denoiser(), ema_half_life=50)
    loop.iterate()
    weights, states = folder / "model.safetensors", folder / "states"
    save_weights(weights, loop.model, {"model": "toy"})
    fresh = Denoiser()
    found["weights"] = through(weights, lambda: load_weights(weights, fresh))

    states.mkdir()
    state = save_state(states, 1, {"loop": copy.deepcopy(loop.state_dict()), "seconds": 1.0})

    def read_state(content: bytes) -> object:
        state.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()  # the attacker knows how to hash
        state.with_suffix(".json").write_text(json.dumps({"sha256": digest}), encoding="utf-8")
        optimizers = [phase.optimizer for phase in loop.phases]
        return load_state(
            states, lambda found: check_state(found, loop.model, loop.average, optimizers)
        )

    found["state"] = Target(state.read_bytes(), read_state)

    data = write_npz(folder / "data.npz", bright_squares(12), labels=np.arange(12) % 3)
    run = RunDir(folder / "run")
    train_tiny("vae", data, run.path, budget="4steps")
    found["config.json"] = through(run.config_path, lambda: load_run(run.path, registry(), "cpu"))
    found["metrics.jsonl"] = through(run.metrics_path, lambda: run.cut_metrics(3))

    options = folder / "options.toml"
    lines = ['model = "vae"', "[run]", 'budget = "90s"', "seed = 3", 'data_option = ["size=8"]']
    lines += ["checkpoint_seconds = 2.5", "[options]", "latent = 4", "learning_rate = 1e-3"]
    options.write_text("\n".join(lines), encoding="utf-8")
    vae = registry().trainers.find("vae")
    found["options.toml"] = through(options, lambda: resolve(vae, file=options))

    def reader(name: str, source: Path, **given: object) -> Callable[[], object]:
        spec = registry().datasets.find(name)
        return lambda: spec.load()(spec.config(**given), str(source), folder)

    arrays = folder / "data.npz"
    found["npz"] = through(arrays, reader("npz", arrays))
    pixels = bright_squares(1, (3, 16, 16))[0].transpose(1, 2, 0)
    for ending in ("png", "jpg", "webp", "bmp"):
        images = folder / ending
        images.mkdir()
        for number in range(3):
            Image.fromarray(pixels).save(images / f"{number}.{ending}")
        path = images / f"1.{ending}"
        found[ending] = through(path, reader("folder", images, size=8))
    return found


def make_mutant(name: str, target: Target, seed: int, number: int) -> bytes:
    """A mutant that follows from its name and numbers, so that a failure can be repeated."""
    chance = random.Random(f"{seed} {name} {number}")
    inside = INSIDE.get(name, mutate)
    return (inside if chance.random() < 0.6 else mutate)(target.whole, chance)


def attempt(target: Target, mutant: bytes) -> str:
    """How a reader took a mutant: "read", "refused", or what is wrong with the reader."""
    start = time.process_time()
    try:
        target.read(mutant)
        outcome = "read"
    except GenkitError as error:
        outcome = "refused" if str(error).strip() else "refused without a word"
    except Exception:
        return traceback.format_exc()
    seconds = time.process_time() - start
    return outcome if seconds < MOST_SECONDS else f"{outcome} after {seconds:.1f} s"


def fuzz(folder: Path, mutants: int, seed: int) -> tuple[dict[str, Counter[str]], list[str]]:
    """Try so many mutants in all; what became of them, and what failed."""
    outcomes: dict[str, Counter[str]] = {}
    failures = []
    found = targets(folder)
    share = -(-mutants // len(found))
    for name, target in found.items():
        assert attempt(target, target.whole) == "read", name
        count = outcomes[name] = Counter()
        for number in range(share):
            outcome = attempt(target, make_mutant(name, target, seed, number))
            if outcome in ("read", "refused"):
                count[outcome] += 1
            else:
                failures.append(f"mutant {number} of {name}, seed {seed}: {outcome}")
    return outcomes, failures


def main() -> int:
    """Fuzz as long as is asked for; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        outcomes, failures = fuzz(Path(folder, "fuzz"), arguments.mutants, arguments.seed)
    for name, count in outcomes.items():
        print(f"{name}: {count['read']:,} read, {count['refused']:,} refused")
    print(*failures, sep="\n")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
