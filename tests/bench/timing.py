"""How benchmarks measure and report: variants alternate, and ratios are computed within a round.

CPU time is disturbed least by other work on the machine; it includes DataLoader workers. Imports no
torch, so that the processes it starts are small at first. Linux only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("torch", "torch-fidelity", "pythae", "lightning", "accelerate")
AT_REST_SECONDS = 0.05  # without CPU time spent
# Started by a small process: the peak of a process's memory begins with that of its parent.
LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
process = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(process, 0)
wall = time.perf_counter() - start
print(json.dumps([usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * 1024]))
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Turn(NamedTuple):
    """Seconds that a variant took in one round."""

    cpu: float
    wall: float


class Spread(NamedTuple):
    """Median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = list(values)
        if len(found) == 1:
            return cls(found[0], found[0], found[0])
        low, median, high = statistics.quantiles(found, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Figure:
    """One line of the table: a ratio or a difference, by CPU time and by wall time.

    Args:
        unit: "x" for a ratio, else what comes after the number.
        judged_by: "cpu" or "wall": which of the two `must` and `aim` are about.
        must, aim: what has to be reached, and what is hoped for; the better side of `must` is
            that on which `aim` lies.
        note: what the variants took, or why nothing was measured.
    """

    name: str
    cpu: Spread | None = None
    wall: Spread | None = None
    unit: str = "x"
    judged_by: str = "cpu"
    must: float | None = None
    aim: float | None = None
    note: str = ""

    @property
    def value(self) -> Spread | None:
        return self.cpu if self.judged_by == "cpu" else self.wall

    @property
    def verdict(self) -> str:
        """ "aim", "must" or "missed"; empty without a measurement or without a target."""
        if self.value is None or self.must is None or self.aim is None:
            return ""
        sign = 1 if self.aim >= self.must else -1
        if sign * self.value.median >= sign * self.aim:
            return "aim"
        return "must" if sign * self.value.median >= sign * self.must else "missed"


def interleave(
    variants: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1
) -> dict[str, list[Turn]]:
    """Each variant's turns: in every round all of them, one after another. The first `warm` rounds
    do not count."""
    turns: dict[str, list[Turn]] = {name: [] for name in variants}
    for number in range(-warm, rounds):
        for name, work in variants.items():
            turn = timed(work)
            if number >= 0:
                turns[name].append(turn)
    return turns


def timed(work: Callable[[], object]) -> Turn:
    """What a call takes. CPU time includes worker processes, until they have fetched ahead all
    that they may: each turn of a loop then pays for as many batches as it takes."""
    children, cpu, wall = _children(), time.process_time(), time.perf_counter()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Turn(cpu + _children_at_rest() - children, wall)


def _children() -> float:
    """CPU seconds of all child processes so far, dead or alive."""
    alive = multiprocessing.active_children()  # reaps the others
    dead = resource.getrusage(resource.RUSAGE_CHILDREN)
    # clock_getcpuclockid(3), which Python lacks: the clock of another process
    clocks = [time.clock_gettime((~child.pid << 3) | 2) for child in alive if child.pid]
    return dead.ru_utime + dead.ru_stime + sum(clocks)


def _children_at_rest() -> float:
    """The same, once they do nothing any more."""
    before, now = -1.0, _children()
    while multiprocessing.active_children() and now - before > 0.001:
        time.sleep(AT_REST_SECONDS)
        before, now = now, _children()
    return now


def compare(
    name: str, turns: Mapping[str, list[Turn]], of: str, to: str, *, steps: int = 1, **more: Any
) -> Figure:
    """How many times the seconds of variant `to` are in those of variant `of`, round by round.

    Args:
        steps: of which a turn consists, for the note.
        more: fields of the figure.
    """
    pairs = list(zip(turns[of], turns[to], strict=True))
    cpu, wall = (Spread.of(a[clock] / b[clock] for a, b in pairs) for clock in (0, 1))
    judged = more.get("judged_by", "cpu")
    medians = {name: Spread.of(getattr(turn, judged) for turn in turns[name]) for name in (of, to)}
    taken = "; ".join(f"{name} {1000 * m.median / steps:.3g} ms" for name, m in medians.items())
    more["note"] = f"{taken}. {more.get('note', '')}".strip()
    return Figure(name, cpu, wall, **more)


class Process(NamedTuple):
    """What a whole process took."""

    cpu: float
    wall: float
    peak_bytes: int

    @property
    def turn(self) -> Turn:
        return Turn(self.cpu, self.wall)


def run_process(arguments: list[str], **environment: str) -> Process:
    """Run Python with some arguments; RuntimeError, with what it said, if that fails."""
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(
            f"{arguments} failed with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return Process(*json.loads(done.stdout.splitlines()[-1]))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": date.today().isoformat(),
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def as_markdown(figures: Iterable[Figure]) -> str:
    """The table for docs/benchmarks.md; what is judged is bold."""
    lines = ["| figure | must | aim | by CPU time | by wall time | |", "|---|---|---|---|---|---|"]
    for figure in figures:
        cells = [figure.name]
        cells += ["" if goal is None else f"{goal:g}" for goal in (figure.must, figure.aim)]
        unit = "" if figure.unit == "x" else f" {figure.unit}"
        for clock, spread in (("cpu", figure.cpu), ("wall", figure.wall)):
            text = f"{spread}{unit}" if spread else ""
            cells.append(f"**{text}**" if text and clock == figure.judged_by else text)
        missed = "*missed*. " if figure.verdict == "missed" else ""
        lines.append(f"| {' | '.join(cells)} | {missed}{figure.note} |")
    return "\n".join(lines)


def as_json(figures: Iterable[Figure], quick: bool) -> dict[str, Any]:
    rows = [{**asdict(figure), "verdict": figure.verdict} for figure in figures]
    return {"machine": machine(), "quick": quick, "figures": rows}


def from_json(rows: Iterable[dict[str, Any]]) -> list[Figure]:
    """Figures out of what `as_json` made of them."""
    figures = []
    for row in rows:
        values = {key: value for key, value in row.items() if key != "verdict"}
        values |= {clock: Spread(*values[clock]) for clock in ("cpu", "wall") if values[clock]}
        figures.append(Figure(**values))
    return figures


def main(measure: Callable[[bool], list[Figure]], description: str | None) -> None:
    """The command line of a bench by itself."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smallest sizes: shows that it runs")
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args()
    figures = measure(options.quick)
    print(as_markdown(figures))
    if options.json:
        text = json.dumps(as_json(figures, options.quick), indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
