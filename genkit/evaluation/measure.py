"""Calls one metric; its failure costs its own columns only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from genkit.errors import GenkitError, PluginError, one_line
from genkit.features import ImageSet
from genkit.metrics import Estimate, Reference
from genkit.registry.catalogue import Entry
from genkit.specs import MetricSpec


def measure(
    entry: Entry[MetricSpec], samples: ImageSet, reference: Reference
) -> tuple[dict[str, Estimate], list[PluginError]]:
    """A metric's estimates for samples, by column, and what went wrong, in one line each.

    A metric that raises an error loses all its columns, a value that is not a finite number costs
    the column it is for; no other metric is affected.

    Raises:
        GenkitError: the metric raised it, for instance a UsageError for its user.
    """
    spec, plugin = entry.spec, entry.plugin
    what = f"metric {spec.name!r} of {plugin.distribution} {plugin.version}"
    try:
        with plugin.contained():
            answer = spec.load()(spec.config(), samples, reference)
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
