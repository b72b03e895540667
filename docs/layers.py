"""Draws layers.svg, the picture in architecture.md, from genkit's imports.

    python docs/layers.py            write it
    python docs/layers.py --check    exit code 1 if it is stale

A unit is a folder or a module directly in genkit/. Imports for type checkers do not count.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

import grimp

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "genkit"
COMMAND = "python docs/layers.py"
NOT_DRAWN = {"__main__", "pytest_plugin"}  # ways in from outside: nothing imports them
HEAVY = {"torch", "torchvision", "torch_fidelity"}
Graph = Mapping[str, set[str]]  # what each unit imports

WIDTH, HEIGHT, STEP_X, STEP_Y, TOP = 116, 34, 140, 82, 44  # of boxes, between them, above them
# Colours as they stand in the attributes, by class, and what they become on a dark page.
COLOURS = {"paper": "#fff", "light": "#dcebd9", "heavy": "#f3dfc6", "line": "#777", "ink": "#222"}
DARK = """
  @media (prefers-color-scheme: dark) {
    .paper { fill: #1a1c1e } .light { fill: #2f4a33 } .heavy { fill: #57432a }
    text { fill: #eee } .box, .arrow { stroke: #aaa } .tip { fill: #aaa }
  }
"""


# ---- what imports what


def read_imports() -> tuple[Graph, set[str]]:
    """What each unit of genkit imports, and the units that import torch themselves."""
    graph = grimp.build_graph(
        "genkit",
        include_external_packages=True,
        exclude_type_checking_imports=True,
        cache_dir=None,
    )
    units: dict[str, set[str]] = {}
    heavy = set()
    for module in graph.modules:
        unit = unit_of(module)
        if unit and unit not in NOT_DRAWN:
            found = graph.find_modules_directly_imported_by(module)
            others = units.setdefault(unit, set())
            others |= {other for name in found if (other := unit_of(name))} - {unit}
            if found & HEAVY and unit != "cli":  # whose commands import torch when they run
                heavy.add(unit)
    return units, heavy


def unit_of(module: str) -> str | None:
    """`io` for "genkit.io.files"; None for genkit itself and for other packages."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] or None if package == "genkit" else None


def reached(graph: Graph, start: str) -> set[str]:
    """All that a unit imports, directly or by way of others."""
    found: set[str] = set()
    todo = list(graph[start])
    while todo:
        if (unit := todo.pop()) not in found:
            found.add(unit)
            todo += graph[unit]
    return found


def essential(graph: Graph) -> dict[str, set[str]]:
    """The same graph without imports that a chain of others implies."""
    below = {unit: reached(graph, unit) for unit in graph}
    return {
        unit: {other for other in direct if not any(other in below[each] for each in direct)}
        for unit, direct in graph.items()
    }


def rows_of(graph: Graph) -> list[list[str]]:
    """The units from top to bottom: each one row below the lowest that imports it."""
    depth = dict.fromkeys(graph, 0)
    for _ in graph:  # as many times as the longest chain can need
        for unit in graph:
            for other in graph[unit]:
                depth[other] = max(depth[other], depth[unit] + 1)
    return [
        sorted(unit for unit in graph if depth[unit] == row)
        for row in range(max(depth.values()) + 1)
    ]


# ---- the picture


def draw(graph: Graph, heavy: set[str]) -> str:
    """The picture: light units at the left, heavy ones at the right, importers above."""
    arrows = essential(graph)
    rows = rows_of(graph)
    sides = [[[u for u in row if (u in heavy) == side] for side in (False, True)] for row in rows]
    left, right = (max(len(row[side]) for row in sides) for side in (0, 1))
    middle = (left + 0.25) * STEP_X
    places: dict[str, tuple[float, float]] = {}
    for number, (light, other) in enumerate(sides):
        y = TOP + (number + 0.5) * STEP_Y
        for i, unit in enumerate(by_importers(light, arrows, places)[::-1]):
            places[unit] = (middle - (i + 0.5) * STEP_X, y)
        for i, unit in enumerate(by_importers(other, arrows, places)):
            places[unit] = (middle + (i + 0.5) * STEP_X, y)
    width, height = (left + right + 0.5) * STEP_X, TOP + len(rows) * STEP_Y
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        'font-family="system-ui, sans-serif" font-size="15" text-anchor="middle">',
        "<title>The folders and modules of genkit; each imports only what is below it</title>",
        f"<style>{DARK}</style>",
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path class="tip" d="M0 0L8 4L0 8z" fill="{COLOURS["line"]}"/></marker>',
        f'<rect class="paper" width="{width:g}" height="{height:g}" fill="{COLOURS["paper"]}"/>',
        words("light: starts without torch", middle / 2, 26),
        words("heavy: imports torch", (middle + width) / 2, 26),
    ]
    for unit in places:
        lines += [arrow(places, unit, other) for other in sorted(arrows[unit])]
    for unit, (x, y) in places.items():
        kind = "heavy" if unit in heavy else "light"
        name = f"{unit}/" if (PACKAGE / unit).is_dir() else unit
        lines += [
            f'<rect class="box {kind}" x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" '
            f'width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{COLOURS[kind]}" '
            f'stroke="{COLOURS["line"]}"/>',
            words(name, x, y + 5),
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def words(text: str, x: float, y: float) -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{COLOURS["ink"]}">{escape(text)}</text>'


def by_importers(
    units: Iterable[str], arrows: Graph, places: Mapping[str, tuple[float, float]]
) -> list[str]:
    """Units of a row in the order of the mean place of those above that import them."""

    def mean(unit: str) -> float:
        above = [x for other, (x, _) in places.items() if unit in arrows[other]]
        return sum(above) / len(above) if above else 0.0

    return sorted(units, key=lambda unit: (mean(unit), unit))


def arrow(places: Mapping[str, tuple[float, float]], unit: str, other: str) -> str:
    """A curve from a unit down to one that it imports, around a box that is in the way."""
    (x1, y1), (x2, y2) = places[unit], places[other]
    start, end = y1 + HEIGHT / 2, y2 - HEIGHT / 2 - 2
    blocked = any(
        y1 < y < y2 and abs(x1 + (x2 - x1) * (y - y1) / (y2 - y1) - x) < WIDTH / 2
        for x, y in places.values()
    )
    bend = 0.75 * STEP_X if blocked else 0
    a, b = x1 + bend, x2 + bend
    pull = (end - start) * 0.5
    curve = f"M{x1:g} {start:g}C{a:g} {start + pull:g} {b:g} {end - pull:g} {x2:g} {end:g}"
    look = f'fill="none" stroke="{COLOURS["line"]}" stroke-width="1.4" marker-end="url(#tip)"'
    return f'<path class="arrow" data-from="{unit}" data-to="{other}" d="{curve}" {look}/>'


def main(arguments: list[str]) -> int:
    path, picture = DOCS / "layers.svg", draw(*read_imports())
    stale = not path.exists() or path.read_text(encoding="utf-8") != picture
    if stale and "--check" in arguments:
        print(f"stale: {path.name}; run: {COMMAND}", file=sys.stderr)
        return 1
    if stale:
        path.write_text(picture, encoding="utf-8")
    print(path if stale else "up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
