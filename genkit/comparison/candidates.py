"""What a comparison compares: models to train and existing runs; and the announcement of it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from genkit.comparison.options import CompareOptions
from genkit.config.budget import Budget
from genkit.config.resolve import fit, resolve
from genkit.config.sampler import sampler_of, split_target
from genkit.config.validation import suggest
from genkit.errors import UsageError
from genkit.io.run_directory import RunDir
from genkit.registry.catalogue import Registry
from genkit.report.data_facts import DataFacts
from genkit.report.rows import CALIBRATION

SECONDS = "120s"  # of training, on a machine of unknown speed
WATCHING = 0.2  # of the time of a training goes into its grids, at most
START_SECONDS, SCORE_SECONDS = 8, 20  # of a process, roughly; for the announcement only


@dataclass(frozen=True)
class Candidate:
    """A training, one for each model and seed, or an existing run (no seed).

    Args:
        name: of its row; candidates of one name are trainings whose scores are averaged.
        title: for progress.
        problem: why it cannot be trained, None if it can.
        sampler: options of a run's sampler, as KEY=VALUE,KEY=VALUE.
        model: name of the trainer.
        given: options of the model, by name.
        more: further arguments of `genkit train`.
        data_option: options of the data set that this training has beside those of all.
        continued: its row is stored when it is scored; a training that was begun is resumed, and
            one that was scored is not run again.
    """

    name: str
    run: Path
    title: str
    seed: int | None = None
    preset: str = "full"
    budget: str = SECONDS
    problem: str | None = None
    sampler: str = ""
    model: str = ""
    given: Mapping[str, str] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    data_option: tuple[str, ...] = ()
    continued: bool = False

    @property
    def target(self) -> str:
        """What `genkit evaluate` scores."""
        return f"{self.run}@{self.sampler}" if self.sampler else str(self.run)

    @property
    def trained(self) -> bool:
        """Whether it is an existing run."""
        return self.seed is None


def choose_candidates(
    names: Sequence[str], registry: Registry, out: Path, seeds: Sequence[int] = (0,)
) -> list[Candidate]:
    """Trainers by name, once for each seed, and runs by path, or RUN@KEY=VALUE; UsageError for what
    is neither, or given twice."""
    candidates: list[Candidate] = []
    labels: list[str] = []
    paths = {Path(split_target(name)[0]).resolve() for name in names}
    folders = Counter(path.name for path in paths if (path / "config.json").exists())
    for name in names:
        if name in registry.trainers or name in registry.trainers.contested:
            registry.trainers.find(name)
            labels.append(name)
            for seed in seeds:
                title = name if len(seeds) == 1 else f"{name}-s{seed}"
                candidates.append(Candidate(name, out / title, title, seed, model=name))
        elif (Path(split_target(name)[0]) / "config.json").exists():
            path, given = split_target(name)
            run = RunDir.open(Path(path))
            sampler_of(registry.trainer_of(run.record()), given)
            options = ",".join(f"{key}={value}" for key, value in given.items())
            title = run.name if folders[run.name] == 1 else str(Path(path))
            title = f"{title}@{options}" if options else title
            labels.append(title)
            candidates.append(Candidate(title, Path(path), title, sampler=options))
        elif os.sep in name or Path(name).exists():
            RunDir.open(Path(name))  # raises a UsageError that says what is wrong
        else:
            registry.trainers.find(name)  # raises one with the closest name
    if not candidates:
        raise UsageError("name at least one model or run to compare")
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"{label!r} is named twice; give each model or run once")
        if label in CALIBRATION:
            raise UsageError(
                f"a run named {label!r} cannot be told apart from the row of that name"
            )
    return candidates


def choose_presets(
    candidates: Sequence[Candidate], options: CompareOptions, registry: Registry, preset: str
) -> list[Candidate]:
    """The candidates, each model to be trained with its preset; UsageError if one of the options
    does not fit it."""
    new = {candidate.name for candidate in candidates if not candidate.trained}
    for text in options.set:
        if text.partition(".")[0] not in new:
            raise UsageError(f"--set {text!r} is for none of the models to be trained")
    chosen = []
    for candidate in candidates:
        if candidate.trained:
            chosen.append(candidate)
            continue
        spec, given = registry.trainers.find(candidate.name), options.given(candidate.name)
        if options.conditional and "conditional" not in spec.config.model_fields:
            problem = f"{spec.name} has no --conditional: it cannot be trained by class"
            chosen.append(replace(candidate, problem=problem))
            continue
        unknown = sorted(set(given) - set(spec.config.model_fields))
        if unknown:
            hint = suggest(unknown[0], spec.config.model_fields)
            raise UsageError(f"--set: {spec.name} has no option {unknown[0]!r}.{hint}")
        # Not every plugin has a quick preset.
        own = preset if options.preset or preset in spec.presets else candidate.preset
        try:
            resolve(spec, preset=own, given=given)
        except UsageError as error:
            text = str(error).removeprefix("--")
            raise UsageError(f"--set {spec.name}.{text}" if given else text) from None
        budget = options.budget or (spec.budget if preset == "quick" else SECONDS)
        chosen.append(replace(candidate, preset=own, budget=budget, given=given))
    return chosen


def fitted_options(
    candidates: Sequence[Candidate], facts: DataFacts, registry: Registry
) -> list[str]:
    """A line for each model whose options will be fitted to the images."""
    lines: dict[str, None] = {}
    for candidate in candidates:
        if not (candidate.trained or candidate.problem) and facts.image_facts:
            spec = registry.trainers.find(candidate.model)
            resolved = resolve(spec, preset=candidate.preset, given=candidate.given)
            _, line = fit(spec, resolved, facts.image_facts.facts())
            lines |= {line: None} if line else {}
    return list(lines)


def option_arguments(model: str, given: Mapping[str, str], registry: Registry) -> list[str]:
    """Options of a model, by name, as arguments of `genkit train`. A choice of yes and no, such as
    --conditional, takes no value there."""
    spec, arguments = registry.trainers.find(model), []
    config = resolve(spec, given=given).options
    for option, value in given.items():
        name = option.replace("_", "-")
        if spec.config.model_fields[option].annotation is bool:
            arguments.append(f"--{name}" if getattr(config, option) else f"--no-{name}")
        else:
            arguments.append(f"--{name}={value}")
    return arguments


def budgets_of(candidates: Sequence[Candidate]) -> str:
    """The budget of all new trainings, or the models' own ones: "dcgan 14tflop, vae 5tflop"."""
    budgets = {each.name: each.budget for each in candidates if not each.trained}
    if len({*budgets.values()}) == 1:
        return next(iter(budgets.values()))
    return ", ".join(f"{name} {budget}" for name, budget in budgets.items())


def announce(
    candidates: Sequence[Candidate],
    options: CompareOptions,
    facts: DataFacts,
    preset: str,
    workers: int,
    out: Path,
    fitted: Sequence[str] = (),
) -> list[str]:
    """Lines that say what will happen, and about how long it takes.

    Args:
        fitted: which options are fitted to the images.
    """
    new = [each for each in candidates if not each.trained and not each.problem]
    models = list(dict.fromkeys(candidate.name for candidate in new))
    old = [candidate.name for candidate in candidates if candidate.trained]
    lines = [*facts.notes]
    if new:
        why = " (the default on a CPU)" if not options.preset and preset == "quick" else ""
        times = f", {options.seeds} times each" if options.seeds > 1 else ""
        own = {each.name: each.budget for each in new}
        alike = len({*own.values()}) == 1
        named = models if alike else [f"{name} ({own[name]})" for name in models]
        each = f" for {own[models[0]]} each" if alike else ""
        lines.append(
            f"Training {', '.join(named)}{times}{each} on {options.data} "
            f"({facts.train_images:,} images of {facts.shape}{', by class' * options.conditional}"
            f"), preset {preset}{why}, "
            f"{min(workers, len(new))} at a time on {facts.device}."
        )
    lines += fitted
    without = list(dict.fromkeys(each.name for each in new if each.preset != preset))
    if without:
        lines.append(f"No preset {preset} for {', '.join(without)}: default options are used.")
    if old:
        lines.append(f"Scoring {', '.join(old)} as trained before.")
    scores = f"{options.samples:,} samples each, features {facts.features}"
    budget = Budget.parse(options.budget or SECONDS)
    if new and budget.unit == "seconds":
        rounds = math.ceil(len(new) / workers)
        scoring = math.ceil((len(candidates) + 1) / workers) * (START_SECONDS + SCORE_SECONDS)
        watching = 0 if options.grids == 0 and options.watch == 0 else WATCHING
        seconds = rounds * (START_SECONDS + budget.amount * (1 + watching)) + scoring
        minutes = max(round(seconds / 60), 1)
        about = f"about {minutes} minute{'s' if minutes > 1 else ''} in all"
        about += ", more for models that sample slowly"
        about += "" if options.budget or preset != "quick" else " and on slower machines"
        lines.append(f"Then {scores}: {about}. Results go to {out}.")
    else:
        lines.append(f"Then {scores}. Results go to {out}.")
    return lines
