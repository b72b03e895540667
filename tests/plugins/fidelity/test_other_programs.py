"""Scores against others' programs on the same images: torch-fidelity's command and torchmetrics."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as stock
from torchmetrics.image import FrechetInceptionDistance, InceptionScore
from torchmetrics.image.kid import poly_mmd

from genkit.config.run import RunConfig
from genkit.evaluation.evaluator import Evaluator
from genkit.evaluation.protocol import EvaluationProtocol
from genkit.evaluation.reference import reference_for
from genkit.evaluation.targets import evaluate
from genkit.features import ImageSet
from genkit.metrics import Reference, choice
from genkit.registry.catalogue import load_registry
from genkit.runs.build import load_data
from genkit.sampling.files import save_samples
from genkit.specs import Config
from genkit_fidelity import kernel, scores
from genkit_fidelity.features import Digits
from genkit_fidelity.pretrained import Inception

torch.set_num_threads(1)


class Features(nn.Module):
    """The digits features, or their logits, as torchmetrics asks for them."""

    def __init__(self, logits: bool = False) -> None:
        super().__init__()
        self.extractor = [Digits(Config())]  # no submodule, which torchmetrics would make float64
        self.logits = logits
        self.num_features = 10 if logits else 64

    def forward(self, images):
        return self.extractor[0](images)[self.logits].double()


@pytest.fixture(scope="module")
def sets():
    """Two sets of real digits, the second a little blurred, with features."""
    data = load_data(load_registry(), RunConfig())
    real = torch.from_numpy(data.train.images[:1500])
    blurred = nn.functional.avg_pool2d(torch.from_numpy(data.test.images[:900]).float(), 3, 1, 1)
    digits = Digits(Config())
    return ImageSet(blurred.round().byte(), digits), ImageSet(real, digits)


def test_fid_equals_torchmetrics(sets):
    samples, real = sets
    oracle = FrechetInceptionDistance(feature=Features(), normalize=False)
    oracle.set_dtype(torch.float64)
    oracle.update(real.images, real=True)
    oracle.update(samples.images, real=False)
    found = scores.frechet(Config(), samples, Reference("real", len(real), real, real))
    assert found["fid"].value == pytest.approx(oracle.compute().item(), rel=1e-5)


def test_kid_equals_torchmetrics(sets):
    samples, real = sets
    few = samples.take(torch.arange(800)), real.take(torch.arange(800))
    found = kernel.kernel(Config(), few[0], Reference("real", 800, few[1], few[1]))
    expected = poly_mmd(few[0].features.double(), few[1].features.double())
    assert found["kid"].value == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save", "ignore:std")
def test_inception_score_equals_torchmetrics(sets, monkeypatch):
    """In one part, so that the order does not matter."""
    samples, real = sets
    monkeypatch.setattr(scores, "SPLITS", 1)
    oracle = InceptionScore(feature=Features(logits=True), splits=1)
    oracle.update(samples.images)
    found = scores.inception(Config(), samples, Reference("real", len(real), real, real))
    assert found["is"].value == pytest.approx(oracle.compute()[0].item(), rel=1e-5)


# ---- known faults; docs/metrics.md has the whole table


@pytest.fixture(scope="module")
def scored():
    """FID, KID and coverage of 1,000 real test digits with faults, by name."""
    data = load_data(load_registry(), RunConfig())
    digits = Digits(Config())
    real = reference_for(data, digits)
    chosen = choice(2000, 1000, 0)
    images = torch.from_numpy(data.test.images)[chosen]
    labels = torch.from_numpy(data.test.labels)[chosen]
    grain = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    floats = images.float()
    faulty = {"none": floats}
    faulty |= {f"grain {sd}": floats + sd * grain for sd in (16, 32, 64)}
    faulty |= {f"blur {n}": nn.functional.avg_pool2d(floats, n, 1, n // 2) for n in (3, 5, 7)}
    faulty |= {f"shift {n}": torch.roll(floats, (n, n), (2, 3)) for n in (1, 3)}
    faulty |= {"without 8": floats[labels != 8], "only 1": floats[labels == 1]}
    faulty["repeated"] = floats[:50].repeat(20, 1, 1, 1)

    def score(samples):
        found = {}
        for metric in (scores.frechet, kernel.kernel, scores.manifold):
            found |= metric(Config(), samples, real)
        return {name: getattr(found[name], "value", None) for name in ("fid", "kid", "coverage")}

    rounded = {name: values.round().clamp(0, 255).byte() for name, values in faulty.items()}
    return {name: score(ImageSet(values, digits)) for name, values in rounded.items()}


@pytest.mark.parametrize("score", ["fid", "kid", "coverage"])
@pytest.mark.parametrize(
    "faults",
    [
        ["none", "grain 16", "grain 32", "grain 64"],
        ["none", "blur 3", "blur 5", "blur 7"],
        ["none", "shift 1", "shift 3"],
        ["none", "without 8", "only 1"],
        ["none", "repeated"],
    ],
)
def test_scores_are_the_worse_the_greater_the_fault(scored, score, faults):
    values = [scored[fault][score] for fault in faults]
    assert values == sorted(values, reverse=score == "coverage")
    assert len(set(values)) == len(values)


@pytest.mark.thorough
def test_plumbing_folders_score_as_by_torch_fidelitys_own_command(tmp_path, monkeypatch):
    """Not golden values: random weights of Inception's structure stand where the published are."""
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(stock, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(stock.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        blank = stock.FeatureExtractorInceptionV3("blank", ["2048"])
    weights = tmp_path / "inception.pth"
    torch.save(blank.state_dict(), weights)
    published = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setattr(Inception, "weights", replace(Inception.weights, sha256=published))

    images = torch.randint(0, 256, (46, 3, 16, 16), dtype=torch.uint8)
    images[20:] //= 2
    for part, chosen in (("samples", images[:18]), ("real/train", images[18:36])):
        save_samples(chosen, tmp_path / part)
    save_samples(images[36:], tmp_path / "real" / "test")

    registry = load_registry()
    config = RunConfig(data=f"folder:{tmp_path / 'real'}", data_option=("size=16",))
    protocol = EvaluationProtocol(features="inception", weights=str(weights), device="cpu")
    evaluator = Evaluator.choose(registry, load_data(registry, config), protocol)
    (row,) = evaluate([str(tmp_path / "samples")], evaluator, load=None)
    assert row.card.features == f"inception-{published[:8]}"

    command = [sys.executable, "-m", "torch_fidelity.fidelity", "--cpu", "--json", "--silent"]
    command += ["--isc", "--fid", "--kid", "--kid-subset-size", "18", "--no-cache"]
    command += ["--feature-extractor-weights-path", str(weights)]
    command += ["--input1", str(tmp_path / "samples"), "--input2", str(tmp_path / "real" / "train")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = json.loads(done.stdout[done.stdout.index("{") :])
    for name, key in (
        ("fid", "frechet_inception_distance"),
        ("is", "inception_score_mean"),
        ("is_std", "inception_score_std"),
        ("kid", "kernel_inception_distance_mean"),
    ):
        # Inception is folded here and not there, so that features differ by rounding.
        assert row.scores[name] == pytest.approx(expected[key], rel=2e-6), name
    assert math.isfinite(row.deviations["fid"])
