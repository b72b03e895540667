"""Runs: what lies in their directory, what a budget counts, and who may listen."""

import json
import time
import types

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from toys import QUIET, SHAPE, TINY, bright_squares, registry, train_tiny, write_npz

import genkit
from genkit.errors import CheckpointError, GenkitError, TrainingError, UsageError
from genkit.hookspecs import hookimpl
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir
from genkit.registry.catalogue import load_registry
from genkit.registry.plugin import Plugin
from genkit.runs import checkpoint
from genkit.sampling.grids import make_grid
from genkit.training import runner
from genkit.training import train as training
from genkit.training.loop import Loop
from genkit.training.resume import resume


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "data.npz")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """A VAE after 8 steps, with 3 grids."""
    path = tmp_path_factory.mktemp("runs") / "run"
    return train_tiny("vae", data, path, budget="8steps", grids=3, seed=7)


def test_a_run_directory_holds_what_later_commands_need(run):
    names = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    steps = ("000000000", "000000004", "000000008")
    assert names == {
        ".lock",
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "model.safetensors",
        "checkpoints/last.json",
        "checkpoints/step-000000008.json",
        "checkpoints/step-000000008.safetensors",
        *(f"samples/step-{step}.png" for step in steps),
        *(f"samples/reconstructions-{step}.png" for step in steps),
        "samples/interpolation.png",
    }


def test_the_config_holds_each_value_its_source_and_the_origin(run, data):
    config = json.loads((run.path / "config.json").read_text())
    assert config["model"] == "vae"
    assert config["options"].keys() == type(run.model.config).model_fields.keys()
    assert config["options"]["latent"] == 4 and config["run"]["seed"] == 7
    assert config["sources"]["options.latent"] == config["sources"]["run.seed"] == "given"
    assert config["sources"]["preset"] == "full"
    assert config["image_shape"] == {"channels": 1, "height": 8, "width": 8, "classes": 0}
    assert config["precision"] == "fp32" and config["device"] == "cpu"
    assert config["parameters"] == sum(p.numel() for p in run.model.parameters())
    assert config["data"]["name"] == data and len(config["data"]["fingerprint"]) == 64
    assert config["data"]["train_images"] + config["data"]["test_images"] == 120
    origin = config["provenance"]
    assert origin["genkit"] == genkit.__version__ and origin["torch"] == torch.__version__
    assert origin["plugin"] == f"torch-genkit {genkit.__version__}"
    assert {"python", "versions", "command", "commit", "started"} <= origin.keys()
    assert "genkit_vae" not in json.dumps(config["options"]) + config["model"]


def test_metrics_hold_a_line_every_two_steps(run):
    rows = [row for row in RunDir(run.path).read_metrics() if "seconds" in row]
    assert [(row["step"], row["images"]) for row in rows] == [(2, 16), (4, 32), (6, 48), (8, 64)]
    keys = {"elbo/loss", "elbo/reconstruction_nats", "elbo/kl_nats", "seconds", "images_per_second"}
    assert all(keys < row.keys() for row in rows)
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds) and run.summary.seconds >= seconds[-1]


def test_the_weights_are_the_averaged_ones(run):
    from genkit.runs.checkpoint import load_state

    state, _ = load_state(run.path / "checkpoints")
    saved = load_file(run.path / "model.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in state["loop"]["average"].items())
    assert any(not torch.equal(saved[k], v) for k, v in state["loop"]["model"].items())
    assert run.summary.weights == "ema"


def test_grids_show_the_same_noise_each_time(run, data, tmp_path):
    """The last grid is what the run's model makes of seed 0; with all rates at nothing, grids
    do not change at all."""
    with Image.open(run.path / "samples" / "step-000000008.png") as last:
        assert np.array_equal(np.asarray(last), np.asarray(make_grid(run.sample(64, seed=0))))
    still = train_tiny(
        "vae", data, tmp_path / "still", budget="3steps", grids=4, learning_rate=1e-30
    )
    contents = {path.read_bytes() for path in (still.path / "samples").glob("step-*.png")}
    assert len(list((still.path / "samples").glob("step-*.png"))) == 4 and len(contents) == 1


def test_reconstructions_stand_beside_unseen_images(run):
    with Image.open(run.path / "samples" / "reconstructions-000000008.png") as grid:
        pixels = np.asarray(grid)
    held_out = 12  # of 120 images
    tiles = [pixels[2:10, 2 + 10 * i : 10 + 10 * i] for i in range(4)]
    images = bright_squares(120)[:, 0]
    assert any(np.array_equal(tiles[0], image) for image in images)
    assert any(np.array_equal(tiles[2], image) for image in images)
    assert grid.width == 2 + 10 * int(np.ceil(np.sqrt(2 * held_out)))


@pytest.mark.parametrize(
    "count, steps",
    [(0, []), (1, [6]), (2, [0, 6]), (3, [0, 3, 6]), (4, [0, 2, 4, 6]), (50, range(7))],
)
def test_as_many_grids_are_written_as_promised(tmp_path, data, count, steps):
    run = train_tiny("dcgan", data, tmp_path / "run", budget="6steps", grids=count)
    names = sorted(path.name for path in (run.path / "samples").glob("step-*"))
    assert names == [f"step-{step:09d}.png" for step in steps]


def test_a_resumed_run_writes_the_grids_of_its_new_budget(tmp_path, data):
    run = train_tiny("dcgan", data, tmp_path / "run", budget="2steps", grids=3)
    resume(run.path, registry(), budget="6steps")
    names = sorted(path.name for path in (run.path / "samples").glob("step-*"))
    assert names == [f"step-{step:09d}.png" for step in (0, 1, 2, 3, 6)]


# ---- budgets


@pytest.mark.parametrize(
    "budget, step",
    [("5steps", 5), ("0.05kimg", 7), ("0.5epochs", 7), ("2epochs", 27)],  # of 108 images
)
def test_a_budget_ends_training_when_it_is_spent(tmp_path, data, budget, step):
    run = train_tiny("vae", data, tmp_path / "run", budget=budget)
    assert run.summary.step == step and run.summary.images == 8 * step


def test_a_budget_of_seconds_counts_iterations_only(tmp_path, data, monkeypatch):
    """Steps of a tenth of a second; grids, checkpoints and listeners that take far longer."""
    clock = [0.0]
    iterate, draw, save = Loop.iterate, runner.draw, checkpoint.save_state

    def slowly(function, seconds):
        def wrapped(*arguments, **options):
            clock[0] += seconds
            return function(*arguments, **options)

        return wrapped

    fake = types.SimpleNamespace(
        perf_counter=lambda: clock[0], monotonic=lambda: clock[0], strftime=time.strftime
    )
    monkeypatch.setattr(runner, "time", fake)
    monkeypatch.setattr(Loop, "iterate", slowly(iterate, 0.1))
    monkeypatch.setattr(runner, "draw", slowly(draw, 100.0))
    monkeypatch.setattr(checkpoint, "save_state", slowly(save, 1000.0))
    run = train_tiny("vae", data, tmp_path / "run", budget="0.95s", grids=5)
    assert run.summary.step == 10
    assert run.summary.seconds == pytest.approx(1.0)
    rows = [row for row in RunDir(run.path).read_metrics() if "seconds" in row]
    assert [row["images_per_second"] for row in rows] == pytest.approx([80.0] * 5)


def test_checkpoints_are_written_on_the_way(tmp_path, data):
    steps = []

    class Listener:
        @hookimpl
        def on_checkpoint(self, step, path):
            assert path.exists()
            steps.append(step)

    train_with(Listener(), data, tmp_path / "run", checkpoint_seconds=1e-9, budget="4steps")
    assert steps == [1, 2, 3, 4]


# ---- values that are not finite


def break_extras(monkeypatch, value):
    from genkit_vae.model import VAE

    plain = VAE.loss

    def loss(self, batch):
        loss, extras = plain(self, batch)
        return loss, {**extras, "odd": torch.tensor(value)}

    monkeypatch.setattr(VAE, "loss", loss)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_null_in_the_metrics(tmp_path, data, monkeypatch, value):
    break_extras(monkeypatch, value)
    reported = []
    reporter = Reporter()
    reporter.update = reported.append
    run = train_tiny("vae", data, tmp_path / "run", reporter, budget="4steps")
    text = (run.path / "metrics.jsonl").read_text()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [row["elbo/odd"] for row in rows] == [None, None]
    assert all("elbo/odd" not in state.values for state in reported)
    assert all("elbo/loss" in state.values for state in reported)


def test_a_loss_that_is_not_finite_ends_the_run_without_new_weights(tmp_path, data, monkeypatch):
    from genkit_dcgan.model import DCGAN

    plain = DCGAN.discriminator_loss
    calls = []

    def loss(self, batch):
        calls.append(1)
        found, extras = plain(self, batch)
        return found * (float("inf") if len(calls) == 4 else 1), extras

    monkeypatch.setattr(DCGAN, "discriminator_loss", loss)
    monkeypatch.setenv("GENKIT_NO_CHECKS", "1")  # they call it, too
    with pytest.raises(TrainingError, match="phase 'discriminator' became inf in step 4"):
        train_tiny("dcgan", data, tmp_path / "run", budget="9steps")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(CheckpointError, match="saved no weights yet"):
        genkit.load(tmp_path / "run")


def test_weights_that_are_not_finite_are_never_saved(tmp_path, data, monkeypatch):
    plain = Loop.iterate

    def iterate(self, progress):
        logs = plain(self, progress)
        with torch.no_grad():
            next(self.model.parameters()).fill_(torch.nan)
        return logs

    monkeypatch.setattr(Loop, "iterate", iterate)
    with pytest.raises(TrainingError, match="no longer finite after step 1"):
        train_tiny("vae", data, tmp_path / "run", budget="1steps")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


# ---- listeners


def train_with(listener, data, path, reporter=None, **options):
    """A run that a plugin object of the test's own listens to."""
    found = load_registry()
    found.plugins.register(listener, Plugin("listener", "torch-genkit-test", "1"))
    given = {**TINY["vae"], **QUIET, "data": data, **options}
    return training.train_by_name(found, "vae", run_dir=path, reporter=reporter, given=given)


def test_a_listener_hears_of_every_event_in_order(tmp_path, data):
    heard = []

    class Listener:
        @hookimpl
        def on_run_start(self, run):
            heard.append(("start", run))

        @hookimpl
        def on_log(self, run, step, values):
            assert all(isinstance(value, float) for value in values.values())
            heard.append(("log", step))

        @hookimpl
        def on_sample(self, step, path):
            assert path.exists()
            heard.append(("sample", step))

        @hookimpl
        def on_checkpoint(self, step, path):
            heard.append(("checkpoint", step))

        @hookimpl
        def on_run_end(self, run, status):
            heard.append(("end", status))

    path = tmp_path / "run"
    train_with(Listener(), data, path, budget="4steps", grids=2)
    assert heard == [
        *[("start", path), ("sample", 0), ("log", 2), ("log", 4)],
        *[("sample", 4), ("checkpoint", 4), ("end", "finished")],
    ]


def test_a_listener_that_fails_is_muted_and_training_goes_on(tmp_path, data):
    calls, said = [], []

    class Listener:
        @hookimpl
        def on_log(self, step):
            calls.append(step)
            raise ValueError("no route to host")

        @hookimpl
        def on_run_end(self, status):
            calls.append(status)

    reporter = Reporter()
    reporter.say = said.append
    run = train_with(Listener(), data, tmp_path / "run", reporter, budget="8steps")
    assert calls == [2] and run.summary.step == 8
    muted = [line for line in said if "muted" in line]
    assert len(muted) == 1 and "listener" in muted[0] and "no route to host" in muted[0]


def test_an_exception_ends_the_run_as_failed(tmp_path, data, monkeypatch):
    heard = []

    class Listener:
        @hookimpl
        def on_run_end(self, status):
            heard.append(status)

    monkeypatch.setattr(Loop, "iterate", lambda self, progress: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_with(Listener(), data, tmp_path / "run", budget="8steps")
    assert heard == ["failed"]


# ---- the Python interface


def test_train_load_and_sample_from_python(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {**TINY["dcgan"], **QUIET, "budget": "3steps"}
    first = genkit.train("dcgan", data=data, progress="none", **options)
    assert first.path.parts[0] == "runs" and first.path.name.startswith("dcgan-npz-")
    (tmp_path / "runs" / "other").mkdir()
    loaded = genkit.load(str(first.path), device="cpu")
    images = loaded.sample(16)
    assert images.shape == (16, *SHAPE) and images.dtype == torch.uint8
    assert torch.equal(images, first.sample(16))
    assert np.array_equal(np.asarray(loaded.grid(16)), np.asarray(make_grid(images)))
    second = genkit.train("dcgan", data=data, progress="none", **options)
    assert second.path != first.path and torch.equal(second.sample(16), images)


def test_sampling_needs_no_data_and_no_checkpoints(run, tmp_path):
    import shutil

    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(run.path / name, moved)
    assert torch.equal(genkit.load(moved, device="cpu").sample(5), run.sample(5))


def test_loading_leaves_torchs_random_numbers_alone(run):
    state = torch.get_rng_state()
    genkit.load(run.path, device="cpu")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_directory_that_is_taken_is_refused_before_training(tmp_path, data):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not empty"):
        train_tiny("vae", data, tmp_path, budget="2steps")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "model, options, complaint",
    [
        ("vae", {"latent": 0}, "--latent"),
        ("vae", {"latnet": 3}, "Did you mean 'latent'"),
        ("vae", {"budget": "soon"}, "--budget"),
        ("vae", {"device": "gpu"}, "--device 'gpu' is not a device"),
        ("vae", {"data": "npz:nothing.npz"}, "does not exist"),
        ("vea", {}, "Did you mean 'vae'"),
        ("dcgan", {"batch_size": 1}, "--batch-size"),
    ],
)
def test_bad_input_is_refused_and_leaves_no_directory(tmp_path, data, model, options, complaint):
    given = {**QUIET, "data": data, "budget": "2steps", **options}
    with pytest.raises(UsageError, match=complaint):
        genkit.train(model, run_dir=tmp_path / "run", progress="none", **given)
    assert not (tmp_path / "run").exists()


def test_images_that_a_model_cannot_take_are_refused(tmp_path):
    data = write_npz(tmp_path / "data.npz", bright_squares(30, (1, 4, 4)))
    with pytest.raises(UsageError, match="1 x 4 x 4"):
        train_tiny("vae", data, tmp_path / "run", budget="2steps")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, data, monkeypatch):
    run = train_tiny("vae", data, tmp_path / "run", budget="3steps")
    before = {p: p.read_bytes() for p in run.path.rglob("step-*.safetensors")}

    def full(path, content):
        raise GenkitError(f"{path} could not be written: No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    with pytest.raises(GenkitError, match="No space left"):
        resume(run.path, registry(), budget="5steps")
    monkeypatch.undo()
    assert before == {p: p.read_bytes() for p in run.path.rglob("step-*.safetensors")}
    assert resume(run.path, registry(), budget="5steps").summary.step == 5


def test_labels_reach_the_loss(tmp_path, monkeypatch):
    from genkit_vae.model import VAE

    plain, seen = VAE.loss, []

    def loss(self, batch):
        seen.extend(zip(batch.images[:, 0, 0, 0].tolist(), batch.labels.tolist(), strict=True))
        return plain(self, batch)

    monkeypatch.setattr(VAE, "loss", loss)
    monkeypatch.setenv("GENKIT_NO_CHECKS", "1")  # they call it, too
    images = bright_squares(60)
    labels = (images[:, 0, 0, 0] > 0).astype(np.int64)
    data = write_npz(tmp_path / "data.npz", images, labels=labels)
    train_tiny("vae", data, tmp_path / "run", budget="3steps")
    assert len(seen) == 24 and all((pixel > 0) == label for pixel, label in seen)
