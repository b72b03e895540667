"""Writes the table and the pictures of instability.md from a finished `genkit study`.

genkit study gan-instability --out unstable
python docs/instability.py unstable
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from sections import within

from genkit.registry.catalogue import load_registry
from genkit.report.charts import Chart
from genkit.study.file import StudyFile
from genkit.study.find import find_study
from genkit.study.page import Group, make_groups
from genkit.study.table import to_markdown

DOCS = Path(__file__).parent
COLOURS = ("#1f5fa8", "#b3541e", "#3c7a3c", "#6a4c93", "#876000", "#56616d")
SHOWN = 2  # curves of each group
LEGEND, GAP = 190, 24  # of a row: room for the names; between rows
TILES, ACROSS, LINE = 5, 4, 20  # samples a side of a case's square; squares a row; its heading


def draw_curves(groups: Sequence[Group]) -> str:
    """An SVG: a row for each failure and its cures, with their first curves and names."""
    shown = [g for g in groups if len(g.members) > 1 and g.members[0].outcome.trainings]
    charts = [group.charts[:SHOWN] for group in shown]
    width = max(sum(chart.width for chart in row) for row in charts) + LEGEND
    tall = [max(chart.height for chart in row) + GAP for row in charts]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {sum(tall)}" role="img"'
        ' font-family="system-ui, sans-serif" font-size="11" fill="#333">',
        "<title>Curves of the cases of a study</title>",
        f'<rect width="{width}" height="{sum(tall)}" fill="#fff"/>',
    ]
    for place, row in enumerate(charts):
        top, left = sum(tall[:place]) + GAP, 0
        for chart in row:
            parts += [f'<g transform="translate({left} {top})">', *_curves(chart), "</g>"]
            left += chart.width
        for line in row[0].lines:
            y = top + 24 + 18 * line.number
            colour = COLOURS[line.number % len(COLOURS)]
            parts.append(f'<path d="M{left + 4} {y - 4}h18" stroke="{colour}" stroke-width="2"/>')
            parts.append(f'<text x="{left + 28}" y="{y}">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _curves(chart: Chart) -> list[str]:
    """The elements of one chart."""
    right, bottom = chart.width - chart.right, chart.height - chart.bottom
    title = escape(f"{chart.title} over {chart.x_label}")
    parts = [f'<text x="{chart.left}" y="2" font-weight="bold">{title}</text>']
    for y, text in chart.y_ticks:
        parts.append(f'<path d="M{chart.left} {y}H{right:g}" stroke="#ddd"/>')
        parts.append(f'<text x="{chart.left - 6}" y="{y + 4}" text-anchor="end">{text}</text>')
    for x, text in chart.x_ticks:
        parts.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    for line in chart.lines:
        colour = COLOURS[line.number % len(COLOURS)]
        parts.append(f'<path d="{line.path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    return parts


def draw_samples(groups: Sequence[Group]) -> Image.Image:
    """The last samples of each case's first training, under its label."""
    members = [member for group in groups for member in group.members]
    side = 2 + TILES * 30
    rows = -(-len(members) // ACROSS)
    canvas = Image.new("L", (ACROSS * (side + 8), rows * (side + LINE + 8)), color=255)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    for place, member in enumerate(members):
        x, y = place % ACROSS * (side + 8), place // ACROSS * (side + LINE + 8)
        pen.text((x, y + 3), member.case.label, fill=0, font=font)
        grids = member.outcome.views[0].grids() if member.outcome.views else []
        if grids:
            with Image.open(grids[-1][1]) as grid:
                canvas.paste(grid.convert("L").crop((0, 0, side, side)), (x, y + LINE))
    return canvas


def said(groups: Sequence[Group]) -> str:
    """What the watcher said of the failures, as a list."""
    found = [
        f"- **{member.case.label}**, {member.outcome.warnings[0]}\n"
        for group in groups
        for member in group.members
        if member.outcome.warnings and not member.case.cures
    ]
    return "".join(found) or "Nothing.\n"


def write(study: StudyFile, folder: Path, docs: Path) -> None:
    """Write the pictures, and the made parts of the page."""
    groups = make_groups(study, folder, {})
    (docs / "instability.svg").write_text(draw_curves(groups), encoding="utf-8")
    draw_samples(groups).save(docs / "instability.png", optimize=True)
    page = docs / "instability.md"
    text = within(page.read_text(encoding="utf-8"), "table", to_markdown(study, folder))
    page.write_text(within(text, "warnings", said(groups)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="results of genkit study gan-instability")
    _, study = find_study("gan-instability", load_registry())
    write(study, parser.parse_args().folder, DOCS)


if __name__ == "__main__":
    main()
