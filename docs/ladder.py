"""Draws docs/ladder.svg: nats against epochs of Diagonal BiLSTMs, beside a published curve.

    python docs/ladder.py RUN...

A run is a folder of `genkit train pixelrnn --cell diagonal --data mnist --batch-size 64`. Its line
is what the log holds, the nats of training images, averaged over a quarter of an epoch; a ring is
the likelihood of test images that `genkit evaluate` has stored, of the averaged weights.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from math import log10
from pathlib import Path

Point = tuple[float, float]  # epochs, nats of an image
# The Diagonal BiLSTM of 7 layers and 16 features on thresholded MNIST: Adam at 1e-3, gradients
# clipped at 1, batches of 64. As the log in rmsnorm/pixel-rnn-jax on GitHub shows it.
PUBLISHED = [(1, 68.67), (4, 62.2), (10, 59.8), (17, 57.9), (34, 56.6), (100, 55.28)]
PART = 0.25  # of an epoch: a point is the mean of what was logged in it
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 560, 300, 44, 16, 40
EPOCHS, NATS = (0.2, 100.0), (50.0, 90.0)
COLOURS = ("#1f5fa8", "#3c7a3c", "#6a4c93", "#8a6d1d")


@dataclass(frozen=True)
class Training:
    """A run's curve, and its last score of test images, if there is one."""

    name: str
    curve: list[Point]
    test: Point | None


def read(run: Path) -> Training:
    """What a run has logged and stored."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    epoch = config["data"]["train_images"]
    curve: list[Point] = []
    logged = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, logged) if "nll/nats" in row]
    start = 0
    for end, row in enumerate(rows, 1):
        first = rows[start - 1]["images"] if start else 0
        if row["images"] - first >= PART * epoch or end == len(rows):
            nats = [each["nll/nats"] for each in rows[start:end]]
            curve.append((row["images"] / epoch, sum(nats) / len(nats)))
            start = end
    stored, test = run / "evaluation.json", None
    if stored.exists():
        rows = json.loads(stored.read_text(encoding="utf-8"))
        score = next(row for row in rows if row.get("likelihood"))
        test = (score["images"] / epoch, -score["likelihood"]["nats"])
    return Training(run.name, curve, test)


def published(epochs: float) -> float | None:
    """The published curve at some epoch, linear in the logarithm between its points."""
    for (left, high), (right, low) in pairwise(PUBLISHED):
        if left <= epochs <= right:
            share = log10(epochs / left) / log10(right / left)
            return high + share * (low - high)
    return None


def place(point: Point) -> Point:
    """Where a point lies in the picture; what lies outside is moved to its edge."""
    (first, last), (low, high) = EPOCHS, NATS
    across = log10(min(max(point[0], first), last) / first) / log10(last / first)
    up = (min(max(point[1], low), high) - low) / (high - low)
    return LEFT + across * WIDTH, TOP + (1 - up) * HEIGHT


def path(points: list[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, points))


def draw(runs: list[Training]) -> str:
    """The picture as SVG."""
    size = (LEFT + WIDTH + 16, TOP + HEIGHT + BOTTOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" role="img"'
        ' font-family="system-ui, sans-serif" font-size="11" fill="#333">',
        "<title>Nats of thresholded digits against epochs</title>",
        f'<rect width="{size[0]}" height="{size[1]}" fill="#fff"/>',
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="#f6f6f4"/>',
    ]
    bottom = TOP + HEIGHT
    for nats in range(50, 91, 10):
        y = place((1, nats))[1]
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{nats}</text>')
        parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#ddd"/>')
    for epochs in (0.2, 0.5, 1, 2, 4, 10, 17, 34, 100):
        x = place((epochs, 50))[0]
        parts.append(f'<text x="{x:.0f}" y="{bottom + 14}" text-anchor="middle">{epochs:g}</text>')
    middle = LEFT + WIDTH / 2
    parts.append(f'<text x="{middle:.0f}" y="{bottom + 32}" text-anchor="middle">epochs</text>')
    lines = [("published", "#b3541e", PUBLISHED, PUBLISHED, "5 3")]
    for run, colour in zip(runs, COLOURS, strict=False):
        lines.append((run.name, colour, run.curve, [run.test] if run.test else [], ""))
    for number, (name, colour, curve, marks, dashes) in enumerate(lines):
        parts.append(
            f'<polyline points="{path(curve)}" fill="none" stroke="{colour}" stroke-width="1.5"'
            f' stroke-dasharray="{dashes}"/>'
        )
        for x, y in map(place, marks):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#fff" stroke="{colour}"/>')
        parts.append(
            f'<text x="{LEFT + WIDTH - 8}" y="{TOP + 16 + 14 * number}" text-anchor="end"'
            f' fill="{colour}">{name}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    runs = [read(Path(name)) for name in sys.argv[1:]]
    found = Path(__file__).with_name("ladder.svg")
    found.write_text(draw(runs), encoding="utf-8")
    for run in runs:
        for what, point in (("training images", run.curve[-1]), ("test images", run.test)):
            if point:
                other = published(point[0])
                beside = f", published {other:.2f}" if other else ""
                print(f"{run.name}, epoch {point[0]:.2f}, {what}: {point[1]:.2f} nats{beside}")


if __name__ == "__main__":
    main()
