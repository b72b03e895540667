"""Every hook a plugin may implement. Hooks return lists; they never change the host.

Nothing here imports torch: plugins' entry modules load for `genkit list` and for completion.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from genkit.specs import DatasetSpec, FeaturesSpec, MetricSpec, TrainerSpec

hookspec = pluggy.HookspecMarker("genkit")
hookimpl = pluggy.HookimplMarker("genkit")


@hookspec
def register_trainers() -> Iterable[TrainerSpec]:  # type: ignore[empty-body]
    """The kinds of generative model this plugin can train."""


@hookspec
def register_datasets() -> Iterable[DatasetSpec]:  # type: ignore[empty-body]
    """The data sets this plugin can load."""


@hookspec
def register_metrics() -> Iterable[MetricSpec]:  # type: ignore[empty-body]
    """The scores this plugin can compute over samples."""


@hookspec
def register_features() -> Iterable[FeaturesSpec]:  # type: ignore[empty-body]
    """The feature extractors this plugin brings for scores to use."""


@hookspec
def register_studies() -> Iterable[Path]:  # type: ignore[empty-body]
    """The files, NAME.toml, of the studies this plugin ships."""


@hookspec
def on_run_start(run: Path) -> None:
    """Training starts or resumes in the run directory `run`."""


@hookspec
def on_log(run: Path, step: int, values: dict[str, float]) -> None:
    """A line was written to metrics.jsonl; `values` holds its numbers."""


@hookspec
def on_sample(run: Path, step: int, path: Path) -> None:
    """A grid of samples was written to `path`."""


@hookspec
def on_checkpoint(run: Path, step: int, path: Path) -> None:
    """The training state at `step` was written to `path`."""


@hookspec
def on_run_end(run: Path, status: str) -> None:
    """Training ended: `status` is "finished", "interrupted" or "failed"."""
