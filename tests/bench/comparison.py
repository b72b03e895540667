"""What a comparison takes beside the training: processes that are forked against processes that
import torch each, in seconds outside the budgets.

Three models for a few seconds each, 500 samples. On two cores the budgets take two rounds.
"""

from __future__ import annotations

import math
import os
import tempfile

from timing import Figure, Spread, Turn, compare, main, run_process

MODELS = ("dcgan", "vae", "pixelcnn")
FORKED = ["-m", "genkit"]
ALONE = [
    "-c",
    "import contextlib, sys\n"
    "from genkit.comparison import compare\n"
    "compare.fork_server = contextlib.nullcontext\n"
    "from genkit.cli import main\n"
    "sys.exit(main(sys.argv[1:]))",
]


def measure(quick: bool) -> list[Figure]:
    seconds, rounds = (1, 1) if quick else (5, 3)
    budgets = seconds * math.ceil(len(MODELS) / len(os.sched_getaffinity(0)))
    turns: dict[str, list[Turn]] = {"alone": [], "forked": []}
    for number in range(-1, rounds):
        for name, python in (("alone", ALONE), ("forked", FORKED)):
            if number < 0 and name == "alone":
                continue  # one comparison fills the caches
            with tempfile.TemporaryDirectory() as folder:
                words = ["compare", *MODELS, "--budget", f"{seconds}s", "--samples", "500"]
                turn = run_process([*python, *words, "--out", f"{folder}/out"]).turn
            if number >= 0:
                turns[name].append(turn)
    beside = Spread.of(turn.wall - budgets for turn in turns["forked"])
    return [
        Figure(
            f"`genkit compare` of three models, {seconds} s each: what is no training",
            wall=beside,
            unit=" s",
            judged_by="wall",
            must=30,
            aim=15,
            note=f"of {beside.median + budgets:.1f} s, {budgets} s are budgets",
        ),
        compare("the same, processes that import torch each, to forks", turns, "alone", "forked"),
    ]


if __name__ == "__main__":
    main(measure, __doc__)
