"""Rows for what a user names: runs, files of samples, and the calibration rows of every table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from genkit.compute.seeds import derive_seed
from genkit.config.sampler import split_target
from genkit.data.alpha import premultiply
from genkit.errors import PluginError, UsageError
from genkit.evaluation.evaluator import OWN_SAMPLES, Evaluator
from genkit.evaluation.levels import round_to_levels
from genkit.evaluation.utility import measure_utility
from genkit.metrics import choice
from genkit.report.ranking import fewest_levels
from genkit.report.rows import ScoreRow, tell_apart
from genkit.runs.run import Run
from genkit.sampling.files import load_samples, save_samples

Part = Literal["all", "scores", "likelihood", "levels"]


def evaluate(
    targets: list[str],
    evaluator: Evaluator,
    load: Callable[[str], Run],
    keep: Path | None = None,
    part: Part = "all",
) -> list[ScoreRow]:
    """Rows for runs, folders and .npz files of samples, and for the words "real", "copy" and
    "noise".

    Two runs of one model have names that tell them apart, and a target given twice has one row.
    A metric that fails leaves its columns empty; PluginError if nothing at all could be scored.

    Args:
        keep: .npz file for the samples that are drawn of a run, to score them again.
        part: what to find of runs: all of it; all but the likelihood; the likelihood alone. Or,
            of all targets, nothing but the scores at `protocol.levels` levels.
    """
    targets = list(dict.fromkeys(targets))
    protocol, shape = evaluator.protocol, evaluator.data.shape
    files: dict[str, Tensor] = {}
    for target in targets:
        path = Path(split_target(target)[0])
        if target not in CALIBRATIONS and not (path / "config.json").exists():
            if not path.exists():
                raise UsageError(f"{target} does not exist; give a run, a folder or an .npz file")
            images = load_samples(evaluator.registry, path, shape)
            chosen = choice(len(images), protocol.samples or len(images), protocol.seed)
            files[target] = images[chosen.sort().values]
    if files and protocol.samples is None:
        # Runs and calibration rows are to have as many samples as the first file.
        protocol = replace(protocol, samples=len(next(iter(files.values()))))
        evaluator = replace(evaluator, protocol=protocol)
    rows: list[ScoreRow] = []
    sets: list[Tensor] = []
    for target in targets:
        evaluator.reporter.start(f"scoring {target}")
        row = ScoreRow(name=target)
        if target in CALIBRATIONS:
            images, places = CALIBRATIONS[target](evaluator)
            if part != "levels":
                row = evaluate_calibration(target, evaluator, images, places)
        elif target in files:
            images = files[target]
            if part != "levels":
                row = evaluator.evaluate_images(target, images)
        else:
            run = load(target)
            drawn = evaluator.draw(run, OWN_SAMPLES if part == "likelihood" else None)
            images = drawn.images
            if keep:
                save_samples(images, keep)
            if part == "likelihood":
                row = evaluator.with_likelihood(row, run, images)
            elif part != "levels":
                row = evaluator.evaluate_run(run, drawn, likelihood=part == "all")
            if protocol.utility:
                row = with_utility(row, run, evaluator)
        rows.append(row)
        sets.append(images)
    levels = protocol.levels or fewest_levels([row for row in rows if not row.is_calibration])
    if levels and evaluator.extractor:
        evaluator.reporter.start(f"scoring at {levels} levels")
        rows = [evaluator.at_levels(*each, levels) for each in zip(rows, sets, strict=True)]
        if "real" in targets and not rows[targets.index("real")].error:
            images, places = real(evaluator)
            images = round_to_levels(images, levels)
            row = evaluate_calibration(f"real at {levels} levels", evaluator, images, places)
            if not row.error:
                rows.append(evaluator.at_levels(row, images, levels))
    problems = [problem for row in rows for problem in row.problems]
    if problems and not any(row.scores or row.likelihood for row in rows):
        raise PluginError(f"nothing could be scored: {problems[0]}")
    return tell_apart(rows)


def with_utility(row: ScoreRow, run: Run, evaluator: Evaluator) -> ScoreRow:
    """The row of a run with what classifiers learn from its samples."""
    protocol = evaluator.protocol
    found = measure_utility(
        run,
        evaluator.data,
        seed=protocol.seed,
        device=protocol.device,
        reporter=evaluator.reporter,
    )
    return row.model_copy(update={"utility": found}) if found else row


def evaluate_calibration(
    name: str, evaluator: Evaluator, images: Tensor, places: Tensor | None
) -> ScoreRow:
    """The row of real images, copies or noise. A small data set has too few real images for a
    score; the row then says so."""
    try:
        return evaluator.evaluate_images(name, images, places=places)
    except UsageError as error:
        if not name.startswith("real"):
            raise
        return ScoreRow(name=name, run=None, scores={}, error=str(error))


Chosen = tuple[
    Tensor, Tensor | None
]  # images, uint8, (n, C, H, W), and their places in the test split


def real(evaluator: Evaluator) -> Chosen:
    """The floor: as many real images that no model has seen, or all there are."""
    images = torch.from_numpy(evaluator.data.test.images)
    chosen = choice(len(images), evaluator.count, evaluator.protocol.seed)
    return images[chosen], chosen


def copy(evaluator: Evaluator) -> Chosen:
    """What a model draws that has learned its training images by heart: a score that likes it
    better than real images cannot see that."""
    images = torch.from_numpy(evaluator.data.train.images)
    generator = torch.Generator().manual_seed(derive_seed(evaluator.protocol.seed, "copy"))
    return images[torch.randint(len(images), (evaluator.count,), generator=generator)], None


def noise(evaluator: Evaluator) -> Chosen:
    """The ceiling: uniform noise, with transparency where the data set has it."""
    generator = torch.Generator().manual_seed(derive_seed(evaluator.protocol.seed, "noise"))
    shape = (evaluator.count, *evaluator.data.train.images.shape[1:])
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return torch.from_numpy(premultiply(images.numpy())), None


CALIBRATIONS: Mapping[str, Callable[[Evaluator], Chosen]] = {
    "real": real,
    "copy": copy,
    "noise": noise,
}
