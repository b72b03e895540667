"""One training loop, one yardstick, any generative model of images.

    run = genkit.train("vae", data="mnist-mini", budget="60s")
    images = run.sample(16)  # uint8, (16, 1, 28, 28)
    genkit.compare(["dcgan", "vae"], budget="60s").print()

torch is imported when one of these functions is called, not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkit.version import __version__

if TYPE_CHECKING:
    from genkit.comparison.compare import Comparison
    from genkit.runs.run import Run

__all__ = ["__version__", "compare", "load", "resume", "train"]


def train(
    model: str,
    *,
    preset: str = "full",
    config: str | Path | None = None,
    run_dir: str | Path | None = None,
    progress: str = "auto",
    **options: Any,
) -> Run:
    """Train a model into a new run directory and return the run, ready to sample from.

    Args:
        model: name of a trainer, such as "vae".
        preset: starting values, "full" or "quick".
        config: TOML file, or a run's config.json, to start from.
        run_dir: must be new; by default runs/MODEL-DATA-sSEED.
        progress: "auto", "bar", "lines", "json" or "none".
        options: the run's and the model's own, named as on the command line with underscores:
            data, budget, seed, latent and so on.

    Raises:
        genkit.errors.UsageError: for a name or a value that cannot be used.
    """
    from genkit.io.progress import new_reporter
    from genkit.registry.catalogue import load_registry
    from genkit.training.train import train_by_name

    return train_by_name(
        load_registry(),
        model,
        preset=preset,
        config=Path(config) if config else None,
        run_dir=Path(run_dir) if run_dir else None,
        reporter=new_reporter(progress),
        given=options,
    )


def resume(path: str | Path, *, progress: str = "auto", **changes: Any) -> Run:
    """Resume a run from its last checkpoint, bit for bit.

    Args:
        changes: new values for budget, cooldown, log_every, grids, watch, checkpoint_seconds,
            threads, compile, or where the data lies.

    Raises:
        genkit.errors.UsageError: the path is not a run, or a change cannot be made.
        genkit.errors.CheckpointError: there is no whole checkpoint.
    """
    from genkit.io.progress import new_reporter
    from genkit.registry.catalogue import load_registry
    from genkit.training.resume import resume as resume_run

    return resume_run(Path(path), load_registry(), reporter=new_reporter(progress), **changes)


def load(
    path: str | Path,
    device: str = "auto",
    *,
    best: bool = False,
    sampler: Mapping[str, Any] | None = None,
) -> Run:
    """Load a run to sample from; its data set is not needed. `best` takes the weights that scored
    best in training, not the last ones; `sampler` sets options of the model's sampler by name.

    Raises:
        genkit.errors.UsageError: the path is not a run, or its plugin is not installed.
        genkit.errors.CheckpointError: its weights are missing, damaged or of another model.
    """
    from genkit.registry.catalogue import load_registry
    from genkit.runs.run import load_run

    return load_run(path, load_registry(), device, best=best, sampler=sampler)


def compare(models: Sequence[str], *, out: str | Path | None = None, **options: Any) -> Comparison:
    """Train models under one budget, score all alike and rank them; see `genkit compare --help`.

    Args:
        models: names of trainers, and paths of runs to take as they are.
        out: folder for all results; must be new.
        options: data, budget, preset, seed, samples, features and the others of
            `genkit.comparison.options.CompareOptions`.
    """
    from genkit.comparison.compare import compare as run_comparison
    from genkit.comparison.options import CompareOptions
    from genkit.registry.catalogue import load_registry

    chosen = CompareOptions(**options)
    return run_comparison(models, chosen, load_registry(), Path(out) if out else None)
