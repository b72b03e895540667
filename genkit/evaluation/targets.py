"""Rows for what a user names: runs, files of samples, and the calibration rows of every table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from genkit.compute.seeds import derive_seed
from genkit.config.sampler import split_target
from genkit.errors import PluginError, UsageError
from genkit.evaluation.evaluator import Evaluator
from genkit.metrics import choice
from genkit.report.rows import ScoreRow
from genkit.runs.run import Run
from genkit.sampling.files import load_samples


def evaluate(
    targets: list[str], evaluator: Evaluator, load: Callable[[str], Run]
) -> list[ScoreRow]:
    """Rows for runs, folders and .npz files of samples, and for the words "real", "copy" and
    "noise".

    A metric that fails leaves its columns empty; PluginError if nothing at all could be scored.
    """
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
    rows = []
    for target in targets:
        evaluator.reporter.start(f"scoring {target}")
        if target in CALIBRATIONS:
            rows.append(CALIBRATIONS[target](evaluator))
        elif target in files:
            rows.append(evaluator.evaluate_images(target, files[target]))
        else:
            rows.append(evaluator.evaluate_run(load(target)))
    problems = [problem for row in rows for problem in row.problems]
    if problems and not any(row.scores or row.likelihood for row in rows):
        raise PluginError(f"nothing could be scored: {problems[0]}")
    return rows


def evaluate_real(evaluator: Evaluator) -> ScoreRow:
    """The floor: what as many real images that no model has seen score, or all there are.
    A small data set has too few for a score; the row then says so."""
    images = torch.from_numpy(evaluator.data.test.images)
    chosen = choice(len(images), evaluator.count, evaluator.protocol.seed)
    try:
        return evaluator.evaluate_images("real", images[chosen], places=chosen)
    except UsageError as error:
        return ScoreRow(name="real", run=None, scores={}, error=str(error))


def evaluate_copy(evaluator: Evaluator) -> ScoreRow:
    """What a model scores that has learned its training images by heart: a score that likes
    it better than real images cannot see that."""
    images = torch.from_numpy(evaluator.data.train.images)
    generator = torch.Generator().manual_seed(derive_seed(evaluator.protocol.seed, "copy"))
    chosen = torch.randint(len(images), (evaluator.count,), generator=generator)
    return evaluator.evaluate_images("copy", images[chosen])


def evaluate_noise(evaluator: Evaluator) -> ScoreRow:
    """The ceiling: what uniform noise scores."""
    generator = torch.Generator().manual_seed(derive_seed(evaluator.protocol.seed, "noise"))
    shape = (evaluator.count, *evaluator.data.train.images.shape[1:])
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return evaluator.evaluate_images("noise", images)


CALIBRATIONS: Mapping[str, Callable[[Evaluator], ScoreRow]] = {
    "real": evaluate_real,
    "copy": evaluate_copy,
    "noise": evaluate_noise,
}
