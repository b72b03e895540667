"""What depends on step, progress and stages resumes to the same bits."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import QUIET, random_images, same_bits, train_tiny, write_npz

from genkit.config.run import RunConfig
from genkit.errors import UsageError
from genkit.io.run_directory import RunDir
from genkit.registry.catalogue import load_registry
from genkit.runs.build import load_data
from genkit.runs.checkpoint import load_state
from genkit.runs.run import load_run
from genkit.specs import ImageShape
from genkit.training.resume import resume
from genkit.training.train import train_by_name

torch.set_num_threads(1)
TIMES = ("seconds", "images_per_second")
FILE = Path(__file__).parent / "annealed.py"


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setenv("GENKIT_PLUGINS", str(FILE))
    found = load_registry()
    plugin = sys.modules["annealed"]
    plugin.SEEN.clear()
    plugin.STOP.clear()
    yield found
    sys.modules.pop("annealed", None)


@pytest.fixture
def data(tmp_path):
    return write_npz(tmp_path / "data.npz")


def train(registry, data, path, **options):
    given = {**QUIET, "data": data, "batch_size": 8, "ema_half_life": 100, **options}
    return train_by_name(registry, "annealed", run_dir=path, given=given)


def seen():
    """What the losses saw, by the step; each step must see one thing."""
    found = {}
    for step, images, progress in sys.modules["annealed"].SEEN:
        assert found.setdefault(step, (images, progress)) == (images, progress)
    return found


def interrupted(registry, data, path, at, **options):
    """A run stopped in the middle of a step, when progress has come to `at`; what losses saw."""
    plugin = sys.modules["annealed"]
    plugin.STOP["at"] = at
    with pytest.raises(KeyboardInterrupt):
        train(registry, data, path, **options)
    found = seen()
    plugin.STOP.clear()
    plugin.SEEN.clear()
    return found


def state_of(path):
    return load_state(RunDir(path).checkpoints)[0]["loop"]


def log_of(path):
    rows = RunDir(path).read_metrics()
    return [{key: row[key] for key in row if key not in TIMES} for row in rows]


@pytest.mark.parametrize(
    "steps, options",
    [
        (24, {"budget": "24steps"}),
        (24, {"budget": "0.192kimg", "accumulate": 3}),
        (27, {"budget": "2epochs", "cooldown": "50%"}),  # of 108 images
    ],
)
@pytest.mark.parametrize("at", [0.2, 0.45, 0.9])
def test_an_interrupted_run_equals_one_in_one_go(registry, data, tmp_path, steps, options, at):
    options = {**options, "checkpoint_seconds": 1e-9, "log_every": 4}
    train(registry, data, tmp_path / "whole", **options)
    assert seen() == {step: (8 * step, pytest.approx(step / steps)) for step in range(steps)}
    sys.modules["annealed"].SEEN.clear()
    interrupted(registry, data, tmp_path / "part", at, **options)
    resume(tmp_path / "part", registry)
    assert same_bits(state_of(tmp_path / "whole"), state_of(tmp_path / "part"))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "part")
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "part")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_lazy_phases_stages_rates_and_skips_are_in_the_log(registry, data, tmp_path):
    """The log's lines come at steps 4, 8, ...; the lazy phase runs in iterations 0, 5, 10, ..."""
    train(registry, data, tmp_path / "run", budget="24steps", log_every=4)
    rows = {row["step"]: row for row in log_of(tmp_path / "run")}
    assert [step for step in rows if "lazy/loss" in rows[step]] == [4, 8, 12, 16, 24]
    assert [step for step in rows if "first/loss" in rows[step]] == [4, 8, 12]
    assert [step for step in rows if "second/loss" in rows[step]] == [8, 12, 16, 20, 24]
    assert rows[4]["first/learning_rate"] == 0.1 * (1 - 3 / 24)
    assert rows[4]["first/learning_rate_2"] == 0.01 * (1 - 3 / 24)
    # The updates of iterations 22 and 23 are skipped: the last rate is that of iteration 21.
    assert rows[24]["second/learning_rate"] == 0.01 * (1 - 21 / 24)
    assert 0 < rows[8]["second/skipped"] <= rows[24]["second/skipped"] < 18


def test_a_budget_in_seconds_sees_the_same_progress_again(registry, data, tmp_path):
    options = {"budget": "3s", "checkpoint_seconds": 0.2, "log_every": 4}
    first = interrupted(registry, data, tmp_path / "run", 0.8, **options)
    saved = state_of(tmp_path / "run")["step"]
    assert 0 < saved < max(first)
    resume(tmp_path / "run", registry)
    again = seen()
    repeated = first.keys() & again.keys()
    assert len(repeated) == max(first) - saved + 1 > 1
    assert all(first[step] == again[step] for step in repeated)
    progress = [share for _, (_, share) in sorted({**first, **again}.items())]
    assert progress == sorted(progress) and progress[0] == 0 and progress[-1] <= 1
    assert progress[-1] > 0.5  # a busy machine may take long for the last steps


@pytest.mark.parametrize(
    "cooldown, complaint",
    [
        ("20%", "--cooldown: 20% of 10s is not a number of steps known beforehand"),
        ("0.2", "--cooldown: '0.2' is not a share; write for instance 20%"),
        ("120%", "--cooldown: '120%' is not a share"),
    ],
)
def test_cooldowns_that_cannot_be_followed_are_refused(
    registry, data, tmp_path, cooldown, complaint
):
    with pytest.raises(UsageError, match=complaint):
        train(registry, data, tmp_path / "run", budget="10s", cooldown=cooldown)


def test_cooldown_falls_to_zero_linearly_at_the_end(data, tmp_path):
    options = {"budget": "10steps", "log_every": 1}
    rows = {}
    for cooldown in ("0%", "40%"):
        path = tmp_path / cooldown
        train_tiny("dcgan", data, path, cooldown=cooldown, **options)
        rows[cooldown] = RunDir(path).read_metrics()
    assert not any("generator/learning_rate" in row for row in rows["0%"])
    rates = [row["generator/learning_rate"] for row in rows["40%"]]
    first = rates[0]
    assert first > 0
    assert rates == pytest.approx([first] * 7 + [first * share for share in (0.75, 0.5, 0.25)])
    assert rows["0%"][6]["generator/loss"] == rows["40%"][6]["generator/loss"]
    assert rows["0%"][9]["generator/loss"] != rows["40%"][9]["generator/loss"]


def test_cooldown_can_be_given_when_a_run_resumes(data, tmp_path):
    train_tiny("vae", data, tmp_path / "run", budget="6steps")
    run = resume(tmp_path / "run", load_registry(), budget="8steps", cooldown="50%")
    rates = [row["elbo/learning_rate"] for row in RunDir(run.path).read_metrics()]
    assert rates[-1] == pytest.approx(rates[0] / 4)  # before the last of 8 steps: 7/8


# ---- facts about the data


def test_a_model_knows_its_data_and_so_does_one_that_samples_without_it(registry, tmp_path):
    images = random_images(130)
    labels = np.arange(130) % 10 // 4  # 4, 4 and 2 of ten
    path = tmp_path / "labelled.npz"
    write_npz(path, images, labels=labels)
    run = train(registry, f"npz:{path}", tmp_path / "run", budget="2steps")
    chosen = load_data(registry, RunConfig(data=f"npz:{path}")).train
    values = chosen.images / 127.5 - 1
    resumed = resume(run.path, registry, budget="3steps")
    path.unlink()
    again = load_run(run.path, registry).model.image_shape
    for shape in (run.model.image_shape, again, resumed.model.image_shape):
        assert shape.class_names == ("0", "1", "2")
        counts = np.bincount(chosen.labels)
        assert shape.class_shares == pytest.approx(counts / counts.sum())
        assert shape.train_images == len(chosen.images)
        assert shape.mean == pytest.approx(values.mean())
        assert shape.deviation == pytest.approx(values.std())
    assert again == ImageShape(1, 8, 8, 3)  # facts do not count


def test_runs_without_recorded_facts_sample_and_resume(data, tmp_path):
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    config = json.loads((run.path / "config.json").read_text())
    for name in ("class_shares", "mean", "deviation"):
        del config["data"][name]
    (run.path / "config.json").write_text(json.dumps(config))
    shape = load_run(run.path, load_registry()).model.image_shape
    assert (shape.class_shares, shape.mean, shape.deviation) == ((), 0.0, 1.0)
    assert resume(run.path, load_registry(), budget="3steps").summary.step == 3
