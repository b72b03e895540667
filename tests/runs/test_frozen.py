"""Runs that another run uses: copied into it, checked, and left out of what it learns and saves."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import QUIET, bright_squares, same_bits, write_npz

from genkit.errors import CheckpointError, UsageError
from genkit.registry.catalogue import load_registry
from genkit.runs import checkpoint
from genkit.runs.export import export
from genkit.runs.run import load_run
from genkit.testing import PromiseBroken, check_trainer
from genkit.training.resume import resume
from genkit.training.train import train_by_name

PLUGIN = Path(__file__).with_name("frozen_plugin.py")


@pytest.fixture(scope="module")
def loaded():
    """A registry that knows the two models, as do all that are loaded later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENKIT_PLUGINS", str(PLUGIN))
        yield load_registry()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "images.npz", bright_squares(60, (1, 4, 4)))


@pytest.fixture(scope="module")
def originals(loaded, data, tmp_path_factory):
    """A teacher and a first stage."""
    folder = tmp_path_factory.mktemp("originals")
    for name, factor in (("teacher", 1.0), ("first", 0.25)):
        train(loaded, "mean", folder / name, data=data, budget="20steps", factor=factor)
    return folder


def train(loaded, model, path, **options):
    return train_by_name(loaded, model, run_dir=path, given={**QUIET, "batch_size": 8, **options})


@pytest.fixture
def lent(originals, tmp_path):
    """Copies of both that a test may take away."""
    shutil.copytree(originals, tmp_path / "lent")
    return tmp_path / "lent"


def pupil(loaded, path, lent, data, **options):
    both = {"teacher": str(lent / "teacher"), "first": str(lent / "first")}
    return train(loaded, "pupil", path, data=data, **both, **options)


def state_of(path):
    return checkpoint.load_state(path / "checkpoints")[0]["loop"]


def test_run_stays_whole_after_the_runs_that_it_uses_are_gone(loaded, lent, data, tmp_path):
    whole = pupil(loaded, tmp_path / "whole", lent, data, budget="12steps")
    pupil(loaded, tmp_path / "parted", lent, data, budget="5steps")
    shutil.rmtree(lent)
    done = resume(tmp_path / "parted", loaded, budget="12steps")
    assert same_bits(state_of(tmp_path / "parted"), state_of(tmp_path / "whole"))
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "parted", moved)
    again = load_run(moved, load_registry()).sample(5)
    assert torch.equal(again, whole.sample(5)) and torch.equal(done.sample(5), again)


def test_frozen_runs_are_neither_saved_nor_averaged_with_the_model(loaded, lent, data, tmp_path):
    run = pupil(loaded, tmp_path / "run", lent, data, budget="2steps")
    assert set(load_file(run.directory.weights_path)) == {"mean"}
    assert set(state_of(run.path)["average"]) == set(state_of(run.path)["model"]) == {"mean"}
    before = load_file(lent / "teacher" / "model.safetensors")
    assert same_bits(before, load_file(run.path / "runs/teacher/model.safetensors"))
    assert not any(p.requires_grad for p in run.model.frozen("first").parameters())


def test_pupil_learns_from_its_teacher_and_draws_with_its_first_stage(loaded, lent, data, tmp_path):
    run = pupil(loaded, tmp_path / "run", lent, data, budget="400steps", ema_half_life=0)
    taught, teacher = run.model.mean, run.model.frozen("teacher").mean
    assert torch.corrcoef(torch.stack([taught, teacher]))[0, 1] > 0.9
    assert run.model.weight == 0.25  # the factor of the first stage


def test_config_records_the_runs_by_hash(loaded, lent, data, tmp_path):
    import hashlib

    run = pupil(loaded, tmp_path / "run", lent, data, budget="1steps")
    recorded = json.loads((run.path / "config.json").read_text())["runs"]
    digest = hashlib.sha256((lent / "first" / "model.safetensors").read_bytes()).hexdigest()
    assert recorded["first"] == {"model": "mean", "sha256": digest}


def test_damaged_copy_is_refused_by_name(loaded, lent, data, tmp_path):
    run = pupil(loaded, tmp_path / "run", lent, data, budget="1steps")
    weights = run.path / "runs/first/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for use in (lambda: resume(run.path, loaded), lambda: load_run(run.path, loaded)):
        with pytest.raises(CheckpointError, match=r"first/model\.safetensors is damaged"):
            use()


def test_what_cannot_be_used_is_refused_before_anything_is_written(loaded, lent, data, tmp_path):
    other = write_npz(tmp_path / "other.npz", bright_squares(60, (1, 6, 6)))
    for problem, changes in {
        "--first: name the run to use": {"teacher": str(lent / "teacher")},
        "--first: .*nowhere does not exist": {"first": str(tmp_path / "nowhere")},
        "--first .* makes images of 1 x 4 x 4, those of the data are 1 x 6 x 6": {
            "first": str(lent / "first"),
            "data": other,
        },
    }.items():
        with pytest.raises(UsageError, match=problem):
            train(loaded, "pupil", tmp_path / "run", **{"data": data, **changes})
    assert not (tmp_path / "run").exists()


def test_a_run_may_use_runs_that_use_runs(loaded, lent, data, tmp_path):
    first = pupil(loaded, tmp_path / "first", lent, data, budget="3steps")
    both = {"teacher": str(lent / "teacher"), "first": str(lent / "first")}
    # a Pupil has no factor, so it is the teacher of another one
    run = train(
        loaded, "pupil", tmp_path / "run", data=data, budget="3steps",
        **{**both, "teacher": str(first.path)},
    )  # fmt: skip
    shutil.rmtree(lent), shutil.rmtree(first.path)
    assert (run.path / "runs/teacher/runs/first/model.safetensors").is_file()
    taught = load_run(run.path, load_registry()).model.frozen("teacher")
    assert taught.frozen("first").config.factor == 0.25


def test_export_holds_the_runs_that_samples_need_and_no_others(loaded, lent, data, tmp_path):
    run = pupil(loaded, tmp_path / "run", lent, data, budget="2steps")
    drawn = load_run(run.path, loaded)
    done = export(drawn, tmp_path / "out")
    assert {"runs/first/config.json", "runs/first/model.safetensors"} <= set(done["files"])
    assert not (tmp_path / "out/runs/teacher").exists()
    assert str(tmp_path) not in (tmp_path / "out/config.json").read_text()
    assert str(tmp_path) not in (tmp_path / "out/runs/first/config.json").read_text()
    shutil.rmtree(run.path), shutil.rmtree(lent)
    again = load_run(tmp_path / "out", load_registry())
    assert torch.equal(again.sample(3), drawn.sample(3))


def test_the_kit_checks_models_that_use_runs(loaded, lent):
    spec = loaded.trainers.find("pupil")
    images = bright_squares(200, (1, 4, 4))
    both = {"teacher": str(lent / "teacher"), "first": str(lent / "first"), "batch_size": 16}
    with pytest.raises(PromiseBroken, match="'layer' is one: call frozen"):
        check_trainer(spec, options={**both, "registers": True}, images=images)
    check_trainer(spec, options=both, images=images)
