"""Scoring: rows, their cards, likelihoods, and the cache of the reference."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from toys import (
    SHAPE,
    Constant,
    bright_squares,
    random_images,
    registry,
    train_tiny,
    write_npz,
)

from genkit import evaluation, sampling
from genkit.errors import PluginError, UsageError
from genkit.evaluation import Yardstick, evaluate
from genkit.metrics import FeatureExtractor, Statistics, reference_for
from genkit.model import LogLikelihood
from genkit.rundir import RunDir
from genkit.runs import Run, load_data
from genkit.specs import Column, Config, FeaturesSpec, ImageShape, MetricSpec


class Brightness(FeatureExtractor):
    """Mean and deviation of an image's pixels."""

    identity = "brightness-00000000"
    calls = 0

    def __init__(self, config):
        super().__init__(config)
        self.weight = nn.Parameter(torch.ones(()))

    def check_shape(self, shape):
        if shape.height > 100:
            raise UsageError(f"brightness takes small images, not {shape}")

    def forward(self, images):
        type(self).calls += len(images)
        pixels = images.flatten(1).float()
        features = torch.stack([pixels.mean(1), pixels.std(1)], 1) * self.weight
        return features.detach(), features.detach()


def distance(config, samples, reference, extractor):
    """How far the mean features of samples are from the reference's, and their number."""
    mean = extractor(samples)[0].mean(0)
    return {
        "distance": (mean - reference.statistics(extractor).mean).norm(),
        "distance_std": torch.tensor(0.0),
        "count": len(samples),
    }


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """A registry with the toy metric and features only, and a cache of the test's own."""
    from genkit.registry import Entry, load_registry

    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Brightness, "calls", 0)
    found = load_registry()
    plugin = next(iter(found.metrics.values())).plugin
    columns = tuple(
        Column(name=name, title=name, better="lower")
        for name in ("distance", "distance_std", "count")
    )
    found.metrics.clear()
    spec = MetricSpec(
        name="distance", summary="", target="test_evaluation:distance", columns=columns
    )
    found.metrics["distance"] = Entry(spec, plugin)
    spec = FeaturesSpec(name="brightness", summary="", target="test_evaluation:Brightness")
    found.features["brightness"] = Entry(spec, plugin)
    return found


def open_npz(tmp_path, registry_, images, **options):
    from genkit.config import RunConfig

    data = write_npz(tmp_path / "evaluated.npz", images)
    return load_data(registry_, RunConfig(data=data, **options))


@pytest.fixture
def yardstick(toys, tmp_path):
    data = open_npz(tmp_path, toys, random_images(200))
    return Yardstick.choose(toys, data, samples=30, features="brightness", device="cpu")


def as_run(model, path, registry_):
    return Run(RunDir(path), {"model": "constant"}, model.eval(), registry_)


# ---- rows and cards


def test_real_is_held_out_images_and_noise_is_uniform(yardstick, monkeypatch):
    scored = {}
    monkeypatch.setattr(
        Yardstick, "evaluate_images", lambda self, name, images: scored.update({name: images})
    )
    evaluate(["real", "noise"], yardstick, load=None)
    test = {image.tobytes() for image in yardstick.data.test.images}
    assert len(scored["real"]) == 20  # all there are, of the 30 asked for
    assert {image.tobytes() for image in scored["real"].numpy()} == test
    noise = scored["noise"]
    assert noise.shape == (30, *SHAPE) and noise.dtype == torch.uint8
    assert noise.float().mean().item() == pytest.approx(127.5, abs=6)
    assert noise.min() <= 2 and noise.max() >= 253


def test_scores_are_those_of_the_metric(yardstick):
    images = torch.full((30, *SHAPE), 200, dtype=torch.uint8)
    row = yardstick.evaluate_images("mine", images)
    mean = yardstick.data.train.images.reshape(180, 64).astype(float)
    expected = math.hypot(200 - mean.mean(1).mean(), mean.std(1, ddof=1).mean())
    assert row["scores"]["distance"] == pytest.approx(expected, rel=1e-5)
    assert row["scores"]["count"] == 30


def test_the_card_says_how_a_score_came_about(yardstick, tmp_path):
    (row,) = evaluate(["noise"], yardstick, load=None)
    card = row["card"]
    assert card["features"] == "brightness-00000000"
    assert card["reference"] == f"{yardstick.data.name} train" and card["reference_images"] == 180
    assert card["data_fingerprint"] == yardstick.data.fingerprint
    assert card["samples"] == 30 and card["quantisation"] == "uint8, rounded, no resizing"
    assert {"genkit", "torch", "torch-fidelity", "numpy"} == card["versions"].keys()

    row = yardstick.evaluate_run(as_run(Constant(), tmp_path, yardstick.registry))
    assert row["card"] | card == row["card"]
    assert row["card"]["sample_seed"] == 0 and row["card"]["precision"] == "fp32"
    assert row["sample_rate"] > 0 and row["likelihood"] is None


def test_scores_follow_from_the_seed(yardstick, tmp_path, toys):
    rows = [evaluate(["real", "noise"], yardstick, load=None) for _ in range(2)]
    assert rows[0] == rows[1]


def test_features_of_none_leave_likelihoods_only(toys, tmp_path):
    data = open_npz(tmp_path, toys, random_images(60))
    yardstick = Yardstick.choose(toys, data, samples=20, features="none")
    run = as_run(Constant(nats=lambda images: images.flatten(1).sum(1)), tmp_path, toys)
    row = yardstick.evaluate_run(run)
    assert row["scores"] == {} and row["card"]["features"] is None
    assert row["likelihood"]["images"] == 6


def test_too_few_real_images_cost_their_row_only(tmp_path, monkeypatch):
    """The Inception Score needs ten; of forty images four are held out."""
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))
    data = open_npz(tmp_path, registry(), bright_squares(40, (1, 28, 28)))
    yardstick = Yardstick.choose(registry(), data, samples=12, features="digits", device="cpu")
    real, noise = evaluate(["real", "noise"], yardstick, load=None)
    assert real["scores"] == {} and "4 samples are too few" in real["error"]
    assert noise["scores"]["fid"] > 0


# ---- likelihoods


def test_likelihood_is_the_mean_over_the_test_images(yardstick, tmp_path):
    model = Constant(nats=lambda images: -images.double().flatten(1).square().sum(1))
    found = yardstick.likelihood(model)
    test = yardstick.data.test.images.astype(float) / 127.5 - 1
    nats = -(test.reshape(20, 64) ** 2).sum(1).mean()
    assert found["nats"] == pytest.approx(nats, rel=1e-6)
    assert found["bits_per_dimension"] == pytest.approx(-nats / math.log(2) / 64, rel=1e-6)
    assert (found["kind"], found["of"], found["images"]) == ("exact", "toys", 20)


def test_likelihood_of_a_uniform_model_is_eight_bits_a_dimension(yardstick):
    found = yardstick.likelihood(
        Constant(nats=lambda i: torch.full((len(i),), -64 * math.log(256)))
    )
    assert found["bits_per_dimension"] == pytest.approx(8)


def test_noise_in_a_likelihood_is_seeded_and_leaves_torchs_random_numbers_alone(yardstick):
    model = Constant(nats=lambda images: torch.randn(len(images)))
    state = torch.get_rng_state()
    first, second = yardstick.likelihood(model), yardstick.likelihood(model)
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "nats",
    [
        lambda images: torch.full((len(images),), torch.nan),
        lambda images: torch.full((len(images),), -torch.inf),
        lambda images: torch.zeros(len(images), 64),
        lambda images: torch.tensor(-3.0),
    ],
)
def test_likelihoods_that_are_no_numbers_per_image_are_a_plugin_error(yardstick, nats):
    with pytest.raises(PluginError, match=r"Constant\.log_likelihood"):
        yardstick.likelihood(Constant(nats=nats))


def test_likelihood_uses_at_most_a_thousand_images(toys, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "LIKELIHOOD_IMAGES", 7)
    monkeypatch.setattr(evaluation, "LIKELIHOOD_BATCH", 3)
    data = open_npz(tmp_path, toys, random_images(200))
    yardstick = Yardstick.choose(toys, data, samples=20, features="none")
    sizes = []

    class Counting(Constant):
        def log_likelihood(self, images):
            sizes.append(len(images))
            return LogLikelihood(torch.zeros(len(images)), "bound", "toys")

    assert yardstick.likelihood(Counting())["images"] == 7
    assert sizes == [3, 3, 1]


# ---- the cache of the reference


def test_the_reference_is_computed_once(toys, tmp_path):
    data = open_npz(tmp_path, toys, random_images(200))
    extractor = Brightness(Config())
    first = reference_for(data, extractor).statistics(extractor)
    assert Brightness.calls == 180
    second = reference_for(data, extractor).statistics(extractor)
    assert Brightness.calls == 180
    features = Brightness(Config())(torch.from_numpy(data.train.images))[0].double()
    torch.testing.assert_close(second.mean.double(), features.mean(0))
    torch.testing.assert_close(second.covariance, features.T.cov())
    assert torch.equal(first.covariance, second.covariance) and second.count == 180


def damage_end(content):
    content[-3] ^= 1  # a number, which safetensors reads without a word


def damage_header(content):
    content[10] ^= 255


@pytest.mark.parametrize("damage", [damage_end, damage_header, lambda content: content.clear()])
def test_a_damaged_cache_is_computed_anew(toys, tmp_path, damage):
    data = open_npz(tmp_path, toys, random_images(200))
    extractor = Brightness(Config())
    first = reference_for(data, extractor).statistics(extractor)
    (path,) = (tmp_path / "cache" / "references").iterdir()
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    second = reference_for(data, extractor).statistics(extractor)
    assert Brightness.calls == 360
    assert torch.equal(first.covariance, second.covariance)
    reference_for(data, extractor).statistics(extractor)
    assert Brightness.calls == 360


def test_other_data_has_a_reference_of_its_own(toys, tmp_path):
    extractor = Brightness(Config())
    first = reference_for(open_npz(tmp_path, toys, random_images(200)), extractor)
    second = reference_for(open_npz(tmp_path, toys, random_images(200, seed=1)), extractor)
    assert first.name == second.name
    means = [reference.statistics(extractor).mean for reference in (first, second)]
    assert not torch.equal(*means) and Brightness.calls == 360


def test_a_cache_that_cannot_be_written_is_only_slower(toys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "file"))
    data = open_npz(tmp_path, toys, random_images(200))
    extractor = Brightness(Config())
    for calls in (180, 360):
        assert reference_for(data, extractor).statistics(extractor).count == 180
        assert Brightness.calls == calls


def test_statistics_that_an_extractor_ships_are_used(toys, tmp_path):
    shipped = Statistics(torch.zeros(2), torch.eye(2, dtype=torch.float64), 60_000)

    class Shipping(Brightness):
        def shipped_statistics(self, reference):
            return shipped if reference == "mnist-train" else None

    extractor = Shipping(Config())
    data = open_npz(tmp_path, toys, random_images(200))
    assert reference_for(data, extractor).count == 180
    from dataclasses import replace

    reference = reference_for(replace(data, reference="mnist-train"), extractor)
    assert (reference.name, reference.count) == ("mnist-train", 60_000)
    assert reference.statistics(extractor) is shipped and Brightness.calls == 0


# ---- targets


def test_samples_in_files_score_as_the_run_they_came_from(yardstick, tmp_path):
    run = train_tiny("vae", write_npz(tmp_path / "d.npz"), tmp_path / "run", budget="5steps")
    images = run.sample(30)
    sampling.save_samples(images, tmp_path / "samples.npz")
    sampling.save_samples(images, tmp_path / "samples")
    targets = [str(tmp_path / name) for name in ("run", "samples.npz", "samples")]
    rows = evaluate(targets, yardstick, load=lambda path: run)
    assert [row["name"] for row in rows] == ["vae", *targets[1:]]
    assert rows[0]["scores"] == rows[1]["scores"] == rows[2]["scores"]
    assert rows[0]["parameters"] > 0 and rows[0]["images"] == 40 and rows[0]["seconds"] > 0
    assert rows[0]["likelihood"]["kind"] == "bound"
    assert rows[0]["card"]["weights"] == "ema"


@pytest.mark.parametrize("shape", [(1, 4, 16), (1, 16, 4), (1, 8, 9), (1, 7, 8)])
def test_images_of_another_shape_are_refused(yardstick, tmp_path, shape):
    """Also of as many pixels in another arrangement."""
    run = as_run(Constant(shape=shape), tmp_path, yardstick.registry)
    message = f"{' x '.join(map(str, shape))}.*1 x 8 x 8"
    with pytest.raises(UsageError, match=message):
        yardstick.evaluate_run(run)
    sampling.save_samples(torch.zeros(30, *shape, dtype=torch.uint8), tmp_path / "samples.npz")
    with pytest.raises(UsageError, match=message):
        evaluate([str(tmp_path / "samples.npz")], yardstick, load=None)


def test_classes_do_not_matter_to_the_shape(yardstick, tmp_path):
    model = Constant()
    model.image_shape = ImageShape(*SHAPE, classes=10)
    assert yardstick.evaluate_run(as_run(model, tmp_path, yardstick.registry))["scores"]


def test_a_target_that_does_not_exist_is_refused(yardstick, tmp_path):
    with pytest.raises(UsageError, match="nothing does not exist"):
        evaluate([str(tmp_path / "nothing")], yardstick, load=None)


def test_features_that_cannot_take_the_images_are_refused_at_once(toys, tmp_path):
    data = open_npz(tmp_path, toys, random_images(20, (1, 101, 8)))
    with pytest.raises(UsageError, match="brightness takes small images"):
        Yardstick.choose(toys, data, samples=20, features="brightness")
    with pytest.raises(UsageError, match="Did you mean 'brightness'"):
        Yardstick.choose(toys, data, samples=20, features="brightnes")


# ---- metrics


@pytest.mark.parametrize(
    "answer, complaint",
    [
        ({"distance": 1.0}, "KeyError"),
        ({"distance": torch.nan, "distance_std": 0, "count": 1}, "distance is nan"),
        ({"distance": "far", "distance_std": 0, "count": 1}, "ValueError"),
        (None, "TypeError"),
    ],
)
def test_a_metric_that_fails_is_a_plugin_error_that_names_it(
    yardstick, monkeypatch, answer, complaint
):
    import test_evaluation

    monkeypatch.setattr(test_evaluation, "distance", lambda *arguments: answer)
    with pytest.raises(PluginError, match=f"metric 'distance' failed.*{complaint}"):
        yardstick.score(torch.zeros(30, *SHAPE, dtype=torch.uint8))


def test_what_a_metric_says_to_its_user_reaches_them(yardstick, monkeypatch):
    import test_evaluation

    def refuse(*arguments):
        raise UsageError("too few samples")

    monkeypatch.setattr(test_evaluation, "distance", refuse)
    with pytest.raises(UsageError, match="too few samples"):
        yardstick.score(torch.zeros(30, *SHAPE, dtype=torch.uint8))


def test_digits_are_scored_with_the_features_that_come_with_genkit(tmp_path, monkeypatch):
    """Real digits score better than noise, and shipped statistics stand for the reference."""
    from genkit.config import RunConfig

    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))
    data = load_data(registry(), RunConfig(data="mnist-mini"))
    yardstick = Yardstick.choose(registry(), data, samples=100, device="cpu")
    real, noise = evaluate(["real", "noise"], yardstick, load=None)
    assert real["card"]["reference"] == "mnist-train"
    assert real["card"]["features"].startswith("digits-")
    assert real["scores"]["fid"] < noise["scores"]["fid"] / 5
    assert 1 <= noise["scores"]["is"] < real["scores"]["is"] <= 10
    assert not (tmp_path / "cache").exists()
    assert np.isfinite(list(real["scores"].values())).all()
