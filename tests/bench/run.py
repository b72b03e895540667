"""Runs all benchmarks, or some, one after another, each in its own process.

    python tests/bench/run.py [NAME...] [--quick] [--json PATH] [--markdown PATH]

Prints the table of docs/benchmarks.md. A benchmark is a script in this folder with
`measure(quick)`, which returns a list of `timing.Figure`; run alone, it also takes --quick and
--json. If one fails or takes too long, the table says so, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import Figure, as_json, as_markdown, from_json

HERE = Path(__file__).parent
SHAPE = "\ndef measure(quick: bool) -> list[Figure]:\n"
MOST_SECONDS = 300  # for one bench


def benches() -> list[str]:
    """Names of the scripts here that measure."""
    scripts = sorted(HERE.glob("*.py"))
    return [s.stem for s in scripts if SHAPE in s.read_text(encoding="utf-8")]


def run(name: str, quick: bool, python: str) -> tuple[list[Figure], bool]:
    """A bench's figures, or one with what went wrong, and whether all went well."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "figures.json")
        command = [python, str(HERE / f"{name}.py"), "--json", str(found), *["--quick"] * quick]
        # A new cache: earlier results are not part of the measurement.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GENKIT_CACHE": f"{folder}/cache"}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS
            )
        except subprocess.TimeoutExpired:
            return [Figure(name, note=f"failed: took more than {MOST_SECONDS} s")], False
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            return [Figure(name, note=f"failed: {last}")], False
        return from_json(json.loads(found.read_text(encoding="utf-8"))["figures"]), True


def main() -> int:
    names = benches()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that all runs")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--markdown", type=Path, metavar="PATH")
    parser.add_argument(
        "--peers-python",
        default=sys.executable,
        metavar="PATH",
        help="Python with pythae, lightning and accelerate, for vae_peers",
    )
    parser.add_argument("--pytorch-generative", metavar="PATH", help="a checkout of it")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(
            f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names)}"
        )
    if options.pytorch_generative:
        os.environ["PYTORCH_GENERATIVE"] = os.path.abspath(options.pytorch_generative)

    figures: list[Figure] = []
    well = True
    for name in options.names or names:
        start = time.perf_counter()
        python = options.peers_python if name == "vae_peers" else sys.executable
        found, fine = run(name, options.quick, python)
        figures, well = figures + found, well and fine
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    table = as_markdown(figures)
    print(table)
    if options.markdown:
        options.markdown.write_text(table + "\n", encoding="utf-8")
    if options.json:
        text = json.dumps(as_json(figures, options.quick), indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
