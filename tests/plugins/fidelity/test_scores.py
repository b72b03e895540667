"""FID, KID, IS and class scores against torch-fidelity itself, closed forms and slow loops."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch_fidelity
from torch_fidelity.defaults import DEFAULTS

from genkit.errors import UsageError
from genkit.features import FeatureExtractor, ImageSet, Statistics
from genkit.metrics import Reference, blocks_of
from genkit.specs import Config
from genkit_fidelity import classes, kernel, register_features, register_metrics, scores
from genkit_fidelity.features import Digits

torch.set_num_threads(1)


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


def reference(images: torch.Tensor, extractor: FeatureExtractor) -> Reference:
    real = ImageSet(images, extractor)
    return Reference("test images", len(images), real, real)


def score(samples: torch.Tensor, real: torch.Tensor, extractor: FeatureExtractor, *of) -> dict:
    """Values of some metrics, FID and IS unless they are named."""
    found = {}
    for metric in of or (scores.frechet, scores.inception):
        found |= metric(Config(), ImageSet(samples, extractor), reference(real, extractor))
    return {name: getattr(value, "value", value) for name, value in found.items()}


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
        input1=scores.Vectors(samples),  # any tensor of items
        input2=scores.Vectors(real),
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


def kid_of_torch_fidelity(samples, real, extractor, size, count):
    """Mean and deviation over `count` pairs of subsets of features."""
    found = torch_fidelity.calculate_metrics(
        input1=scores.Vectors(extractor(samples)[0]),
        input2=scores.Vectors(extractor(real)[0]),
        feature_extractor=scores._register(),
        kid=True,
        kid_subset_size=size,
        kid_subsets=count,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    return (
        found["kernel_inception_distance_mean"],
        found["kernel_inception_distance_std"],
    )


def test_kid_of_equal_numbers_is_torch_fidelitys_of_one_subset_with_all(digits, mini):
    samples, real = mini["test_images"][:700], mini["train_images"][:700]
    expected, _ = kid_of_torch_fidelity(samples, real, digits, 700, 1)
    found = score(samples, real, digits, kernel.kernel)["kid"]
    # A difference of means of about 1: its error is one of those, whatever is left of them.
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_kid_is_what_torch_fidelitys_subsets_scatter_around(digits, mini):
    samples, real = mini["test_images"][:700], mini["train_images"][:1500]
    samples = (samples // 64) * 64  # far enough from the real ones to be told from them
    mean, spread = kid_of_torch_fidelity(samples, real, digits, 300, 100)
    found = score(samples, real, digits, kernel.kernel)["kid"]
    assert found == pytest.approx(mean, abs=4 * spread / 10)
    assert found > 10 * spread / 10


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


def shipped(digits, mini) -> Reference:
    train = ImageSet(mini["train_images"], digits)
    return Reference("mnist", 60_000, train, train, digits.shipped_statistics("mnist-train"))


def test_fid_grows_with_noise(digits, mini):
    clean = mini["test_images"].float()
    grain = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    distances = []
    for sigma in (0, 8, 16, 32, 64):
        samples = ImageSet((clean + sigma * grain).round().clamp(0, 255).byte(), digits)
        distances.append(scores.frechet(Config(), samples, shipped(digits, mini))["fid"].value)
    assert distances == sorted(distances)
    assert distances[-1] > 10 * distances[0]


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
    metrics = (scores.frechet, scores.inception, kernel.kernel)
    score(noise(30, 1), noise(30, 2), Projection(), *metrics)
    assert set(given) <= set(DEFAULTS)


def test_statistics_that_torch_fidelity_overlooks_raise_instead_of_scoring(monkeypatch):
    monkeypatch.setattr(scores.torch, "save", lambda *_: None)
    with warnings.catch_warnings(), pytest.raises(np.linalg.LinAlgError):
        warnings.simplefilter("ignore")  # numpy on the covariance of one image
        score(noise(30, 1), noise(30, 2), Projection())


def test_too_few_samples_for_the_inception_score_are_refused_with_their_number():
    with pytest.raises(UsageError, match="9 samples are too few"):
        score(noise(9, 1), noise(20, 2), Projection(), scores.inception)


def test_a_reference_of_one_image_is_refused():
    lonely = Statistics(torch.zeros(6), torch.zeros(6, 6, dtype=torch.float64), count=1)
    one = ImageSet(noise(1, 1), Projection())
    with pytest.raises(UsageError, match="'one' holds 1 images"):
        scores.frechet(
            Config(), ImageSet(noise(20, 1), Projection()), Reference("one", 1, one, one, lonely)
        )


def test_features_without_a_classifier_have_no_inception_score_and_no_classes():
    class Blind(Projection):
        def forward(self, images):
            return super().forward(images)[0], None

    assert score(noise(20, 1), noise(20, 2), Blind(), scores.inception, classes.score) == {}


# Kernel distance


def slow_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased squared MMD of Binkowski et al. 2018, in loops."""

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within = sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j)
    between = sum(k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j)
    across = sum(k(a, b) for a in x for b in y)
    return within / (n * (n - 1)) + between / (m * (m - 1)) - 2 * across / (n * m)


def test_kid_is_the_slow_loops_mmd_over_all_pairs():
    extractor = Projection()
    samples, real = noise(30, 1), noise(43, 2, low=40)
    found = score(samples, real, extractor, kernel.kernel)
    x, y = (extractor(images)[0].double().numpy() for images in (samples, real))
    assert found["kid"] == pytest.approx(slow_mmd(x, y), rel=1e-4)


def test_jackknife_of_kid_leaves_out_what_it_says():
    extractor = Projection()
    x, y = (extractor(noise(count, count))[0] for count in (45, 30))
    _, found = kernel._distances(x, y)
    blocks, number = blocks_of(45)
    expected = torch.tensor(
        [slow_mmd(x[blocks != b].double().numpy(), y.double().numpy()) for b in range(number)]
    )
    # Up to the constant of the reference alone.
    torch.testing.assert_close(
        found - found.mean(), (expected - expected.mean()), atol=1e-3, rtol=1e-4
    )


def test_jackknife_of_fid_leaves_out_what_it_says():
    extractor = Projection()
    samples, real = noise(200, 1), noise(300, 2, low=30)
    statistics = reference(real, extractor).statistics
    whole, found = scores._frechet_left_out(extractor(samples)[0], statistics)
    expected = score(samples, real, extractor, scores.frechet)["fid"]
    assert whole.item() == pytest.approx(expected, rel=1e-4)
    blocks, number = blocks_of(200)
    for block in (0, 7, number - 1):
        expected = score(samples[blocks != block], real, extractor, scores.frechet)["fid"]
        assert found[block].item() == pytest.approx(expected, rel=1e-4)


def test_corrected_fid_is_that_of_far_more_samples():
    """The mean over draws of 400 Gaussian vectors against the distance of the distributions
    themselves; the bias of the plain one is seen, and what is left of it is a tenth at most."""
    generator = torch.Generator().manual_seed(0)
    dimensions, scale = 12, torch.linspace(0.5, 2, 12)
    statistics = Statistics(torch.zeros(dimensions), torch.eye(dimensions).double(), 60_000)
    truth = (scale - 1).square().sum().item()
    one = ImageSet(noise(20, 1), Projection())
    real = Reference("", 60_000, one, one, statistics)
    found = []
    for _ in range(60):
        vectors = torch.randn(400, dimensions, generator=generator) * scale
        found.append(scores.frechet(Config(), SimpleNamespace(features=vectors), real))
    plain, corrected = (
        np.array([each[name].value for each in found]) - truth for name in ("fid", "fid_corrected")
    )
    error = corrected.std() / np.sqrt(len(found))
    assert plain.mean() > 3 * error
    assert abs(corrected.mean()) < 0.1 * plain.mean() + 2.5 * error
    assert found[0]["fid"].deviation == found[0]["fid_corrected"].deviation


def test_corrected_fid_of_real_digits_is_about_zero_with_any_number_of_samples(digits, mini):
    real, found = shipped(digits, mini), {}
    for count in (500, 1000, 2000):
        samples = ImageSet(mini["test_images"][:count], digits)
        found[count] = scores.frechet(Config(), samples, real)
    for estimates in found.values():
        error = estimates["fid"].deviation
        assert abs(estimates["fid_corrected"].value) < 0.1 + 3 * error
    assert found[500]["fid"].value > 2 * found[2000]["fid"].value


def test_fid_is_corrected_from_five_samples_for_each_feature(digits, mini):
    real = shipped(digits, mini)
    for count, corrected in ((319, False), (320, True)):
        samples = ImageSet(mini["test_images"][:count], digits)
        assert ("fid_corrected" in scores.frechet(Config(), samples, real)) == corrected


# Classes


class Says(FeatureExtractor):
    """A classifier that reads the class, 0 to 3, off the first pixel, as surely as the second."""

    identity = "says-00000000"
    classes = 4

    def __init__(self) -> None:
        super().__init__(Config())

    def forward(self, images):
        pixels = images.flatten(1).float()
        label = torch.nn.functional.one_hot(pixels[:, 0].long(), 4).float()
        return pixels, label * pixels[:, 1:2]


def labelled(labels: list[int], sureness: int = 100) -> torch.Tensor:
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(labels)
    images[:, 0, 0, 1] = sureness
    return images


@pytest.mark.parametrize(
    ("labels", "coverage"),
    [([0, 1, 2, 3] * 5, 1.0), ([0, 1, 2, 2] * 5, 0.75), ([3] * 20, 0.25), ([0, 0, 1, 1] * 5, 0.5)],
)
def test_class_coverage_falls_by_the_share_of_missing_classes(labels, coverage):
    found = score(labelled(labels), labelled([0, 1, 2, 3] * 10), Says(), classes.score)
    assert found["class_coverage"] == pytest.approx(coverage)
    assert found["confident"] == 1


def test_unsure_samples_are_not_confident():
    samples = torch.cat([labelled([0, 1] * 5), labelled([2, 3, 3] * 10, sureness=1)])
    found = score(samples, labelled([0, 1, 2, 3] * 10), Says(), classes.score)
    assert found["confident"] == pytest.approx(0.25)


# The plugin


def test_the_entry_module_names_what_exists(digits, mini):
    for spec in register_features():
        assert issubclass(spec.load(), FeatureExtractor)
    samples = ImageSet(mini["test_images"][:320], digits)
    real = reference(mini["train_images"][:320], digits)
    names = set()
    for metric in register_metrics():
        found = metric.load()(metric.config(), samples, real)
        columns = {column.name for column in metric.columns}
        assert set(found) == (set() if metric.name == "modes" else columns)  # of ten classes
        assert not names & set(found) and metric.definition
        names |= set(found)
