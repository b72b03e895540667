"""Geometry of a page's charts: thinned lines, axes, ticks and words about them. Draws nothing.

All positions are in the units of the chart's own view box, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

MOST_POINTS = 300  # of a line
SMALL = (320, 190)  # of a chart, in view box units
LARGE = (760, 360)
LEFT, TOP, BOTTOM, ABOVE = 46, 12, 26, 0.06  # margins; ABOVE: room around the values, a share
Point = tuple[float, float | None]  # None: not finite, or never written
Mark = tuple[float, float, float | None]


@dataclass(frozen=True)
class Series:
    """A line: values over x, in order of x.

    Args:
        number: which of the page's colours, dashes and markers it has, from 0.
        marks: (x, value, standard deviation or None) of points of their own, such as a last score.
    """

    name: str
    points: Sequence[Point]
    number: int = 0
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Line:
    """A series as it is drawn: `path` has a point for each word of `xs` and `ys`."""

    name: str
    number: int
    path: str
    xs: str
    ys: str
    label: tuple[float, float]
    marks: Sequence[tuple[float, float, float, float]] = ()  # x, y, and the ends of an error bar
    marked: str = ""  # the last mark's value in words


@dataclass(frozen=True)
class Chart:
    """All that a template needs to draw a chart, with a description for those who cannot see it."""

    title: str
    x_label: str
    width: int
    height: int
    right: float
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    description: str
    floor: tuple[float, str] | None = None
    left: float = LEFT
    top: float = TOP
    bottom: float = BOTTOM
    labelled: bool = False
    logarithmic: bool = False


def number(value: float) -> str:
    """A value in about four digits, for axes and readouts."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 1e-3:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    text = f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def with_bar(value: float, deviation: float | None) -> str:
    """A value and its error bar, two standard deviations, if it has one."""
    return number(value) + (f" ±{number(2 * deviation)}" if deviation else "")


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` of the points: the first, the last, and of each stretch between them the least
    and the greatest value and one gap."""
    if len(points) <= most:
        return list(points)
    stretches = max((most - 2) // 3, 1)
    kept = {0, len(points) - 1}
    for stretch in range(stretches):
        start = stretch * len(points) // stretches
        end = (stretch + 1) * len(points) // stretches
        known = [i for i in range(start, end) if points[i][1] is not None]
        if known:
            kept.add(min(known, key=lambda i: points[i][1] or 0.0))
            kept.add(max(known, key=lambda i: points[i][1] or 0.0))
        kept.update(next(([i] for i in range(start, end) if points[i][1] is None), []))
    return [points[i] for i in sorted(kept)]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.99)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two positive numbers; also multiples of them if these are close."""
    factors = (1,) if high / low > 100 else (1, 2, 5) if high / low > 8 else (1, 2, 3, 4, 6, 8)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [value for value in found if low * 0.999 <= value <= high * 1.001]


def chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    *,
    size: tuple[int, int] = SMALL,
    log: bool = False,
    labelled: bool = False,
    floor: float | None = None,
    most: int = MOST_POINTS,
) -> Chart | None:
    """The geometry of a chart, or None if there is not a single value.

    Args:
        log: logarithmic values, if all of them are positive.
        labelled: names stand at the ends of their lines.
        floor: a value to draw a line across at.
    """
    series = [one for one in series if one.marks or any(y is not None for _, y in one.points)]
    values = list(_values(series)) + ([] if floor is None else [floor])
    if not series:
        return None
    log = log and min(values) > 0 and max(values) > 4 * min(values)
    width, height = size
    right = 120.0 if labelled else 12.0
    places = [x for one in series for x, _ in one.points]
    places += [x for one in series for x, _, _ in one.marks]
    # The axis starts at 0, where training does.
    least, greatest = min(0.0, *places), max(places)
    low, high = _room(min(values), max(values), log)

    def across(x: float) -> float:
        share = (x - least) / (greatest - least) if greatest > least else 0.5
        return round(LEFT + share * (width - LEFT - right), 1)

    def up(y: float) -> float:
        share = (math.log(y / low) / math.log(high / low)) if log else (y - low) / (high - low)
        return round(height - BOTTOM - share * (height - TOP - BOTTOM), 1)

    lines = [_line(one, thin(one.points, most), across, up) for one in series]
    marks = log_ticks(low, high) if log else ticks(low, high)
    return Chart(
        title,
        x_label,
        width,
        height,
        right,
        _spread(lines, height) if labelled else lines,
        [(across(x), number(x)) for x in ticks(least, greatest, 4 if size == SMALL else 8)],
        [(up(y), number(y)) for y in marks if low <= y <= high],
        "; ".join(_words(one, x_label) for one in series),
        None if floor is None else (up(floor), number(floor)),
        labelled=labelled,
        logarithmic=log,
    )


def _values(series: Sequence[Series]) -> Iterator[float]:
    for one in series:
        yield from (y for _, y in one.points if y is not None)
        for _, value, deviation in one.marks:
            yield from (value - 2 * (deviation or 0), value + 2 * (deviation or 0))


def _room(low: float, high: float, log: bool) -> tuple[float, float]:
    """Bounds with some room around the values."""
    if log:
        factor = (high / low) ** ABOVE
        return low / factor, high * factor
    room = ABOVE * (high - low) or abs(high) * ABOVE or 1.0
    return low - room, high + room


def _line(
    one: Series,
    points: Sequence[Point],
    across: Callable[[float], float],
    up: Callable[[float], float],
) -> Line:
    """A series at its place in the chart."""
    known = [(x, y) for x, y in points if y is not None]
    path, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        path.append(f"{pen}{across(x):g},{up(y):g}")
        pen = "L"
    label = (across(known[-1][0]), up(known[-1][1])) if known else (0.0, 0.0)
    marks, marked = [], ""
    for x, value, deviation in one.marks:
        spread = 2 * (deviation or 0)
        marks.append((across(x), up(value), up(value - spread), up(value + spread)))
        label = marks[-1][:2]
        marked = with_bar(value, deviation)
    xs, ys = " ".join(number(x) for x, _ in known), " ".join(number(y) for _, y in known)
    return Line(one.name, one.number, "".join(path), xs, ys, label, marks, marked)


def _spread(lines: Sequence[Line], height: int, gap: float = 15.0) -> list[Line]:
    """The lines with their labels pushed apart, so that none covers another."""
    ordered = sorted(lines, key=lambda line: line.label[1])
    heights: list[float] = []
    for line in ordered:
        heights.append(max(line.label[1], heights[-1] + gap if heights else 0))
    bottom = float(height - BOTTOM)
    for place in reversed(range(len(heights))):
        heights[place] = min(heights[place], bottom)
        bottom = heights[place] - gap
    moved = {
        id(line): replace(line, label=(line.label[0], at))
        for line, at in zip(ordered, heights, strict=True)
    }
    return [moved[id(line)] for line in lines]


def _words(one: Series, x_label: str) -> str:
    """A line in words: where it begins, where it ends, and between what."""
    known = [(x, y) for x, y in one.points if y is not None]
    if not known:
        marked = [f"{with_bar(y, bar)} at {number(x)} {x_label}" for x, y, bar in one.marks]
        return f"{one.name}: {', '.join(marked)}"
    (first, start), (last, end) = known[0], known[-1]
    heights = [y for _, y in known]
    return (
        f"{one.name}: {number(start)} at {number(first)}, {number(end)} at {number(last)} "
        f"{x_label}, between {number(min(heights))} and {number(max(heights))}"
    )
