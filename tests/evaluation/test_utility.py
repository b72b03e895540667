"""Train on synthetic, test on real: samples of use, samples of none, and models without labels."""

import numpy as np
import pytest
import torch
from toys import QUIET, TINY, registry, write_npz

from genkit.config.run import RunConfig
from genkit.evaluation import utility
from genkit.evaluation.evaluator import Evaluator
from genkit.evaluation.protocol import EvaluationProtocol
from genkit.evaluation.targets import evaluate
from genkit.report.ranking import rank
from genkit.report.tables import fields
from genkit.runs.build import load_data
from genkit.runs.run import load_run
from genkit.training.train import train_by_name


def halves(labels, shape=(1, 8, 8)):
    """Images whose left or right half is white, by the label, with noise."""
    random = np.random.default_rng(0)
    images = random.integers(0, 100, (len(labels), *shape), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, :, 4 * label : 4 * label + 4] += 155
    return images


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    labels = np.arange(200) % 2
    return write_npz(tmp_path_factory.mktemp("data") / "d.npz", halves(labels), labels=labels)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(utility, "STEPS", 40)
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))


def scored(data, path, **options):
    given = {**QUIET, "data": data, "budget": "2steps", **TINY["vae"], **options}
    run = train_by_name(registry(), "vae", run_dir=path, given=given)
    found = load_data(registry(), RunConfig(data=data))
    protocol = EvaluationProtocol(
        samples=20, features="none", device="cpu", utility=True, likelihood_images=10
    )
    evaluator = Evaluator.choose(registry(), found, protocol)
    (row,) = evaluate([str(run.path)], evaluator, lambda p: load_run(p, registry(), "cpu"))
    return row


@pytest.mark.parametrize(("faithful", "low", "high"), [(True, 0.95, 1.0), (False, 0.0, 0.8)])
def test_classifier_learns_from_samples_as_much_as_they_hold(
    data, tmp_path, monkeypatch, faithful, low, high
):
    def draw(model, n, seed, on_progress=None, labels=None, **more):
        own = torch.as_tensor(labels)
        images = halves(own.tolist() if faithful else np.zeros(n, np.int64))
        return torch.from_numpy(images)

    monkeypatch.setattr(utility, "draw", draw)
    row = scored(data, tmp_path / "run", conditional=True)
    assert low <= row.utility.synthetic <= high and row.utility.real > 0.95
    assert row.utility.images == 180 and row.utility.test_images == 20
    groups = fields(rank([row], []), None)
    shown = {field.heading for group in groups for field in group}
    assert {"trained on\nsamples", "trained on\nreal", "trained\non both"} <= shown


def test_what_was_measured_is_kept(data, tmp_path, monkeypatch):
    row = scored(data, tmp_path / "run", conditional=True)
    monkeypatch.setattr(utility.ClassifierTraining, "_train", None)
    assert scored(data, tmp_path / "again", conditional=True).utility == row.utility


def test_model_without_labels_has_no_utility(data, tmp_path):
    assert scored(data, tmp_path / "run").utility is None
