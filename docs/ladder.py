"""Draws nats against training, beside published figures.

    python docs/ladder.py RUN...           docs/ladder.svg: Diagonal BiLSTMs, nats against epochs
    python docs/ladder.py --minutes RUN... docs/hour.svg: runs on mnist-binary, against minutes

A run's line is what its log holds, the nats of training images, averaged over a quarter of an
epoch, or over three minutes; of a VAE its bound. A ring is the likelihood of test images that
`genkit evaluate` has stored, of the averaged weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import log10
from pathlib import Path

Point = tuple[float, float]  # epochs or minutes, nats of an image
# The Diagonal BiLSTM of 7 layers and 16 features on thresholded MNIST: Adam at 1e-3, gradients
# clipped at 1, batches of 64. As the log in rmsnorm/pixel-rnn-jax on GitHub shows it.
PUBLISHED = [(1, 68.67), (4, 62.2), (10, 59.8), (17, 57.9), (34, 56.6), (100, 55.28)]
# Of binarised MNIST, at the end of training: PixelCNN by the table of EugenHotaj's
# pytorch-generative, binarised again at each visit; a VAE's importance-weighted bound by that of
# pythae, with one draw for each image.
LEVELS = {81.45: "published: PixelCNN, 457 epochs", 86.82: "published: VAE, 5,000 samples"}
COLOURS = ("#1f5fa8", "#3c7a3c", "#6a4c93", "#8a6d1d")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 560, 300, 44, 16, 40


@dataclass(frozen=True)
class Axes:
    """What a picture shows.

    Args:
        part: a point of a line is the mean of what was logged in so much of the x axis.
    """

    title: str
    name: str
    across: tuple[float, ...]  # ticks, from the first value to the last
    nats: tuple[float, ...]
    part: float
    logarithmic: bool

    def place(self, point: Point) -> Point:
        """Where a point lies in the picture; what lies outside is moved to its edge."""
        first, last, low, high = self.across[0], self.across[-1], self.nats[0], self.nats[-1]
        x, nats = min(max(point[0], first), last), min(max(point[1], low), high)
        if self.logarithmic:
            share = log10(x / first) / log10(last / first)
        else:
            share = (x - first) / (last - first)
        return LEFT + share * WIDTH, TOP + (1 - (nats - low) / (high - low)) * HEIGHT


EPOCHS = Axes(
    "Nats of thresholded digits against epochs",
    "epochs",
    (0.2, 0.5, 1, 2, 4, 10, 17, 34, 100),
    (50, 60, 70, 80, 90),
    0.25,
    True,
)
MINUTES = Axes(
    "Nats of binarised digits against minutes of training",
    "minutes",
    (0, 10, 20, 30, 40, 50, 60),
    (75, 80, 85, 90, 95, 100, 105, 110),
    3.0,
    False,
)


@dataclass(frozen=True)
class Training:
    """A run's curve, and its last score of test images, if there is one."""

    name: str
    curve: list[Point]
    test: Point | None


def nats_of(row: Mapping[str, float]) -> float | None:
    """The nats of a line of a log: a likelihood's, or a bound's."""
    if "elbo/kl_nats" in row:
        return row["elbo/reconstruction_nats"] + row["elbo/kl_nats"]
    return row.get("nll/nats")


def read(run: Path, axes: Axes = EPOCHS) -> Training:
    """What a run has logged and stored."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    logged = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, logged) if nats_of(row) is not None]

    def x_of(row: Mapping[str, float]) -> float:
        if axes.name == "minutes":
            return row["seconds"] / 60
        return row["images"] / float(config["data"]["train_images"])

    curve: list[Point] = []
    start = 0
    for end, row in enumerate(rows, 1):
        first = x_of(rows[start - 1]) if start else 0
        least = axes.part / 2 if end == len(rows) else axes.part  # the last point may be of less
        if x_of(row) - first >= least:
            nats = [nats_of(each) or 0.0 for each in rows[start:end]]
            curve.append((x_of(row), sum(nats) / len(nats)))
            start = end
    stored, test = run / "evaluation.json", None
    if stored.exists():
        rows = json.loads(stored.read_text(encoding="utf-8"))
        score = next(row for row in rows if row.get("likelihood"))
        test = (x_of(score), -score["likelihood"]["nats"])
    return Training(run.name, curve, test)


def published(epochs: float) -> float | None:
    """The published curve at some epoch, linear in the logarithm between its points."""
    for (left, high), (right, low) in pairwise(PUBLISHED):
        if left <= epochs <= right:
            share = log10(epochs / left) / log10(right / left)
            return high + share * (low - high)
    return None


def draw(runs: list[Training], axes: Axes = EPOCHS) -> str:
    """The picture as SVG."""

    def path(points: list[Point]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(axes.place, points))

    size = (LEFT + WIDTH + 16, TOP + HEIGHT + BOTTOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" role="img"'
        ' font-family="system-ui, sans-serif" font-size="11" fill="#333">',
        f"<title>{axes.title}</title>",
        f'<rect width="{size[0]}" height="{size[1]}" fill="#fff"/>',
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="#f6f6f4"/>',
    ]
    bottom = TOP + HEIGHT
    for nats in axes.nats:
        y = axes.place((1, nats))[1]
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{nats:g}</text>')
        parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#ddd"/>')
    for tick in axes.across:
        x = axes.place((tick, axes.nats[0]))[0]
        parts.append(f'<text x="{x:.0f}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>')
    middle = LEFT + WIDTH / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{bottom + 32}" text-anchor="middle">{axes.name}</text>'
    )
    lines = [("published", "#b3541e", PUBLISHED, PUBLISHED, "5 3")] if axes is EPOCHS else []
    for run, colour in zip(runs, COLOURS, strict=False):
        lines.append((run.name, colour, run.curve, [run.test] if run.test else [], ""))
    for number, (name, colour, curve, marks, dashes) in enumerate(lines):
        parts.append(
            f'<polyline points="{path(curve)}" fill="none" stroke="{colour}" stroke-width="1.5"'
            f' stroke-dasharray="{dashes}"/>'
        )
        for x, y in map(axes.place, marks):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#fff" stroke="{colour}"/>')
        parts.append(
            f'<text x="{LEFT + WIDTH - 8}" y="{TOP + 16 + 14 * number}" text-anchor="end"'
            f' fill="{colour}">{name}</text>'
        )
    for nats, what in LEVELS.items() if axes is MINUTES else ():
        y = axes.place((0, nats))[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#b3541e" stroke-dasharray="5 3"/>')
        parts.append(f'<text x="{LEFT + 8}" y="{y + 13:.0f}" fill="#b3541e">{what}: {nats}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    words = sys.argv[1:]
    axes = MINUTES if words[:1] == ["--minutes"] else EPOCHS
    runs = [read(Path(name), axes) for name in words if name != "--minutes"]
    found = Path(__file__).with_name("hour.svg" if axes is MINUTES else "ladder.svg")
    found.write_text(draw(runs, axes), encoding="utf-8")
    for run in runs:
        for what, point in (("training images", run.curve[-1]), ("test images", run.test)):
            if point:
                other = published(point[0]) if axes is EPOCHS else None
                beside = f", published {other:.2f}" if other else ""
                print(
                    f"{run.name}, {point[0]:.2f} {axes.name}, {what}: {point[1]:.2f} nats{beside}"
                )


if __name__ == "__main__":
    main()
