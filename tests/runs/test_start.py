"""A training that begins with another run's weights: `genkit train --from`."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from toys import bright_squares, registry, same_bits, train_tiny, write_npz

from genkit.errors import UsageError
from genkit.io.progress import Reporter
from genkit.runs import checkpoint
from genkit.training.resume import resume


class Heard(Reporter):
    """Keeps what is said."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, message):
        self.lines.append(message)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "images.npz", bright_squares(60))


@pytest.fixture(scope="module")
def original(data, tmp_path_factory):
    return train_tiny("vae", data, tmp_path_factory.mktemp("runs") / "vae", budget="3steps")


def state_of(run):
    return checkpoint.load_state(run.directory.checkpoints)[0]["loop"]


def first_state(data, path, original, **options):
    """The state before the first step, of a run that takes another's weights."""
    given = {"budget": "1steps", "from_run": str(original.path), **options}
    heard = Heard()
    run = train_tiny("vae", data, path, heard, **given)
    states = sorted(run.directory.checkpoints.glob("step-*.json"))
    for newer in states[1:]:
        newer.with_suffix(".safetensors").unlink()
    return run, state_of(run), heard.lines


def test_training_begins_with_the_averaged_weights_of_another_run(data, original, tmp_path):
    run, state, lines = first_state(data, tmp_path / "run", original, seed=5)
    weights = load_file(original.directory.weights_path)
    assert state["step"] == 0
    assert same_bits(state["model"], weights) and same_bits(state["average"], weights)
    assert f"{len(weights)} of {len(weights)} weights are those of {original.path}" in lines
    assert run.record.start.taken == len(weights) and not run.record.start.left


def test_weights_of_other_shapes_begin_as_new_and_are_listed(data, original, tmp_path):
    run, state, lines = first_state(data, tmp_path / "run", original, latent=6)
    new = train_tiny("vae", data, tmp_path / "new", budget="1steps", latent=6)
    weights = load_file(original.directory.weights_path)
    start, fits = run.record.start, set()
    for name, tensor in state["model"].items():
        if name in weights and weights[name].shape == tensor.shape:
            assert torch.equal(tensor, weights[name])
            fits.add(name)
    assert 0 < start.taken == len(fits) < len(state["model"])
    assert {line.split()[0] for line in start.left} == set(state["model"]) - fits
    assert f"; new are {start.left[0]}" in next(line for line in lines if "weights are" in line)
    assert "there (" in start.left[0]
    assert new.record.start is None


def test_resuming_does_not_need_the_other_run(data, original, tmp_path):
    lent = tmp_path / "lent"
    shutil.copytree(original.path, lent)
    whole = train_tiny("vae", data, tmp_path / "whole", budget="6steps", from_run=str(lent))
    parted = train_tiny("vae", data, tmp_path / "parted", budget="2steps", from_run=str(lent))
    shutil.rmtree(lent)
    done = resume(parted.path, registry(), budget="6steps")
    assert same_bits(state_of(done), state_of(whole))
    plain = train_tiny("vae", data, tmp_path / "plain", budget="6steps")
    assert not same_bits(state_of(plain)["model"], state_of(whole)["model"])


def test_run_that_ended_before_the_weights_were_saved_is_not_resumed(data, original, tmp_path):
    run = train_tiny("vae", data, tmp_path / "run", budget="1steps", from_run=str(original.path))
    run.directory.weights_path.unlink()
    shutil.rmtree(run.directory.checkpoints)
    run.directory.checkpoints.mkdir()
    with pytest.raises(UsageError, match=r"ended before the weights of --from were saved"):
        resume(run.path, registry())


@pytest.mark.parametrize(
    ("model", "spoil", "said"),
    [
        ("dcgan", None, r"is a run of vae, whose weights do not fit dcgan; name a run of dcgan"),
        ("vae", "model.safetensors", r"--from: .*model.safetensors cannot be (read|used)"),
        ("vae", "config.json", r"--from: .* is not a run directory"),
    ],
)
def test_what_has_no_weights_for_the_model_is_refused(data, original, tmp_path, model, spoil, said):
    lent = tmp_path / "lent"
    shutil.copytree(original.path, lent)
    if spoil:
        (lent / spoil).unlink()
    with pytest.raises(UsageError, match=said):
        train_tiny(model, data, tmp_path / "run", budget="1steps", from_run=str(lent))
    assert not (tmp_path / "run").exists()


def test_torn_weights_are_refused(data, original, tmp_path):
    lent = tmp_path / "lent"
    shutil.copytree(original.path, lent)
    weights = lent / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UsageError, match=r"cannot be used"):
        train_tiny("vae", data, tmp_path / "run", budget="1steps", from_run=str(lent))


def test_command_line_has_from(command_lines, data, original, tmp_path):
    run = tmp_path / "run"
    words = f"train vae --data {data} --latent 4 --width 4 --hidden 8 --from {original.path}"
    words += f" --budget 1steps --run-dir {run} --device cpu --grids 0 --progress lines"
    done, refused = command_lines(words, words.replace("train vae", "train dcgan"))
    assert done.code == 0 and "weights are those of" in done.out + done.err
    assert refused.code == 2
