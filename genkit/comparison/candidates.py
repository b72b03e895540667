"""Who takes part in a comparison: models to train, runs to take as they are, what is announced."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genkit.comparison.options import Options
from genkit.config.budget import Budget
from genkit.config.resolve import resolve
from genkit.config.validation import suggest
from genkit.errors import UsageError
from genkit.io.run_directory import RunDir
from genkit.registry.catalogue import Registry
from genkit.report.ranking import CALIBRATION

START_SECONDS, SCORE_SECONDS = 8, 20  # of a process, roughly; for the announcement only


@dataclass
class Entrant:
    """A training, one for each model and seed, or a run that is there already (no seed)."""

    name: str
    run: Path
    seed: int | None = None
    title: str = ""  # for progress
    preset: str = "full"
    row: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def trained(self) -> bool:
        """Whether it is a run that was there before."""
        return self.seed is None


def choose_entrants(
    names: Sequence[str], registry: Registry, out: Path, seeds: Sequence[int] = (0,)
) -> list[Entrant]:
    """Trainers by name, once for each seed, and runs by path; UsageError for what is neither, or
    given twice."""
    entrants: list[Entrant] = []
    labels: list[str] = []
    for name in names:
        if name in registry.trainers or name in registry.trainers.contested:
            registry.trainers.find(name)
            labels.append(name)
            for seed in seeds:
                title = name if len(seeds) == 1 else f"{name}-s{seed}"
                entrants.append(Entrant(name, out / title, seed, title))
        elif (Path(name) / "config.json").exists():
            run = RunDir.open(Path(name))
            run.record()
            labels.append(run.name)
            entrants.append(Entrant(run.name, Path(name), title=run.name))
        elif os.sep in name or Path(name).exists():
            RunDir.open(Path(name))  # says what is wrong with it
        else:
            registry.trainers.find(name)  # says so, with the closest name
    if not entrants:
        raise UsageError("name at least one model or run to compare")
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"{label!r} is there twice; give each model or run once")
        if label in CALIBRATION:
            raise UsageError(f"a run named {label!r} cannot be told from the row of that name")
    return entrants


def choose_presets(
    entrants: Sequence[Entrant], options: Options, registry: Registry, preset: str
) -> None:
    """Give each entrant that is to be trained its preset, and check all options for it."""
    new = [entrant for entrant in entrants if not entrant.trained]
    for text in options.set:
        if text.partition(".")[0] not in {entrant.name for entrant in new}:
            raise UsageError(f"--set {text!r} is for none of the models to be trained")
    for entrant in new:
        spec, given = registry.trainers.find(entrant.name), options.given(entrant.name)
        unknown = sorted(set(given) - set(spec.config.model_fields))
        if unknown:
            hint = suggest(unknown[0], spec.config.model_fields)
            raise UsageError(f"--set: {spec.name} has no option {unknown[0]!r}.{hint}")
        if options.preset or preset in spec.presets:  # not every plugin has a quick one
            entrant.preset = preset
        resolve(spec, preset=entrant.preset, given=given)


def announce(
    entrants: Sequence[Entrant],
    options: Options,
    facts: Mapping[str, Any],
    preset: str,
    workers: int,
    out: Path,
) -> list[str]:
    """What is going to happen, and about how long it takes."""
    new = [entrant for entrant in entrants if not entrant.trained]
    models = list(dict.fromkeys(entrant.name for entrant in new))
    old = [entrant.name for entrant in entrants if entrant.trained]
    lines = [*facts["notes"]]
    if new:
        why = " (the default on a CPU)" if not options.preset and preset == "quick" else ""
        times = f", {options.seeds} times each" if options.seeds > 1 else ""
        lines.append(
            f"Training {', '.join(models)}{times} for {options.budget} each on {options.data} "
            f"({facts['train_images']:,} images of {facts['shape']}), preset {preset}{why}, "
            f"{min(workers, len(new))} at a time on {facts['device']}."
        )
    plain = list(dict.fromkeys(e.name for e in new if e.preset != preset))
    if plain:
        lines.append(f"No preset {preset} for {', '.join(plain)}: default options are used.")
    if old:
        lines.append(f"Scoring {', '.join(old)} as trained before.")
    scores = f"{options.samples:,} samples each, features {facts['features']}"
    budget = Budget.parse(options.budget)
    if budget.unit == "seconds":
        rounds = math.ceil(len(new) / workers)
        scoring = math.ceil((len(entrants) + 1) / workers) * (START_SECONDS + SCORE_SECONDS)
        minutes = max(round((rounds * budget.amount + scoring) / 60), 1)
        about = f"about {minutes} minute{'s' if minutes > 1 else ''} in all"
        lines.append(f"Then {scores}: {about}. Results go to {out}.")
    else:
        lines.append(f"Then {scores}. Results go to {out}.")
    return lines
