"""Whether error bars hold: the scores of runs under other seeds of the samples.

    python tests/bench/error_bars.py RUN... [-n 2000] [--repeats 10]

Prints for each run and score: mean, the standard deviation over the repeats, the deviation printed
with the first, and how many repeats lie within two printed deviations of the mean; then how often
the order of the runs by each score that ranks was the most frequent one.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

from genkit.evaluation.evaluator import Evaluator
from genkit.evaluation.preflight import choose_data
from genkit.evaluation.protocol import EvaluationProtocol
from genkit.io.progress import Lines
from genkit.registry.catalogue import load_registry
from genkit.report.ranking import score_columns
from genkit.report.rows import ScoreRow
from genkit.runs.build import load_data
from genkit.runs.run import load_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()

    registry = load_registry()
    data = load_data(registry, choose_data(str(options.runs[0]), {}))
    evaluator = Evaluator.choose(
        registry, data, EvaluationProtocol(samples=options.n, likelihood_images=1, draws=1), Lines()
    )
    rows: dict[str, list[ScoreRow]] = {}
    for path in options.runs:
        run = load_run(path, registry)
        for seed in range(options.repeats):
            evaluator.reporter.start(f"{path.name}, seed {seed}")
            seeded = replace(evaluator, protocol=replace(evaluator.protocol, seed=seed))
            rows.setdefault(path.name, []).append(seeded.evaluate_run(run))

    print("| run | score | mean | sd of repeats | sd printed | within 2 sd |")
    print("|---|---|---|---|---|---|")
    for name, found in rows.items():
        for column in score_columns(registry):
            values = [row.scores[column.name] for row in found]
            bars = [row.deviations[column.name] for row in found]
            mean = statistics.fmean(values)
            inside = sum(abs(v - mean) <= 2 * bar for v, bar in zip(values, bars, strict=True))
            print(
                f"| {name} | {column.name} | {mean:.4g} | {statistics.stdev(values):.2g} "
                f"| {bars[0]:.2g} | {inside} of {len(values)} |"
            )
    for column in score_columns(registry):
        if column.ranks:
            orders = Counter(
                tuple(sorted(rows, key=lambda name: rows[name][i].scores[column.name]))
                for i in range(options.repeats)
            )
            order, times = orders.most_common(1)[0]
            print(f"{column.name}: {' < '.join(order)} in {times} of {options.repeats}")


if __name__ == "__main__":
    main()
