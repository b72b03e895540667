"""Calls metrics; the failure of one costs its own columns only."""

from __future__ import annotations

import inspect
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genkit.errors import GenkitError, PluginError, one_line
from genkit.features import ImageSet
from genkit.io.machine import is_switched_on
from genkit.io.progress import Reporter
from genkit.io.run_records import ProgressState
from genkit.metrics import Estimate, Reference
from genkit.registry.catalogue import Entry
from genkit.runs.run import Run
from genkit.specs import MetricSpec

SLOW_SECONDS = 30.0  # of a metric, which is then named


@dataclass(frozen=True)
class Scores:
    """All metrics' values for a set of images and their standard deviations, by column.

    The columns of a metric that failed are left out; `problems` says why.
    """

    values: dict[str, float | None] = field(default_factory=dict)
    deviations: dict[str, float | None] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def measure_all(
    metrics: Mapping[str, Entry[MetricSpec]],
    samples: ImageSet,
    reference: Reference,
    reporter: Reporter,
    reported: set[str],
    run: Run | None = None,
) -> Scores:
    """The scores of samples by some metrics.

    Args:
        metrics: by name.
        reported: names of metrics whose first problem was reported; more are added.
        run: that drew the samples, for metrics that ask for it.
    """
    values: dict[str, float | None] = {}
    deviations: dict[str, float | None] = {}
    problems: list[str] = []
    for name, entry in metrics.items():
        reporter.update(ProgressState(fraction=1.0, stage=name))
        start = time.monotonic()
        estimates, errors = measure(entry, samples, reference, run)
        problems += report(name, errors, reporter, reported)
        if (seconds := time.monotonic() - start) > SLOW_SECONDS:
            reporter.say(f"metric {name!r} took {seconds:.0f} s")
        for column, estimate in estimates.items():
            values[column] = estimate.value
            if estimate.deviation is not None:
                deviations[column] = estimate.deviation
    return Scores(values, deviations, tuple(problems))


def report(
    name: str, errors: Sequence[PluginError], reporter: Reporter, reported: set[str]
) -> list[str]:
    """Problems in one line each; the first of each name is reported, once for all rows."""
    if errors and name not in reported:
        reported.add(name)
        reporter.say(str(errors[0]))
        if errors[0].__cause__ and is_switched_on("GENKIT_TRACEBACK"):
            reporter.say("".join(traceback.format_exception(errors[0].__cause__)))
    return [str(error) for error in errors]


def measure(
    entry: Entry[MetricSpec], samples: ImageSet, reference: Reference, run: Run | None = None
) -> tuple[dict[str, Estimate], list[PluginError]]:
    """A metric's estimates for samples, by column, and what went wrong, in one line each.

    A metric that raises an error loses all its columns, a value that is not a finite number costs
    the column it is for; no other metric is affected. One with a parameter `run` gets the run that
    drew the samples, None for others.

    Raises:
        GenkitError: the metric raised it, for instance a UsageError for its user.
    """
    spec, plugin = entry.spec, entry.plugin
    what = f"metric {spec.name!r} of {plugin.distribution} {plugin.version}"
    try:
        with plugin.contained():
            score = spec.load()
            more = {"run": run} if "run" in inspect.signature(score).parameters else {}
            answer = score(spec.config(), samples, reference, **more)
    except PluginError as error:
        return {}, [PluginError(f"{what} failed: {error}")]
    except GenkitError:
        raise
    except (Exception, SystemExit) as error:
        failure = PluginError(f"{what} failed: {one_line(error)}")
        failure.__cause__ = error
        return {}, [failure]
    if not isinstance(answer, Mapping):
        kind = type(answer).__name__
        return {}, [PluginError(f"{what} returned {kind}, not a dict ({spec.target})")]
    columns = {column.name for column in spec.columns}
    found: dict[str, Estimate] = {}
    problems: list[PluginError] = []
    for column, value in answer.items():
        estimate = _finite(value) if column in columns else None
        if estimate is not None:
            found[column] = estimate
            continue
        why = "not a finite number" if column in columns else "which is not one of its columns"
        shown = " ".join(f"{value!r:.60}".split())
        problems.append(PluginError(f"{what} returned {column!r} = {shown}, {why} ({spec.target})"))
    return found, problems


def _finite(value: Any) -> Estimate | None:
    """A number or an estimate as an estimate of plain floats; None unless it is finite."""
    given = value if isinstance(value, Estimate) else Estimate(value)
    try:
        deviation = None if given.deviation is None else float(given.deviation)
        estimate = Estimate(float(given.value), deviation)
    except (TypeError, ValueError, RuntimeError):
        return None
    return estimate if math.isfinite(estimate.value + (deviation or 0.0)) else None
