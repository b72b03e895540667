"""The features that ship with genkit and those it fetches: weights, identity, clear refusals."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import urllib.error
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from safetensors.torch import load_file, save_file
from torch_fidelity import feature_extractor_inceptionv3 as stock

from genkit.errors import CheckpointError, UsageError
from genkit.metrics import Reference, compute_statistics
from genkit.specs import Config, ImageShape
from genkit_fidelity import InceptionConfig, features, scores
from genkit_fidelity.features import DIGITS_REFERENCE, DIGITS_WEIGHTS, Digits, Inception


def noise(count: int, seed: int, shape, high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(high, (count, *shape), generator=generator, dtype=torch.uint8)


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


# Digits


def test_digits_identity_is_the_hash_of_the_weights_file(digits, tmp_path):
    assert (
        digits.identity == f"digits-{hashlib.sha256(DIGITS_WEIGHTS.read_bytes()).hexdigest()[:8]}"
    )

    state = load_file(DIGITS_WEIGHTS)
    state["head.bias"] += 1e-3
    save_file(state, tmp_path / DIGITS_WEIGHTS.name)
    (tmp_path / DIGITS_REFERENCE).write_bytes(digits.reference.read_bytes())
    changed = Digits(Config(), tmp_path / DIGITS_WEIGHTS.name)
    assert changed.identity != digits.identity
    with pytest.raises(CheckpointError, match=f"belongs to {digits.identity}"):
        changed.shipped_statistics("mnist-train")


def test_digits_features_have_unit_scale_on_mnist(digits):
    shipped = digits.shipped_statistics("mnist-train")
    squares = shipped.covariance.trace() * (1 - 1 / shipped.count) + shipped.mean.square().sum()
    assert shipped.count == 60_000
    assert squares.item() / 64 == pytest.approx(1, rel=1e-5)
    assert digits.shipped_statistics("another-set") is None


def test_digits_classifies_real_digits(digits, mini):
    with torch.inference_mode():
        guesses = digits(mini["test_images"])[1].argmax(1)
    assert (guesses == mini["test_labels"]).float().mean() >= 0.985


def test_real_digits_are_close_to_the_shipped_reference(digits, mini):
    real = Reference("mnist train", 60_000, lambda e: e.shipped_statistics("mnist-train"))
    found = scores.score(Config(), mini["test_images"], real, digits)
    assert 0 < found["fid"] < 0.5
    assert 9 < found["is"] < 10


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 32, 32)])
def test_digits_refuses_other_shapes_and_names_the_way_out(digits, shape):
    with pytest.raises(UsageError) as caught:
        digits.check_shape(ImageShape(*shape))
    assert str(ImageShape(*shape)) in str(caught.value)
    assert "--features inception" in str(caught.value)


# Inception


@pytest.fixture
def no_weights(monkeypatch, tmp_path) -> Path:
    """An empty hub cache and no network; the path where torch would keep the weights."""

    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.delenv("GENKIT_INCEPTION_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    return tmp_path / "hub" / "checkpoints" / features.INCEPTION_FILE


def test_inception_without_a_network_says_what_to_fetch_and_where_to_put_it(no_weights):
    with pytest.raises(UsageError) as caught:
        Inception(InceptionConfig())
    for words in (
        features.INCEPTION_URL,
        "95,628,359 bytes",
        features.INCEPTION_SHA256,
        str(no_weights),
        "--inception-weights PATH",
        "GENKIT_INCEPTION_WEIGHTS",
        "--features digits",
        "Name or service not known",
    ):
        assert words in str(caught.value)
    assert features.INCEPTION_URL == stock.URL_INCEPTION_V3
    assert not list(no_weights.parent.iterdir())


def test_inception_names_the_option_or_variable_whose_file_is_missing(no_weights, monkeypatch):
    with pytest.raises(UsageError, match=r"--inception-weights names absent\.pth"):
        Inception(InceptionConfig(weights="absent.pth"))
    monkeypatch.setenv("GENKIT_INCEPTION_WEIGHTS", "gone.pth")
    with pytest.raises(UsageError, match=r"GENKIT_INCEPTION_WEIGHTS names gone\.pth"):
        Inception(InceptionConfig())


@pytest.mark.parametrize("place", ["option", "variable", "hub"])
def test_a_file_with_another_hash_is_refused_before_it_is_opened(no_weights, monkeypatch, place):
    no_weights.parent.mkdir(parents=True)
    no_weights.write_bytes(b"something else")
    if place == "variable":
        monkeypatch.setenv("GENKIT_INCEPTION_WEIGHTS", str(no_weights))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(UsageError) as caught:
        Inception(InceptionConfig(weights=str(no_weights) if place == "option" else None))
    assert hashlib.sha256(b"something else").hexdigest() in str(caught.value)
    assert features.INCEPTION_SHA256 in str(caught.value)


def test_inception_takes_grey_and_rgb_only():
    unbuilt = Inception.__new__(Inception)
    unbuilt.check_shape(ImageShape(1, 28, 28))
    unbuilt.check_shape(ImageShape(3, 32, 32))
    with pytest.raises(UsageError, match="not 4 x 32 x 32"):
        unbuilt.check_shape(ImageShape(4, 32, 32))


@pytest.mark.slow
def test_plumbing_inception_with_random_weights_scores_as_torch_fidelity_does(
    no_weights, monkeypatch
):
    """Not a golden value: random weights stand where the published file would be."""
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(stock, "load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(stock.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        blank = stock.FeatureExtractorInceptionV3("blank", ["2048"])
    no_weights.parent.mkdir(parents=True)
    torch.save(blank.state_dict(), no_weights)
    published = hashlib.sha256(no_weights.read_bytes()).hexdigest()
    monkeypatch.setattr(features, "INCEPTION_SHA256", published)

    before = torch.get_rng_state()
    extractor = Inception(InceptionConfig())
    assert torch.equal(torch.get_rng_state(), before)
    assert extractor.identity == f"inception-{published[:8]}"

    grey, real = noise(12, 1, (1, 20, 20)), noise(12, 2, (3, 20, 20), high=128)
    rgb = grey.expand(-1, 3, -1, -1)
    expected = torch_fidelity.calculate_metrics(
        input1=scores.Images(rgb),
        input2=scores.Images(real),
        isc=True,
        fid=True,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    found = scores.score(
        Config(),
        grey,
        Reference("noise", 12, lambda extractor: compute_statistics(extractor, real)),
        extractor,
    )
    assert found["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)
    assert found["is"] == pytest.approx(expected["inception_score_mean"], rel=1e-6)


def test_loading_features_does_not_import_torch_fidelity():
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
