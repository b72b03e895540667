"""A metric may see the labels that samples were drawn of, and the run with its reconstructions."""

from pathlib import Path

import pytest
import torch
from toys import QUIET, TINY

from genkit.config.run import RunConfig
from genkit.evaluation.evaluator import Evaluator
from genkit.evaluation.protocol import EvaluationProtocol
from genkit.evaluation.targets import evaluate
from genkit.features import extract
from genkit.model import to_bytes, to_unit_range
from genkit.registry.catalogue import load_registry
from genkit.runs.build import load_data
from genkit.runs.run import load_run
from genkit.training.train import train_by_name

PLUGIN = Path(__file__).with_name("seeing_metric.py")


def test_metric_gets_labels_and_run(monkeypatch, tmp_path):
    monkeypatch.setenv("GENKIT_PLUGINS", str(PLUGIN))
    registry = load_registry()
    given = {**QUIET, "data": "mnist-mini", "budget": "2steps", **TINY["vae"], "conditional": True}
    run = train_by_name(registry, "vae", run_dir=tmp_path / "run", given=given)
    data = load_data(registry, RunConfig(data="mnist-mini"))
    protocol = EvaluationProtocol(samples=20, balanced=True, device="cpu", likelihood_images=10)
    evaluator = Evaluator.choose(registry, data, protocol)
    rows = evaluate(
        [str(run.path), "noise"], evaluator, lambda path: load_run(path, registry, "cpu")
    )
    model, noise = (row.scores for row in rows)
    assert model["own_share"] == pytest.approx(2 / 20)  # two of each class
    test = torch.from_numpy(data.test.images)[:100]
    with torch.no_grad():
        made = to_bytes(run.model.reconstruct(to_unit_range(test)))
    there, here = (extract(evaluator.extractor, images)[0] for images in (test, made))
    distance = (there - here).norm(dim=1).mean()
    assert model["reconstruction_distance"] == pytest.approx(float(distance), rel=1e-4)
    assert {"own_share", "reconstruction_distance"}.isdisjoint(noise)
