"""Trains DCGANs that fail in known ways, and draws what families.md shows of them.

    python docs/instability.py --work FOLDER [--steps 3000]

Each training runs in FOLDER by genkit's own command line, unless it is there already: about two
minutes each on one core. Writes instability.svg and instability.png beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).parent
SHARED = "--preset quick --log-every 10 --grids 30 --seed 0"
RUNS = {
    "steady": "",
    "greedy": "--generator-rate 0.01",
    "minimax": "--loss minimax --discriminator-rate 0.005",
    "saved": "--discriminator-rate 0.005",
}
# A row of panels: title, what it holds by colour, values at the bottom and at the top.
PANELS = [
    ("loss", {"generator/loss": "#b3541e", "discriminator/loss": "#1f5fa8"}, (-2.0, 8.0)),
    ("taken for real", {"discriminator/real": "#1f5fa8", "discriminator/fake": "#b3541e"}, (0, 1)),
    ("diversity", {"diversity": "#3c7a3c"}, (0.0, 1.5)),
    ("KID x1000", {"kid": "#6a4c93"}, (0.0, 2000.0)),
]
KEYS = {"generator/loss": "generator", "discriminator/loss": "discriminator"}
KEYS |= {"discriminator/real": "real images", "discriminator/fake": "samples"}
WIDTH, HEIGHT, GAP, LEFT, TOP = 200, 96, 18, 52, 44  # of a panel, between panels, of the margins
MOMENTS = (0.1, 0.3, 0.55, 0.7, 1.0)  # shares of the training whose samples are shown
TILES = 5  # samples a side of each moment's square


def train(name: str, work: Path, steps: int) -> Path:
    """The run of that name, trained if it is not there."""
    run = work / name
    if not (run / "summary.json").exists():
        words = f"{SHARED} {RUNS[name]} --budget {steps}steps --progress lines --run-dir {run}"
        command = [sys.executable, "-m", "genkit", "train", "dcgan", *words.split()]
        subprocess.run(command, check=True)
    return run


def read(run: Path) -> tuple[dict[str, list[tuple[int, float]]], list[tuple[int, str]]]:
    """Curves of a run by name, (step, value) each, and its warnings, (step, text)."""
    curves: dict[str, list[tuple[int, float]]] = {}
    warnings = []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "warning" in row:
            warnings.append((row["step"], row["warning"]))
            continue
        for key, value in row.items():
            if isinstance(value, (int, float)) and key != "step":
                factor = 1000 if key == "kid" else 1
                curves.setdefault(key, []).append((row["step"], factor * value))
    return curves, warnings


def thinned(curve: Sequence[tuple[int, float]], most: int = 100) -> Iterator[tuple[float, float]]:
    """Means of neighbouring points, at most so many."""
    group = -(-len(curve) // most)
    for start in range(0, len(curve), group):
        part = curve[start : start + group]
        yield sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)


def draw_curves(runs: dict[str, Path], steps: int) -> str:
    """An SVG: a column per run, a row per kind of curve; dashed lines where genkit warned."""
    width = LEFT + len(runs) * (WIDTH + GAP)
    height = TOP + len(PANELS) * (HEIGHT + GAP) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        ' font-family="system-ui, sans-serif" font-size="11" fill="#333">',
        "<title>Curves of four GAN trainings</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for column, (name, run) in enumerate(runs.items()):
        curves, warnings = read(run)
        x = LEFT + column * (WIDTH + GAP)
        parts.append(f'<text x="{x}" y="16" font-weight="bold">{name}</text>')
        for row, (title, lines, (low, high)) in enumerate(PANELS):
            y = TOP + row * (HEIGHT + GAP)
            parts.append(
                f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" fill="#f6f6f4"/>'
            )
            if column == 0:
                for value, place in ((high, y + 9), (low, y + HEIGHT)):
                    parts.append(
                        f'<text x="{x - 6}" y="{place}" text-anchor="end">{value:g}</text>'
                    )
                parts.append(
                    f'<text transform="rotate(-90)" x="{-y - HEIGHT / 2}" y="12" '
                    f'text-anchor="middle" font-weight="bold">{title}</text>'
                )
            for step, _ in warnings:
                at = x + WIDTH * step / steps
                parts.append(
                    f'<path d="M{at:.1f} {y}v{HEIGHT}" stroke="#c00" stroke-dasharray="3 3"/>'
                )
            for key, colour in lines.items():
                points = [
                    (
                        x + WIDTH * s / steps,
                        y + HEIGHT * (high - min(max(v, low), high)) / (high - low),
                    )
                    for s, v in thinned(curves[key])
                ]
                path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
                parts.append(
                    f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
                )
            if column == 0:
                for place, key in enumerate(k for k in lines if k in KEYS):
                    parts.append(
                        f'<text x="{x + WIDTH - 4}" y="{y + 12 + 12 * place}" text-anchor="end" '
                        f'fill="{lines[key]}">{KEYS[key]}</text>'
                    )
        parts.append(f'<text x="{x}" y="{height - 14}">0</text>')
        parts.append(
            f'<text x="{x + WIDTH}" y="{height - 14}" text-anchor="end">{steps:,} steps</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def draw_samples(runs: dict[str, Path]) -> Image.Image:
    """A row per run, from left to right the same samples at several moments."""
    font = ImageFont.load_default(13)
    side = 2 + TILES * 30
    left, top = 96, 20
    canvas = Image.new(
        "L", (left + len(MOMENTS) * (side + 8), top + len(runs) * (side + 8)), color=255
    )
    pen = ImageDraw.Draw(canvas)
    for row, (name, run) in enumerate(runs.items()):
        y = top + row * (side + 8)
        pen.text((4, y + side // 2 - 8), name, fill=0, font=font)
        grids = sorted(run.glob("samples/step-*.png"))
        for column, share in enumerate(MOMENTS):
            path = grids[round(share * (len(grids) - 1))]
            x = left + column * (side + 8)
            if row == 0:
                pen.text(
                    (x, 2), f"step {int(path.stem.removeprefix('step-')):,}", fill=0, font=font
                )
            with Image.open(path) as grid:
                canvas.paste(grid.convert("L").crop((0, 0, side, side)), (x, y))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--steps", type=int, default=3000, help="iterations of each")
    given = parser.parse_args()
    runs = {name: train(name, given.work, given.steps) for name in RUNS}
    (DOCS / "instability.svg").write_text(draw_curves(runs, given.steps), encoding="utf-8")
    draw_samples(runs).save(DOCS / "instability.png", optimize=True)
    for name, run in runs.items():
        for step, text in read(run)[1]:
            print(f"{name}, step {step}: {text}")


if __name__ == "__main__":
    main()
