"""FID and IS against torch-fidelity called directly, closed forms and slow loops."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.metric_fid import fid_features_to_statistics

from genkit.errors import PluginError, UsageError
from genkit.metrics import FeatureExtractor, Reference, Statistics, compute_statistics
from genkit.specs import Config
from genkit_fidelity import register_features, register_metrics, scores
from genkit_fidelity.features import Digits


class Projection(FeatureExtractor):
    """Fake features: a fixed random projection of the pixels, half of it as logits."""

    identity = "projection-00000000"

    def __init__(self) -> None:
        super().__init__(Config())
        generator = torch.Generator().manual_seed(3)
        self.matrix = torch.randn(16, 12, generator=generator) / 100

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        projected = images.flatten(1).float() @ self.matrix
        return projected[:, :6], projected[:, 6:]


def noise(count: int, seed: int, shape=(1, 4, 4), low: int = 0, high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, *shape), generator=generator, dtype=torch.uint8)


def reference(images: torch.Tensor) -> Reference:
    return Reference(
        "test images", len(images), lambda extractor: compute_statistics(extractor, images)
    )


def score(samples: torch.Tensor, real: torch.Tensor, extractor: FeatureExtractor) -> dict:
    return scores.score(Config(), samples, reference(real), extractor)


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


# Scores


def test_scores_equal_torch_fidelity_on_two_data_sets(digits, mini):
    class Direct(torch_fidelity.FeatureExtractorBase):
        def forward(self, images):
            vectors, logits = digits(images)
            return tuple({"64": vectors, "10": logits}[name] for name in self.features_list)

        def __init__(self, name, features_list, **_):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return ("64", "10")

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "10" if metric == "isc" else "64"

    torch_fidelity.register_feature_extractor("digits-direct", Direct)
    samples, real = mini["test_images"][:700], mini["train_images"][:1500]
    expected = torch_fidelity.calculate_metrics(
        input1=scores.Images(samples),
        input2=scores.Images(real),
        feature_extractor="digits-direct",
        isc=True,
        fid=True,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    found = score(samples, real, digits)
    assert found["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)
    assert found["is"] == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert found["is_std"] == pytest.approx(expected["inception_score_std"], rel=1e-6)


def test_fid_equals_the_closed_form_frechet_distance():
    extractor = Projection()
    samples, real = noise(400, 1), noise(300, 2, low=60, high=200)

    def moments(images):
        vectors = extractor(images)[0].double().numpy()
        return vectors.mean(0), np.cov(vectors, rowvar=False)

    def root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return vectors * np.sqrt(values) @ vectors.T

    (mean_1, covariance_1), (mean_2, covariance_2) = moments(samples), moments(real)
    half = root(covariance_1)
    expected = (
        np.sum((mean_1 - mean_2) ** 2)
        + np.trace(covariance_1 + covariance_2)
        - 2 * np.trace(root(half @ covariance_2 @ half))
    )
    # float32 features and mean on one side, float64 on the other
    assert score(samples, real, extractor)["fid"] == pytest.approx(expected, rel=1e-5)


def test_fid_of_identical_sets_is_zero_and_fid_is_symmetric():
    one, other, extractor = noise(200, 1), noise(200, 2, high=180), Projection()
    assert abs(score(one, one, extractor)["fid"]) < 1e-9
    there, back = score(one, other, extractor)["fid"], score(other, one, extractor)["fid"]
    assert there > 1
    assert there == pytest.approx(back, rel=1e-9)


def test_inception_score_equals_its_definition_in_a_slow_loop():
    samples, extractor = noise(103, 5), Projection()
    probabilities = extractor(samples)[1].double().softmax(1).numpy()
    order = np.random.RandomState(scores.SEED).permutation(103)
    edges = [part * 103 // 10 for part in range(11)]
    parts = []
    for start, end in pairwise(edges):
        rows = probabilities[order[start:end]]
        marginal = sum(rows) / len(rows)
        divergences = [sum(row * np.log(row / marginal)) for row in rows]
        parts.append(np.exp(sum(divergences) / len(rows)))
    found = score(samples, noise(20, 6), extractor)
    assert found["is"] == pytest.approx(np.mean(parts), rel=1e-9)
    assert found["is_std"] == pytest.approx(np.std(parts), rel=1e-6)


def test_constant_images_have_inception_score_one(digits):
    found = score(torch.zeros(20, 1, 28, 28, dtype=torch.uint8), noise(50, 1, (1, 28, 28)), digits)
    assert found["is"] == pytest.approx(1, abs=1e-6)
    assert found["is_std"] == pytest.approx(0, abs=1e-6)


def test_fid_grows_with_noise(digits, mini):
    clean = mini["test_images"].float()
    grain = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    real = Reference("mnist train", 60_000, lambda e: e.shipped_statistics("mnist-train"))
    distances = [
        scores.score(Config(), (clean + sigma * grain).round().clamp(0, 255).byte(), real, digits)
        for sigma in (0, 8, 16, 32, 64)
    ]
    values = [found["fid"] for found in distances]
    assert values == sorted(values)
    assert values[-1] > 10 * values[0]


def test_a_missing_class_costs_more_than_sampling_error(digits, mini):
    images, labels = mini["test_images"], mini["test_labels"]
    whole = score(images[: int((labels != 8).sum())], mini["train_images"], digits)
    without = score(images[labels != 8], mini["train_images"], digits)
    assert without["fid"] > 5 * whole["fid"]


def test_scoring_leaves_the_global_random_numbers_alone():
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    score(noise(30, 1), noise(30, 2), Projection())
    Digits(Config())
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


def test_every_keyword_is_one_that_torch_fidelity_knows(monkeypatch):
    given = {}

    def record(**keywords):
        given.update(keywords)
        return torch_fidelity.calculate_metrics(**keywords)

    monkeypatch.setattr(scores, "calculate_metrics", record)
    score(noise(30, 1), noise(30, 2), Projection())
    assert set(given) - set(DEFAULTS) == {"extractor"}


def test_statistics_that_torch_fidelity_overlooks_raise_instead_of_scoring(monkeypatch):
    monkeypatch.setattr(scores.torch, "save", lambda *_: None)
    with warnings.catch_warnings(), pytest.raises(np.linalg.LinAlgError):
        warnings.simplefilter("ignore")  # numpy on the covariance of one image
        score(noise(30, 1), noise(30, 2), Projection())


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (noise(9, 1), "9 samples are too few"),
        (noise(0, 1), "0 samples are too few"),
        (torch.zeros(20, 1, 4, 4), "torch.float32 (20, 1, 4, 4)"),
        (torch.zeros(20, 4, 4, dtype=torch.uint8), "torch.uint8 (20, 4, 4)"),
    ],
)
def test_samples_that_cannot_be_scored_are_refused_with_their_value(samples, words):
    with pytest.raises(UsageError) as caught:
        score(samples, noise(20, 2), Projection())
    assert words in str(caught.value)


def test_samples_of_a_shape_that_the_features_refuse_are_refused(digits):
    with pytest.raises(UsageError, match="not 3 x 28 x 28"):
        score(noise(20, 1, (3, 28, 28)), noise(20, 2, (3, 28, 28)), digits)


def test_a_reference_of_one_image_is_refused():
    lonely = Statistics(torch.zeros(6), torch.zeros(6, 6, dtype=torch.float64), count=1)
    with pytest.raises(UsageError, match="'one' holds 1 images"):
        scores.score(Config(), noise(20, 1), Reference("one", 1, lambda _: lonely), Projection())


def test_an_extractor_that_breaks_its_contract_is_named():
    class Wide(Projection):
        identity = "wide-00000000"

        def forward(self, images):
            vectors, logits = super().forward(images)
            return vectors, logits.double()

    with pytest.raises(PluginError, match=r"logits of wide-00000000 are torch\.float64 \(20, 6\)"):
        score(noise(20, 1), noise(20, 2), Wide())


# Statistics


def test_statistics_equal_torch_fidelitys_bit_for_bit():
    extractor, images = Projection(), noise(130, 1)
    seen = []
    found = compute_statistics(extractor, images, 50, lambda *progress: seen.append(progress))
    expected = fid_features_to_statistics(extractor(images)[0])
    assert (found.mean.dtype, found.covariance.dtype) == (torch.float32, torch.float64)
    np.testing.assert_array_equal(found.mean.numpy(), expected["mu"])
    np.testing.assert_array_equal(found.covariance.numpy(), expected["sigma"])
    assert found.count == 130
    assert seen == [(50, 130), (100, 130), (130, 130)]


def test_statistics_do_not_depend_on_the_batch_size(digits, mini):
    images = mini["test_images"][:500]
    small, large = (compute_statistics(digits, images, size) for size in (64, 500))
    torch.testing.assert_close(small.mean, large.mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(small.covariance, large.covariance, rtol=1e-6, atol=1e-7)


# The plugin


def test_the_entry_module_names_what_exists():
    for spec in register_features():
        assert issubclass(spec.load(), FeatureExtractor)
    (metric,) = register_metrics()
    found = metric.load()(metric.config(), noise(20, 1), reference(noise(20, 2)), Projection())
    assert [column.name for column in metric.columns] == list(found)
