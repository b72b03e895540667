"""A training is watched: the best weights stay, and what goes wrong is said with what to try."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import (
    QUIET,
    TINY,
    Constant,
    bright_squares,
    registry,
    same_bits,
    train_tiny,
    write_npz,
)

from genkit.data.datasets import open_data
from genkit.errors import CheckpointError, PluginError, UsageError
from genkit.evaluation.levels import round_to_levels
from genkit.evaluation.likelihood import measure_likelihood
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir
from genkit.model import diverged
from genkit.runs import checkpoint
from genkit.runs.run import load_run
from genkit.training.monitor import Monitor, Observation, nearest_distance
from genkit.training.resume import resume
from genkit.training.train import train_by_name

WATCHED = {"grids": 5, "watch": 64, "log_every": 1}


@pytest.fixture
def data(tmp_path):
    return write_npz(tmp_path / "data.npz")


class Said(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


def rows_with(run, key):
    return [row for row in RunDir(run.path).read_metrics() if key in row]


def monitor_of(data, count=64):
    opened = open_data(registry().datasets.find("npz"), data, data[4:])
    monitor = Monitor(registry(), opened, count, torch.device("cpu"))
    assert monitor.start() == () and monitor.column is None  # features that are not quick
    return monitor


# ---- the best weights


def test_weights_of_the_best_samples_stay_and_are_those_of_their_step(tmp_path, monkeypatch):
    scores = iter([3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(Monitor, "_score", lambda self, samples, reference: next(scores))
    options = {"budget": "8steps", "checkpoint_seconds": 1e-9}  # a checkpoint after each step
    run = train_tiny("vae", "mnist-mini", tmp_path / "run", **{**WATCHED, **options})
    assert [row["kid"] for row in rows_with(run, "kid")] == [3, 1, 2, 4]
    best = checkpoint.read_best(run.directory.checkpoints)
    assert (best.step, best.column, best.value) == (4, "kid", 1.0)
    assert run.summary.best == best
    files = {path.name for path in run.directory.checkpoints.glob("best*")}
    assert files == {"best.json", "best-000000004.safetensors"}
    part = train_tiny(
        "vae", "mnist-mini", tmp_path / "part", **{**WATCHED, "budget": "4steps", "watch": 0}
    )
    assert same_bits(
        load_run(run.path, registry(), best=True).model.state_dict(), part.model.state_dict()
    )
    assert not same_bits(run.model.state_dict(), part.model.state_dict())


def test_kid_of_the_digits_chooses_the_best(tmp_path):
    run = train_tiny("vae", "mnist-mini", tmp_path / "run", **{**WATCHED, "budget": "12steps"})
    found = [row["kid"] for row in rows_with(run, "kid")]
    assert len(found) == 4 and all(map(math.isfinite, found))
    assert checkpoint.read_best(run.directory.checkpoints).value == min(found)


def test_a_resumed_run_remembers_its_best(tmp_path, monkeypatch):
    scores = iter([1.0, 5.0, 5.0])
    monkeypatch.setattr(Monitor, "_score", lambda self, samples, reference: next(scores))
    options = {**WATCHED, "grids": 2, "budget": "3steps"}
    run = train_tiny("vae", "mnist-mini", tmp_path / "run", **options)
    again = resume(run.path, registry(), budget="6steps")
    assert again.summary.best.step == 3
    assert [row["kid"] for row in rows_with(again, "kid")] == [1, 5]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "pointer", "nothing"])
def test_damaged_best_weights_are_refused(tmp_path, data, damage):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    folder = run.directory.checkpoints
    if damage != "nothing":
        checkpoint.save_best(folder, run.model, {"step": 2}, "kid", 1.0)
        assert same_bits(
            load_run(run.path, registry(), best=True).model.state_dict(), run.model.state_dict()
        )
        path = folder / "best-000000002.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        change = {
            "flip": lambda: path.write_bytes(content),
            "cut": lambda: path.write_bytes(content[:-9]),
            "gone": path.unlink,
            "pointer": lambda: (folder / "best.json").write_text('{"step": "x"}'),
        }
        change[damage]()
    with pytest.raises(CheckpointError, match="best"):
        load_run(run.path, registry(), best=True)
    load_run(run.path, registry())  # the last weights are still there


def test_looking_changes_nothing_in_the_training(tmp_path):
    runs = [
        train_tiny(
            "dcgan",
            "mnist-mini",
            tmp_path / str(watch),
            **{**WATCHED, "watch": watch, "budget": "6steps"},
        )
        for watch in (64, 0)
    ]
    states = [checkpoint.load_state(run.directory.checkpoints)[0]["loop"] for run in runs]
    assert same_bits(*states)
    assert not rows_with(runs[1], "diversity") and len(rows_with(runs[0], "diversity")) == 4


def test_a_metric_that_fails_ends_the_scores_and_not_the_training(tmp_path, monkeypatch):
    def fail(self, samples, reference):
        raise PluginError("metric 'kid' failed: no luck")

    monkeypatch.setattr(Monitor, "_score", fail)
    said = Said()
    run = train_tiny("vae", "mnist-mini", tmp_path / "run", said, **{**WATCHED, "budget": "4steps"})
    assert run.summary.step == 4 and run.summary.best is None
    assert (
        said.lines.count("samples are not scored while training: metric 'kid' failed: no luck") == 1
    )
    assert len(rows_with(run, "diversity")) == 4


# ---- diversity


def test_nearest_distance_is_that_of_a_slow_loop():
    vectors = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    nearest = [
        min(float((a - b).norm()) for j, b in enumerate(vectors) if j != i)
        for i, a in enumerate(vectors)
    ]
    assert nearest_distance(vectors) == pytest.approx(sorted(nearest)[4], rel=1e-6)


def test_diversity_is_one_for_other_real_images_and_low_for_a_few_prototypes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 1, 8, 8), "u1")
    monitor = monitor_of(write_npz(tmp_path / "noise.npz", noise), 200)
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (200, 1, 8, 8), "u1"))
    assert monitor.observe(images).diversity == pytest.approx(1, abs=0.1)
    prototypes = images[:10].repeat(20, 1, 1, 1)
    prototypes[:, :, 0, 0] = torch.arange(200).view(-1, 1)
    assert monitor.observe(prototypes).diversity < 0.1


def test_real_images_that_repeat_each_other_have_no_diversity_to_compare_with(data):
    assert monitor_of(data).observe(torch.from_numpy(bright_squares(64))).diversity is None


def test_collapse_is_told_at_the_second_low_look_once_and_again_after_a_recovery(data):
    monitor = monitor_of(data)
    looks = [0.1, 0.1, 0.1, 0.9, 0.1, 0.1, None, 0.1]
    told = [monitor.collapse(Observation(diversity), 0.5) is not None for diversity in looks]
    assert told == [False, True, False, False, False, True, False, False]
    early = monitor_of(data)
    assert not any(early.collapse(Observation(0.1), 0.1) for _ in range(3))


@pytest.mark.parametrize(
    ("looks", "warned"),
    [
        ([0.05, 0.08, 0.23, 0.47, 0.62], False),  # a VAE, a DCGAN and a PixelCNN that learn
        ([0.23, 0.24, 0.35, 0.55, 0.61], False),
        ([0.42, 0.33, 0.9, 1.28, 1.33], False),
        ([0.9, 0.33, 0.28, 0.3, 0.29], True),  # DCGANs that collapse, or never begin
        ([0.04, 0.04, 0.04, 0.05, 0.04], True),
        ([0.6, 0.2, 0.24, 0.2, 0.24], True),
    ],
)
def test_samples_that_become_less_alike_are_no_collapse(
    looks: list[float], warned: bool, data
) -> None:
    monitor = monitor_of(data)
    told = [monitor.collapse(Observation(seen), 0.12 * i) for i, seen in enumerate(looks, 1)]
    assert any(told) == warned


def test_collapse_is_told_with_the_options_that_the_model_has_against_it(data):
    class Cured(Constant):
        cures = ("--r1 1",)

    def told(model):
        monitor = monitor_of(data)
        seen = monitor.observe(torch.zeros(64, 1, 8, 8, dtype=torch.uint8), model)
        low = replace(seen, diversity=0.1)
        assert monitor.collapse(low, 0.5) is None
        return monitor.collapse(low, 0.5)

    assert "; try --r1 1, another --seed, lower learning rates or a larger" in told(Cured())
    assert "; try another --seed, lower learning rates or a larger" in told(Constant())


# ---- trouble, provoked in trainings


def warnings_of(tmp_path, model, data, **options):
    """A run's warnings: those on the screen, after the one line each, are those in its log."""
    said = Said()
    given = {**TINY[model], **QUIET, **WATCHED, "data": data, **options}
    run = train_by_name(registry(), model, run_dir=tmp_path / "run", reporter=said, given=given)
    logged = [(row["step"], row["warning"]) for row in rows_with(run, "warning")]
    shown = [line for line in said.lines if line.startswith("Warning: ")]
    assert shown == [f"Warning: run, step {step}: {text}" for step, text in logged]
    assert list(run.summary.warnings) == [text for _, text in logged]
    return [text for _, text in logged]


def test_a_discriminator_that_wins_outright_is_told_once(tmp_path, data):
    rates = {"generator_rate": 1e-7, "discriminator_rate": 0.02, "grids": 0}
    (warning,) = warnings_of(tmp_path, "dcgan", data, budget="120steps", **rates)
    assert warning.startswith("the discriminator wins outright: it takes ")
    assert "--discriminator-rate than 0.02" in warning


def test_a_game_in_balance_is_no_trouble(tmp_path, data):
    assert warnings_of(tmp_path, "dcgan", data, budget="60steps", grids=0) == []


def test_a_latent_that_says_nothing_is_told(tmp_path, data):
    (warning,) = warnings_of(tmp_path, "vae", data, budget="80steps", beta=100, grids=0)
    assert "posterior collapse" in warning and "--beta than 100" in warning


@pytest.mark.parametrize("model", ["vae", "pixelcnn"])
def test_a_likelihood_that_diverges_is_told(tmp_path, data, model, monkeypatch):
    """The learning rate jumps after 30 good steps, as a bad schedule would have it."""
    from genkit.phases.rates import Rates
    from genkit.training.runner import Runner

    plain = Runner.log

    def log(self, values, rate):
        plain(self, values, rate)
        if self.loop.step == 30:
            for phase in self.loop.phases:
                phase.clip, phase.schedule = None, lambda step: 300.0
            self.loop._rates = Rates(self.loop.phases)

    monkeypatch.setattr(Runner, "log", log)
    warnings = warnings_of(tmp_path, model, data, budget="60steps", grids=0, learning_rate=3e-3)
    assert len(warnings) == 1
    assert "the loss rises again: training diverges" in warnings[0]
    assert "--learning-rate than 0.003" in warnings[0]


def test_a_collapsed_generator_is_told(tmp_path, monkeypatch):
    """A generator that has forgotten its noise."""
    from genkit_dcgan.model import DCGAN

    plain = DCGAN.sample

    def sample(self, n, labels=None, *, generator):
        return plain(self, 1, generator=generator).expand(n, -1, -1, -1)

    monkeypatch.setattr(DCGAN, "sample", sample)
    warnings = warnings_of(tmp_path, "dcgan", "mnist-mini", budget="8steps")
    assert len(warnings) == 1 and "mode collapse" in warnings[0] and "--seed" in warnings[0]


def test_warnings_of_a_resumed_run_are_not_told_again(tmp_path, data):
    rates = {"generator_rate": 1e-7, "discriminator_rate": 0.02, "grids": 0}
    first = warnings_of(tmp_path, "dcgan", data, budget="120steps", **rates)
    again = resume(tmp_path / "run", registry(), budget="140steps")
    assert list(again.summary.warnings) == first


def test_a_model_that_fails_to_say_what_is_wrong_ends_nothing(tmp_path, data, monkeypatch):
    from genkit_vae.model import VAE

    monkeypatch.setattr(VAE, "trouble", lambda self, history: history["nothing"])
    (warning,) = warnings_of(tmp_path, "vae", data, budget="3steps", grids=0)
    assert "VAE.trouble() failed: KeyError" in warning


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        ([5.0] * 4, False),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], False),
        ([10, 5, 2, 2, 2, 2, 2, 2.5, 2.9, 2.9], False),
        ([10, 5, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4], True),
        ([-10.0] * 5 + [-4.0] * 5, True),
    ],
)
def test_a_loss_has_diverged_when_it_is_half_as_large_again(values, expected):
    assert diverged(values) is expected


def test_metrics_stay_json_without_nan(tmp_path):
    run = train_tiny("vae", "mnist-mini", tmp_path / "run", **{**WATCHED, "budget": "4steps"})

    def refuse(name):
        raise AssertionError(name)

    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_samples_that_are_never_dark_are_reported_once(data):
    monitor = monitor_of(data)
    dark, pale = torch.zeros(64, 1, 8, 8, dtype=torch.uint8), torch.full((64, 1, 8, 8), 127)
    assert monitor.pale(dark) is None
    assert "values in [0, 1], where black is 0 and not -1" in monitor.pale(pale.byte())
    assert monitor.pale(pale.byte()) is None


def test_pale_samples_of_pale_images_are_not_reported(tmp_path):
    monitor = monitor_of(write_npz(tmp_path / "pale.npz", 255 - bright_squares(120)))
    assert monitor.pale(torch.full((64, 1, 8, 8), 200, dtype=torch.uint8)) is None


# ---- the likelihood of test images


def test_likelihood_of_test_images_is_logged_as_it_is_scored(data, tmp_path):
    run = train_tiny("vae", data, tmp_path / "run", **{**WATCHED, "budget": "8steps"})
    logged = rows_with(run, "test_nats")
    assert [row["step"] for row in logged] == [2, 4, 6, 8]
    test = open_data(registry().datasets.find("npz"), data, data[4:]).test.images
    found = measure_likelihood(run.model, round_to_levels(torch.from_numpy(test), 2), draws=8)
    assert logged[-1]["test_nats"] == pytest.approx(found.nats, abs=abs(found.nats) * 0.05)
    plain = train_tiny("vae", data, tmp_path / "plain", budget="8steps")
    assert same_bits(run.model.state_dict(), plain.model.state_dict())


def test_best_weights_may_be_those_to_which_test_images_are_most_likely(data, tmp_path):
    options = {**WATCHED, "budget": "8steps", "best_by": "likelihood"}
    run = train_tiny("vae", data, tmp_path / "run", **options)
    values = {row["step"]: row["test_nats"] for row in rows_with(run, "test_nats")}
    best = checkpoint.read_best(run.directory.checkpoints)
    assert best.column == "test_nats"
    assert best.value == max(values.values()) == values[best.step]


def test_model_without_a_likelihood_cannot_be_best_by_it(data, tmp_path):
    with pytest.raises(UsageError, match="dcgan has no likelihood"):
        train_tiny("dcgan", data, tmp_path / "run", budget="1steps", best_by="likelihood")
    assert not (tmp_path / "run").exists()
