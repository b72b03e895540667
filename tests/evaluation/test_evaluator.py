"""Scores of images and runs: rows, their cards, likelihoods, and the cache of the reference."""

import math
import re
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
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

from genkit.config.run import RunConfig
from genkit.errors import PluginError, UsageError
from genkit.evaluation.evaluator import Evaluator
from genkit.evaluation.protocol import EvaluationProtocol
from genkit.evaluation.reference import reference_for
from genkit.evaluation.targets import evaluate
from genkit.features import FeatureExtractor, Statistics
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir
from genkit.io.run_records import RunRecord, ShapeRecord
from genkit.metrics import Estimate, choice
from genkit.report.footnotes import footnotes
from genkit.report.protocol_card import differences
from genkit.report.ranking import rank
from genkit.report.rows import Likelihood, ScoreRow
from genkit.runs.build import load_data
from genkit.runs.run import Run
from genkit.sampling.files import save_samples
from genkit.specs import Column, Config, FeaturesSpec, ImageShape, MetricSpec
from genkit.version import __version__


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


def distance(config, samples, reference):
    """How far the mean features of samples are from the reference's, and their number."""
    value = (samples.features.mean(0) - reference.statistics.mean).norm()
    return {"distance": Estimate(value, torch.tensor(0.25)), "count": len(samples)}


class Heard(Reporter):
    """A reporter that keeps its messages."""

    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


@pytest.fixture
def toys(monkeypatch, tmp_path):
    """A registry with the toy metric and features only, and a cache of the test's own."""
    from genkit.registry.catalogue import Entry, load_registry

    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Brightness, "calls", 0)
    found = load_registry()
    plugin = next(iter(found.metrics.values())).plugin
    columns = tuple(Column(name=name, title=name, better="lower") for name in ("distance", "count"))
    found.metrics.clear()
    spec = MetricSpec(
        name="distance",
        summary="",
        target=f"{__name__}:distance",
        columns=columns,
        definition="of means",
    )
    found.metrics["distance"] = Entry(spec, plugin)
    spec = FeaturesSpec(name="brightness", summary="", target=f"{__name__}:Brightness")
    found.features["brightness"] = Entry(spec, plugin)
    return found


def open_npz(tmp_path, registry_, images, **options):
    from genkit.config.run import RunConfig

    data = write_npz(tmp_path / "evaluated.npz", images)
    return load_data(registry_, RunConfig(data=data, **options))


@pytest.fixture
def evaluator(toys, tmp_path):
    data = open_npz(tmp_path, toys, random_images(200))
    return Evaluator.choose(toys, data, protocol(samples=30))


def protocol(**options):
    return EvaluationProtocol(**{"features": "brightness", "device": "cpu", **options})


def as_run(model, path, registry_):
    shape = ShapeRecord.of(model.image_shape)
    record = RunRecord(model="constant", run={}, options={}, image_shape=shape)
    return Run(RunDir(path), record, model.eval(), registry_)


# ---- rows and cards


def scored_images(evaluator, monkeypatch, *words):
    """The images that words stand for, and where they say that these are from."""
    scored = {}

    def keep(self, name, images, places=None):
        scored[name] = (images, places)
        return ScoreRow(name=name)

    monkeypatch.setattr(Evaluator, "evaluate_images", keep)
    evaluate(list(words), evaluator, load=None)
    return scored


def test_real_is_test_images_copy_is_training_images_and_noise_is_uniform(evaluator, monkeypatch):
    scored = scored_images(evaluator, monkeypatch, "real", "copy", "noise")
    test, train = evaluator.data.test.images, evaluator.data.train.images
    real, places = scored["real"]
    assert len(real) == 20  # all there are, of the 30 asked for
    assert {image.tobytes() for image in real.numpy()} == {image.tobytes() for image in test}
    assert np.array_equal(real.numpy(), test[places])
    copies, places = scored["copy"]
    assert len(copies) == 30 and places is None
    assert {image.tobytes() for image in copies.numpy()} < {image.tobytes() for image in train}
    noise, _ = scored["noise"]
    assert noise.shape == (30, *SHAPE) and noise.dtype == torch.uint8
    assert noise.float().mean().item() == pytest.approx(127.5, abs=6)
    assert noise.min() <= 2 and noise.max() >= 253


def test_scores_are_those_of_the_metric(evaluator):
    images = torch.full((30, *SHAPE), 200, dtype=torch.uint8)
    row = evaluator.evaluate_images("mine", images)
    mean = evaluator.data.train.images.reshape(180, 64).astype(float)
    expected = math.hypot(200 - mean.mean(1).mean(), mean.std(1, ddof=1).mean())
    assert row.scores["distance"] == pytest.approx(expected, rel=1e-5)
    assert row.scores["count"] == 30 and row.deviations == {"distance": 0.25}


def test_the_card_says_how_a_score_came_about(evaluator, tmp_path):
    (row,) = evaluate(["noise"], evaluator, load=None)
    card = row.card
    assert card.features == "brightness-00000000"
    assert card.reference == f"{evaluator.data.name} train" and card.reference_images == 180
    assert card.data_fingerprint == evaluator.data.fingerprint
    assert card.samples == 30 and card.quantisation == "uint8, rounded, no resizing"
    assert card.versions == {name: version(name) for name in ("torch", "numpy")} | {
        "genkit": __version__
    }
    assert "sample_seed" not in card.to_json() and "trained on" not in card.lines()

    row = evaluator.evaluate_run(as_run(Constant(), tmp_path, evaluator.registry))
    of_run = row.card
    assert of_run.to_json() | card.to_json() == of_run.to_json()
    assert of_run.sample_seed == 0 and of_run.precision == "fp32"
    assert of_run.metrics == {"distance": "of means"}
    assert of_run.train_images == 180 and of_run.test_images == 20
    assert not differences({"noise": card, "run": of_run})
    assert row.sample_rate > 0 and row.likelihood is None


def test_versions_that_a_metric_or_the_features_ask_for_are_on_the_card(evaluator):
    metrics, features = evaluator.registry.metrics, evaluator.registry.features
    for entries, name, asked in (
        (metrics, "distance", ("pluggy", "not-installed-anywhere")),
        (features, "brightness", ("rich",)),
    ):
        spec = replace(entries[name].spec, records=asked)
        entries[name] = replace(entries[name], spec=spec)
    versions = evaluator.card(30).versions
    assert set(versions) == {"genkit", "torch", "numpy", "pluggy", "rich"}
    assert versions["pluggy"] == version("pluggy") and versions["rich"] == version("rich")


def test_scores_follow_from_the_seed(evaluator, tmp_path, toys):
    rows = [evaluate(["real", "noise"], evaluator, load=None) for _ in range(2)]
    assert rows[0] == rows[1]


def test_features_of_none_leave_likelihoods_only(toys, tmp_path):
    data = open_npz(tmp_path, toys, random_images(60))
    evaluator = Evaluator.choose(toys, data, protocol(samples=20, features="none"))
    run = as_run(Constant(nats=lambda images: images.flatten(1).sum(1)), tmp_path, toys)
    row = evaluator.evaluate_run(run)
    assert row.scores == {} and row.card.features is None
    assert row.likelihood.images == 6
    shares = {"images", "pixels", "pixels_deviation", "flagged", "copies", "copies_of"}
    assert set(row.to_json()["memorisation"]) == shares


def test_likelihood_is_of_as_many_test_images_as_the_protocol_says(toys, tmp_path):
    data = open_npz(tmp_path, toys, random_images(200))
    evaluator = Evaluator.choose(toys, data, protocol(samples=20, likelihood_images=7))
    model = Constant(nats=lambda images: -images.flatten(1).square().sum(1))
    samples = torch.from_numpy(random_images(20, seed=4))
    (found,) = evaluator.likelihoods(as_run(model, tmp_path, toys), samples)
    chosen = data.test.images[choice(20, 7, 0)].astype(float) / 127.5 - 1
    assert found.nats == pytest.approx(-(chosen**2).sum((1, 2, 3)).mean(), rel=1e-6)
    assert found.images == 7 and found.levels == 256
    own = samples.numpy().astype(float) / 127.5 - 1
    assert found.own == pytest.approx(-(own**2).sum((1, 2, 3)).mean(), rel=1e-6)


@pytest.fixture
def judges(toys, tmp_path):
    """Rows of a small VAE and of a PixelCNN with two levels, on grey images."""
    images = random_images(200)
    data = write_npz(tmp_path / "grey.npz", np.where(images > 127, 250, 5).astype(np.uint8))
    opened = load_data(toys, RunConfig(data=data))
    evaluator = Evaluator.choose(toys, opened, protocol(samples=20, draws=4))
    rows = []
    for name in ("vae", "pixelcnn"):
        run = train_tiny(name, data, tmp_path / name, budget="5steps")
        rows.append(evaluator.evaluate_run(run))
    return opened, rows


def test_models_are_asked_about_the_coarsest_images_that_all_can_judge(judges):
    """The VAE judges grey images binarised at random and black-and-white ones, PixelCNN these."""
    _, rows = judges
    assert [found.of for found in rows[0].likelihoods] == [
        "images binarised at random",
        "black-and-white images",
    ]
    assert rows[0].likelihood == rows[0].likelihoods[0]  # the finest, until models are compared
    ranked = {row.name: row.likelihood for row in rank(rows, []).rows}
    assert {found.of for found in ranked.values()} == {"black-and-white images"}
    assert ranked["vae"].levels == ranked["pixelcnn"].levels == 2
    notes = footnotes(rank(rows, []))
    assert not [note for note in notes if "cannot be compared" in note]
    assert any(note.startswith("These are the coarsest test images") for note in notes)


def test_both_are_asked_about_the_same_rounded_images(toys, tmp_path, monkeypatch):
    asked = []

    def remember(model, images, **_):
        asked.append(images)
        return Likelihood(nats=-1.0, bits_per_dimension=1.0, kind="exact", of="x", images=1)

    monkeypatch.setattr("genkit.evaluation.likelihood.measure_likelihood", remember)
    data = open_npz(tmp_path, toys, random_images(200))
    evaluator = Evaluator.choose(toys, data, protocol(samples=20, features="none"))
    model = Constant()
    model.likelihood_levels = lambda: (2, 256)
    samples = torch.from_numpy(random_images(20, seed=4))
    found = evaluator.likelihoods(as_run(model, tmp_path, toys), samples)
    assert [each.levels for each in found] == [256, 2]
    test = data.test.images[choice(20, 1000, 0)]
    for given, expected in zip(asked, (test, samples, test, samples), strict=True):
        expected = np.asarray(expected)
        rounded = np.where(expected > 127, 255, 0)
        wanted = expected if given is asked[0] or given is asked[1] else rounded
        assert np.array_equal(given.numpy(), wanted)


def test_images_that_are_black_and_white_already_are_asked_about_once(toys, tmp_path):
    data = open_npz(tmp_path, toys, (random_images(200) > 127).astype(np.uint8) * 255)
    evaluator = Evaluator.choose(toys, data, protocol(samples=20, features="none"))
    model = Constant(nats=lambda images: -images.flatten(1).square().sum(1))
    model.likelihood_levels = lambda: (2, 256)
    samples = torch.from_numpy(random_images(20, seed=4))
    assert len(evaluator.likelihoods(as_run(model, tmp_path, toys), samples)) == 1


@pytest.mark.parametrize("levels", [(), (1,), (257,), (2.0,)])
def test_versions_that_are_not_numbers_of_levels_are_a_plugins_fault(evaluator, tmp_path, levels):
    model = Constant(nats=lambda images: -images.flatten(1).square().sum(1))
    model.likelihood_levels = lambda: levels
    row = evaluator.evaluate_run(as_run(model, tmp_path, evaluator.registry))
    assert row.likelihood is None and row.scores
    assert "likelihood_levels() must return whole numbers from 2 to 256" in row.problems[0]


def test_a_model_that_sees_what_it_must_predict_finds_its_own_samples_impossible(judges):
    """Beside it an honest model, which finds them about as likely as test images."""
    _, rows = judges
    assert not any(found.leaks for row in rows for found in row.likelihoods)
    found = rows[1].likelihood.model_copy(update={"nats": -10.0, "own": -400.0})
    leaking = rows[1].model_copy(update={"likelihood": found, "likelihoods": (found,)})
    notes = footnotes(rank([leaking], []))
    assert any("finds its own samples far less likely than test images" in note for note in notes)


def test_too_few_real_images_cost_their_row_only(tmp_path, monkeypatch):
    """Scores need ten; of forty images four are held out."""
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))
    data = open_npz(tmp_path, registry(), bright_squares(40, (1, 28, 28)))
    evaluator = Evaluator.choose(registry(), data, protocol(samples=12, features="digits"))
    real, noise = evaluate(["real", "noise"], evaluator, load=None)
    assert real.scores == {} and "4 samples are too few" in real.error
    assert noise.scores["fid"] > 0


# ---- the reference


def test_the_reference_is_the_training_split_computed_once(toys, tmp_path):
    data = open_npz(tmp_path, toys, random_images(200))
    extractor = Brightness(Config())
    first = reference_for(data, extractor)
    assert (first.name, first.count) == (f"{data.name} train", 180)
    features = Brightness(Config())(torch.from_numpy(data.train.images))[0].double()
    Brightness.calls = 0
    torch.testing.assert_close(first.statistics.mean.double(), features.mean(0))
    torch.testing.assert_close(first.statistics.covariance, features.T.cov())
    assert Brightness.calls == 180
    again = reference_for(data, extractor)
    assert torch.equal(again.statistics.covariance, first.statistics.covariance)
    assert len(again.test.features) == 20 and Brightness.calls == 200


def test_other_data_has_a_reference_of_its_own(toys, tmp_path):
    extractor = Brightness(Config())
    first = reference_for(open_npz(tmp_path, toys, random_images(200)), extractor)
    second = reference_for(open_npz(tmp_path, toys, random_images(200, seed=1)), extractor)
    assert first.name == second.name
    assert not torch.equal(first.statistics.mean, second.statistics.mean)


def test_statistics_that_an_extractor_ships_are_used(toys, tmp_path):
    shipped = Statistics(torch.zeros(2), torch.eye(2, dtype=torch.float64), 60_000)

    class Shipping(Brightness):
        def shipped_statistics(self, reference):
            return shipped if reference == "mnist-train" else None

    extractor = Shipping(Config())
    data = open_npz(tmp_path, toys, random_images(200))
    assert reference_for(data, extractor).count == 180
    reference = reference_for(replace(data, reference="mnist-train"), extractor)
    assert (reference.name, reference.count) == ("mnist-train", 60_000)
    assert reference.statistics is shipped and Brightness.calls == 0


# ---- targets


def test_samples_in_files_score_as_the_run_they_came_from(evaluator, tmp_path):
    run = train_tiny("vae", write_npz(tmp_path / "d.npz"), tmp_path / "run", budget="5steps")
    images = run.sample(30)
    save_samples(images, tmp_path / "samples.npz")
    save_samples(images, tmp_path / "samples")
    targets = [str(tmp_path / name) for name in ("run", "samples.npz", "samples")]
    rows = evaluate(targets, evaluator, load=lambda path: run)
    assert [row.name for row in rows] == ["vae", *targets[1:]]
    assert rows[0].scores == rows[1].scores == rows[2].scores
    assert rows[0].parameters > 0 and rows[0].images == 40 and rows[0].seconds > 0
    assert rows[0].likelihood.kind == "bound"
    assert rows[0].card.weights == "ema"


def test_two_runs_of_one_model_are_told_apart_and_a_target_given_twice_is_scored_once(
    evaluator, tmp_path
):
    runs = {
        str(path): as_run(Constant(), path, evaluator.registry)
        for path in (tmp_path / "a", tmp_path / "b")
    }
    for path in runs:
        Path(path).mkdir()
        (Path(path) / "config.json").write_text("{}")
    rows = evaluate([*runs, *runs], evaluator, load=runs.__getitem__)
    assert [row.name for row in rows] == ["a", "b"]


@pytest.mark.parametrize("shape", [(1, 4, 16), (1, 16, 4), (1, 8, 9), (1, 7, 8)])
def test_images_of_another_shape_are_refused(evaluator, tmp_path, shape):
    """Also of as many pixels in another arrangement."""
    run = as_run(Constant(shape=shape), tmp_path, evaluator.registry)
    message = f"{' x '.join(map(str, shape))}.*1 x 8 x 8"
    with pytest.raises(UsageError, match=message):
        evaluator.evaluate_run(run)
    save_samples(torch.zeros(30, *shape, dtype=torch.uint8), tmp_path / "samples.npz")
    with pytest.raises(UsageError, match=message):
        evaluate([str(tmp_path / "samples.npz")], evaluator, load=None)


def test_files_are_scored_whole_or_by_as_many_as_are_asked_for(evaluator, tmp_path):
    images = torch.from_numpy(random_images(50, seed=3))
    save_samples(images, tmp_path / "samples.npz")
    target = str(tmp_path / "samples.npz")
    (some,) = evaluate([target], evaluator, load=None)
    assert some.card.samples == 30
    whole = replace(evaluator, protocol=protocol())
    rows = evaluate([target, "noise"], whole, load=None)
    assert [row.card.samples for row in rows] == [50, 50]  # the noise, too


def test_scoring_a_run_leaves_a_picture_of_the_nearest_neighbours(evaluator, tmp_path):
    evaluator.evaluate_run(as_run(Constant(), tmp_path, evaluator.registry))
    with Image.open(tmp_path / "neighbours.png") as panel:
        assert panel.size == (16 * 10 + 2, 3 * 10 + 2)  # samples, by pixels, by features


def test_copies_are_flagged_and_real_images_are_not(evaluator):
    evaluator = replace(evaluator, protocol=protocol(samples=300))
    real, copy = evaluate(["real", "copy"], evaluator, load=None)
    assert copy.memorisation.pixels == copy.memorisation.features == 1
    assert copy.memorisation.flagged
    assert not real.memorisation.flagged


def test_classes_do_not_matter_to_the_shape(evaluator, tmp_path):
    model = Constant()
    model.image_shape = ImageShape(*SHAPE, classes=10)
    assert evaluator.evaluate_run(as_run(model, tmp_path, evaluator.registry)).scores


def test_a_target_that_does_not_exist_is_refused(evaluator, tmp_path):
    with pytest.raises(UsageError, match="nothing does not exist"):
        evaluate([str(tmp_path / "nothing")], evaluator, load=None)


def test_features_that_cannot_take_the_images_are_refused_at_once(toys, tmp_path):
    data = open_npz(tmp_path, toys, random_images(20, (1, 101, 8)))
    with pytest.raises(UsageError, match="brightness takes small images"):
        Evaluator.choose(toys, data, protocol())
    with pytest.raises(UsageError, match="Did you mean 'brightness'"):
        Evaluator.choose(toys, data, protocol(features="brightnes"))


# ---- metrics


@pytest.mark.parametrize(
    "answer, kept, complaint",
    [
        (
            {"distance": 1.0, "distence": 2.0},
            {"distance": 1},
            "'distence' = 2.0, which is not",
        ),
        ({"distance": Estimate(1.0, torch.inf)}, {}, "'distance' = Estimate.*inf.*not a finite"),
        ({"distance": torch.nan, "count": 1}, {"count": 1}, "'distance' = nan, not a finite"),
        ({"distance": "far", "count": 1}, {"count": 1}, "'distance' = 'far', not a finite"),
        ({"distance": torch.ones(2), "count": True}, {"count": 1}, "not a finite number"),
        (None, {}, "returned NoneType, not a dict"),
        (3.5, {}, "returned float, not a dict"),
    ],
)
def test_a_metrics_wrong_answer_costs_that_column_and_is_a_line_in_the_row(
    evaluator, monkeypatch, answer, kept, complaint
):
    here = sys.modules[__name__]

    monkeypatch.setattr(here, "distance", lambda *arguments: answer)
    found = evaluator.score(evaluator.image_set(torch.zeros(30, *SHAPE, dtype=torch.uint8)))
    assert found.values == kept and found.deviations == {}
    (problem,) = found.problems
    assert re.search(f"metric 'distance' of torch-genkit {__version__} returned.*", problem)
    assert re.search(complaint, problem) and f"({__name__}:distance)" in problem


@pytest.mark.parametrize("error", [RuntimeError("no\nroom"), SystemExit(0), MemoryError()])
def test_a_metric_that_raises_is_reported_once_and_the_others_score(evaluator, monkeypatch, error):
    here = sys.modules[__name__]

    def fail(*arguments):
        raise error

    heard = Heard()
    evaluator = replace(evaluator, reporter=heard)
    metrics = evaluator.registry.metrics
    spec = replace(metrics["distance"].spec, target=f"{__name__}:fail", name="fails")
    spec = replace(spec, columns=(Column(name="failing", title="F", better="lower"),))
    monkeypatch.setattr(here, "fail", fail, raising=False)
    metrics["fails"] = replace(metrics["distance"], spec=spec)
    rows = evaluate(["real", "noise"], evaluator, load=None)
    for row in rows:
        assert set(row.scores) == {"distance", "count"}
        (problem,) = row.problems
        assert f"'fails' of torch-genkit {__version__} failed: {type(error).__name__}" in problem
        assert "test_evaluator.py:" in problem and "\n" not in problem
    assert heard.said == [problem]


def test_nothing_scored_at_all_is_a_plugin_error(evaluator, monkeypatch):
    here = sys.modules[__name__]

    monkeypatch.setattr(here, "distance", lambda *arguments: None)
    with pytest.raises(PluginError, match="nothing could be scored: metric 'distance' of torch"):
        evaluate(["noise"], evaluator, load=None)


def test_likelihood_that_fails_costs_no_score(evaluator, tmp_path):
    def nats(images):
        raise RuntimeError("no room")

    row = evaluator.evaluate_run(as_run(Constant(nats=nats), tmp_path, evaluator.registry))
    assert row.likelihood is None and row.scores["count"] == 30
    (problem,) = row.problems
    assert problem.startswith("the likelihood of constant failed: RuntimeError: no room (")


def test_slow_metric_is_named(evaluator, monkeypatch):
    import genkit.evaluation.measure

    heard = Heard()
    evaluate(["noise"], replace(evaluator, reporter=heard), load=None)
    assert heard.said == []
    monkeypatch.setattr(genkit.evaluation.measure, "SLOW_SECONDS", -1.0)
    evaluate(["noise"], replace(evaluator, reporter=heard), load=None)
    assert heard.said == ["metric 'distance' took 0 s"]


def test_what_a_metric_says_to_its_user_reaches_them(evaluator, monkeypatch):
    here = sys.modules[__name__]

    def refuse(*arguments):
        raise UsageError("too few samples")

    monkeypatch.setattr(here, "distance", refuse)
    with pytest.raises(UsageError, match="too few samples"):
        evaluator.score(evaluator.image_set(torch.zeros(30, *SHAPE, dtype=torch.uint8)))


def test_digits_are_scored_with_the_features_that_come_with_genkit(tmp_path, monkeypatch):
    """Real digits score better than noise, and shipped statistics stand for the reference."""
    from genkit.config.run import RunConfig

    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))
    data = load_data(registry(), RunConfig(data="mnist-mini"))
    evaluator = Evaluator.choose(registry(), data, protocol(samples=100, features=None))
    real, noise = evaluate(["real", "noise"], evaluator, load=None)
    assert real.card.reference == "mnist-train"
    assert real.card.features.startswith("digits-")
    assert real.scores["fid"] < noise.scores["fid"] / 5
    assert 1 <= noise.scores["is"] < real.scores["is"] <= 10
    assert np.isfinite(list(real.scores.values())).all()
    assert "torch-fidelity" not in real.card.versions
