"""The features of the digits that ship with genkit and of Inception; what each name loads."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import TensorDataset
from torch_fidelity import feature_extractor_inceptionv3 as stock_inception
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric

from genkit.data import ImageData, Split
from genkit.errors import CheckpointError, UsageError
from genkit.features import extract, statistics_of
from genkit.specs import Config, ImageShape
from genkit_fidelity import WeightsConfig, register_features
from genkit_fidelity.features import DIGITS_REFERENCE, DIGITS_WEIGHTS, Digits
from genkit_fidelity.pretrained import FusedInception, Inception

torch.set_num_threads(1)


def data_of(shape, classes: tuple[str, ...] = ()) -> ImageData:
    labels = np.zeros(2, dtype=np.int64) if classes else None
    split = Split(np.zeros((2, *shape), dtype=np.uint8), labels)
    return ImageData(
        name="npz:black",
        train=split,
        test=split,
        classes=classes,
        notes=(),
        features="digits",
        reference=None,
        held_out=False,
    )


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(Config())


@pytest.fixture(scope="module")
def mini() -> dict[str, torch.Tensor]:
    """The 10,000 + 2,000 real digits that ship with genkit, (N, 1, 28, 28), and their labels."""
    folder = Path(find_spec("genkit_datasets").origin).parent
    with np.load(folder / "mnist_mini.npz") as arrays:
        loaded = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return {
        name: values[:, None] if name.endswith("images") else values
        for name, values in loaded.items()
    }


def test_digits_identity_is_the_hash_of_the_weights_file(digits, tmp_path):
    expected = hashlib.sha256(DIGITS_WEIGHTS.read_bytes()).hexdigest()[:8]
    assert digits.identity == f"digits-{expected}"

    state = load_file(DIGITS_WEIGHTS)
    state["head.bias"] += 1e-3
    save_file(state, tmp_path / DIGITS_WEIGHTS.name, {"genkit": '{"test_accuracy": 0.5}'})
    (tmp_path / DIGITS_REFERENCE).write_bytes(digits.reference.read_bytes())
    changed = Digits(Config(), tmp_path / DIGITS_WEIGHTS.name)
    assert changed.identity != digits.identity
    assert changed.note == "accuracy 50.00% of MNIST's test images"
    with pytest.raises(CheckpointError, match=f"belongs to {digits.identity}"):
        changed.shipped_statistics("mnist-train")


def test_digits_note_is_the_accuracy_recorded_with_the_weights(digits):
    with safe_open(DIGITS_WEIGHTS, framework="pt") as file:
        recorded = json.loads(file.metadata()["genkit"])["test_accuracy"]
    assert recorded == 0.9945
    assert digits.note == "accuracy 99.45% of MNIST's test images"


def test_digits_tells_classes_of_digits_only(digits):
    assert digits.classes == 10
    assert Digits.open(Config(), data_of((1, 28, 28), tuple("0123456789"))).classes == 10
    assert Digits.open(Config(), data_of((1, 28, 28), tuple("abcdefghij"))).classes == 0
    assert Digits.open(Config(), data_of((1, 28, 28))).classes == 0


def test_digits_features_have_unit_scale_on_mnist(digits):
    shipped = digits.shipped_statistics("mnist-train")
    squares = shipped.covariance.trace() * (1 - 1 / shipped.count) + shipped.mean.square().sum()
    assert shipped.count == 60_000
    assert squares.item() / 64 == pytest.approx(1, rel=1e-5)
    assert digits.shipped_statistics("another-set") is None


def test_real_digits_are_classified_and_close_to_the_shipped_reference(digits, mini):
    features, logits = extract(digits, mini["test_images"])
    assert (logits.argmax(1) == mini["test_labels"]).float().mean() >= 0.985
    real, found = digits.shipped_statistics("mnist-train"), statistics_of(features)
    (distance,) = fid_statistics_to_metric(
        *({"mu": s.mean.numpy(), "sigma": s.covariance.numpy()} for s in (real, found)), False
    ).values()
    assert 0 < distance < 0.5
    assert 9 < isc_features_to_metric(logits)["inception_score_mean"] < 10


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 32, 32)])
def test_digits_refuses_other_shapes_and_names_the_ways_out(digits, shape):
    for refuse in (
        lambda: digits.check_shape(ImageShape(*shape)),
        lambda: Digits.check(Config(), data_of(shape)),
    ):
        with pytest.raises(UsageError, match=f"not {ImageShape(*shape)}") as caught:
            refuse()
        assert "--features classifier" in str(caught.value)
        assert "--features inception" in str(caught.value)


# Inception


class Images(TensorDataset):
    """Images as torch-fidelity wants them: tensors, not tuples of one tensor."""

    def __getitem__(self, index: int) -> torch.Tensor:
        return super().__getitem__(index)[0]


def noise(count: int, seed: int, shape=(3, 20, 20), high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(high, (count, *shape), generator=generator, dtype=torch.uint8)


def random_inception() -> stock_inception.FeatureExtractorInceptionV3:
    """torch-fidelity's Inception with random weights and statistics of its batch normalisation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stock_inception, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(
            stock_inception.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None
        )
        network = stock_inception.FeatureExtractorInceptionV3("random", ["2048", "logits_unbiased"])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                values.data.uniform_(0.5, 1.5)
            for values in (module.bias, module.running_mean):
                values.data.normal_(0, 0.1)
    return network


@pytest.mark.slow
def test_folded_inception_is_as_exact_as_the_stock_one(tmp_path):
    torch.manual_seed(0)
    network = random_inception()
    torch.save(network.state_dict(), tmp_path / "random.pth")
    fused = FusedInception(tmp_path / "random.pth")
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    exact = copy.deepcopy(network).double()
    exact.feature_extractor_internal_dtype = torch.float64
    images = noise(4, 0)
    with torch.inference_mode():
        for found, stock, wanted in zip(fused(images), network(images), exact(images), strict=True):
            scale = wanted.abs().max()
            assert (found - stock).abs().max() / scale < 3e-6
            assert (found - wanted).abs().max() <= 2 * (stock - wanted).abs().max() + 1e-7 * scale


@pytest.mark.thorough
def test_plumbing_inception_with_random_weights_scores_as_torch_fidelity_does(
    monkeypatch, tmp_path
):
    """Not a golden value: random weights stand where the published file would be."""
    torch.manual_seed(0)
    path = tmp_path / "random.pth"
    torch.save(random_inception().state_dict(), path)
    published = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(Inception, "weights", replace(Inception.weights, sha256=published))
    before = torch.get_rng_state()
    extractor = Inception(WeightsConfig(weights=str(path)))
    assert torch.equal(torch.get_rng_state(), before)
    assert extractor.identity == f"inception-{published[:8]}"
    assert extractor.classes == 0  # its logits are of ImageNet's classes

    grey, real = noise(12, 1, (1, 20, 20)), noise(12, 2, high=128)
    features, logits = extract(extractor, grey)
    statistics = (fid_features_to_statistics(f) for f in (features, extract(extractor, real)[0]))
    expected = torch_fidelity.calculate_metrics(
        input1=Images(grey.expand(-1, 3, -1, -1)),
        input2=Images(real),
        feature_extractor_weights_path=str(path),
        isc=True,
        fid=True,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    for found in (fid_statistics_to_metric(*statistics, False), isc_features_to_metric(logits)):
        for name, value in found.items():
            assert value == pytest.approx(expected[name], rel=1e-6, abs=1e-7)


# All


def test_each_spec_loads_its_extractor():
    assert {spec.name: spec.load().__name__ for spec in register_features()} == {
        "digits": "Digits",
        "stacked-digits": "StackedDigits",
        "classifier": "Classifier",
        "inception": "Inception",
        "vgg16": "VGG16",
        "clip": "CLIP",
        "dinov2": "DINOv2",
    }


def test_loading_digits_does_not_import_torch_fidelity():
    code = (
        "import json, sys, genkit_fidelity; light = 'torch' in sys.modules\n"
        "from genkit_fidelity.features import Digits; from genkit.specs import Config\n"
        "Digits(Config()); print(json.dumps([light, 'torch_fidelity' in sys.modules]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert json.loads(ran.stdout) == [False, False]
