"""Training states and weights on disk: damage is found, and nothing is copied before it is."""

import copy
import json
import re
import struct
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from toys import Denoiser, TinyGAN, make_loop, same_bits, snapshot

from genkit.errors import CheckpointError, PluginError
from genkit.model import Phase
from genkit.runs.checkpoint import load_state, load_weights, save_state, save_weights

# ---- training states


@pytest.fixture
def states(tmp_path):
    """A folder with the states of steps 1 and 2, and these states."""
    loop = make_loop(Denoiser(), ema_half_life=50)
    saved = []
    for _ in range(2):
        loop.iterate()
        saved.append(copy.deepcopy({"loop": loop.state_dict(), "seconds": float(loop.step)}))
        save_state(tmp_path, loop.step, saved[-1])
    return tmp_path, saved


def test_the_newest_state_is_loaded_bit_for_bit(states):
    folder, saved = states
    state, notes = load_state(folder)
    assert same_bits(state, saved[1]) and notes == []
    assert json.loads((folder / "last.json").read_text())["file"] == "step-000000002.safetensors"


def test_a_state_is_one_safetensors_file_with_a_tensor_for_each_path(states):
    """Also the states of Adam and of two phases on one optimizer are plain values and tensors."""

    def plan(m, g, d):
        m.generator.requires_grad_(False)
        return [Phase(name=n, loss=m.discriminator_loss, optimizer=d) for n in ("d", "again")]

    loop = make_loop(TinyGAN(plan), ema_half_life=10)
    loop.iterate()
    state = loop.state_dict()
    path = save_state(states[0], 3, state)
    found = load_file(path)
    moments = state["optimizers"][0]["state"]
    expected = {f"{part}.{k}": v for part in ("model", "average") for k, v in state[part].items()}
    expected |= {
        f"optimizers.0.state.{number}.{k}": v
        for number, entry in moments.items()
        for k, v in entry.items()
    }
    expected |= {f"logs.{name}": value for name, value in state["logs"].items()}
    assert same_bits(found, expected)
    assert same_bits(load_state(states[0])[0], state)


def truncate(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "empty": truncate(0),
    "truncated at a tenth": truncate(0.1),
    "truncated in the middle": truncate(0.5),
    "truncated near the end": truncate(0.99),
    "one bit flipped": flip_a_bit,
    "missing": lambda path: path.unlink(),
    "no sidecar, as after a crash before it": lambda path: path.with_suffix(".json").unlink(),
    "empty sidecar": lambda path: path.with_suffix(".json").write_text(""),
    "sidecar of something else": lambda path: path.with_suffix(".json").write_text("[1]"),
    "sidecar without a hash": lambda path: path.with_suffix(".json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_passed_over_for_the_one_before_it(states, damage):
    folder, saved = states
    DAMAGE[damage](folder / "step-000000002.safetensors")
    state, notes = load_state(folder)
    assert same_bits(state, saved[0])
    if damage == "missing":
        assert notes == []
    else:
        assert len(notes) == 1
        assert "step-000000002.safetensors is damaged and was passed over" in notes[0]
        assert "\n" not in notes[0]


def test_a_missing_pointer_does_no_harm(states):
    folder, saved = states
    (folder / "last.json").unlink()
    assert same_bits(load_state(folder)[0], saved[1])


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_any_whole_state_there_is_a_checkpoint_error(states, damage):
    folder, _ = states
    for path in folder.glob("step-*.safetensors"):
        DAMAGE[damage](path)
    with pytest.raises(CheckpointError, match="holds no whole checkpoint to resume from") as error:
        load_state(folder)
    assert str(folder) in str(error.value)


class Odd(torch.Tensor):
    """A tensor of a type of its own."""


REFUSED = {
    "an object": (lambda: object(), "is a object"),
    "a function": (lambda: print, "is a builtin_function_or_method"),
    "bytes": (lambda: b"x", "is a bytes"),
    "a number of numpy": (lambda: np.float64(1), "is a float64"),
    "a subclass of dict": (lambda: Counter("a"), "is a Counter"),
    "a tensor of another type": (lambda: torch.ones(2).as_subclass(Odd), "is a Odd"),
    "a sparse tensor": (lambda: torch.eye(2).to_sparse(), "is a tensor of torch.float32, torch.sp"),
    "a tensor without memory": (lambda: torch.ones(2, device="meta"), "on meta"),
    "a dtype safetensors does not have": (lambda: torch.ones(2).cdouble(), "torch.complex128"),
    "a number of 4,000 digits": (lambda: 10**4000, "is a int"),
    "a list that holds itself": (lambda: (x := []).append(x) or x, "nested too deeply"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_again_is_not_written_and_named_by_its_path(states, kind):
    folder, saved = states
    make, words = REFUSED[kind]
    before = sorted(folder.iterdir())
    with pytest.raises(PluginError) as error:
        save_state(folder, 3, {"loop": {"extra": [1, make()]}})
    assert "cannot be saved: loop.extra.1" in str(error.value) and words in str(error.value)
    assert sorted(folder.iterdir()) == before and same_bits(load_state(folder)[0], saved[1])


def test_states_of_an_older_genkit_are_refused_in_a_sentence_that_says_what_to_do(tmp_path):
    torch.save({"loop": {"step": 4}}, tmp_path / "step-000000004.pt")
    with pytest.raises(CheckpointError) as error:
        load_state(tmp_path)
    for words in ("step-000000004.pt was written by an older genkit", "train again", "samples"):
        assert words in str(error.value)


def test_only_the_newest_two_states_stay(states):
    folder, saved = states
    for step in range(3, 8):
        save_state(folder, step, saved[0])
    names = sorted(path.name for path in folder.iterdir())
    kept = [f"step-{step:09d}.{end}" for step in (6, 7) for end in ("json", "safetensors")]
    assert names == ["last.json", *kept]


def test_what_a_killed_run_left_half_written_is_cleared_away(states):
    folder, saved = states
    torn = folder / ".step-000000003.safetensors.123.tmp"
    torn.write_bytes(b"half")
    assert load_state(folder)[1] == []
    save_state(folder, 3, saved[0])
    assert not torn.exists()


def test_other_files_beside_the_states_are_left_alone(states):
    folder, saved = states
    others = ("step-best.safetensors", "step-1.safetensors", "step-000000001.pt", "notes.txt")
    for name in others:
        (folder / name).write_text("mine")
    for step in range(3, 6):
        save_state(folder, step, saved[0])
    assert all((folder / name).exists() for name in others)
    assert same_bits(load_state(folder)[0], saved[0])


# ---- weights


class Tied(nn.Module):
    """Two names for one tensor, a view of another, and weights with channels last."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.convolution = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(8)
        self.register_buffer("whole", torch.randn(6))
        self.register_buffer("part", self.whole[2:4])


def test_weights_come_back_bit_for_bit_with_their_metadata(tmp_path):
    path = tmp_path / "model.safetensors"
    model, other = Tied(), Tied()
    save_weights(path, model, {"model": "tied", "step": 3})
    load_weights(path, other)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["genkit"]) == {"model": "tied", "step": 3}
    assert same_bits(snapshot(other), snapshot(model))
    assert other.second.weight is other.first.weight
    assert load_file(path).keys() == model.state_dict().keys()


def test_equal_weights_make_equal_files(tmp_path):
    model = Tied()
    for name in "ab":
        save_weights(tmp_path / name, model, {"model": "tied", "step": 3, "weights": "ema"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.fixture
def weights(tmp_path):
    """A file of a model's weights and what is in it."""
    path = tmp_path / "model.safetensors"
    save_weights(path, Denoiser(), {})
    return path, load_file(path)


def refuse(path, *words):
    """Check that a file is refused with these words, and that the model is as it was."""
    model = Denoiser()
    before = snapshot(model)
    with pytest.raises(CheckpointError) as error:
        load_weights(path, model)
    assert all(word in str(error.value) for word in (str(path), *words)), str(error.value)
    assert same_bits(snapshot(model), before)


# The last tensor by name is changed each time: the others would be copied by then.
def test_weights_that_lack_a_tensor_are_refused(weights):
    path, tensors = weights
    del tensors["layers.2.weight"]
    save_file(tensors, path)
    refuse(path, "lacks 'layers.2.weight'")


def test_weights_with_a_tensor_too_many_are_refused(weights):
    path, tensors = weights
    save_file({**tensors, "zebra": torch.zeros(1)}, path)
    refuse(path, "'zebra'")


def test_weights_of_another_shape_are_refused(weights):
    path, tensors = weights
    shape = tensors["layers.2.weight"].shape
    tensors["layers.2.weight"] = tensors["layers.2.weight"].flatten()
    save_file(tensors, path)
    refuse(path, "'layers.2.weight'", "(1024,)", str(tuple(shape)))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.int32, torch.float8_e4m3fn])
def test_weights_of_another_type_are_refused(weights, kind):
    path, tensors = weights
    tensors["layers.2.weight"] = tensors["layers.2.weight"].to(kind)
    save_file(tensors, path)
    refuse(path, "'layers.2.weight'", str(kind), "torch.float32")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not safetensors at all",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_files_that_are_not_weights_are_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refuse(path)


def test_pickled_weights_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save(Denoiser().state_dict(), path)
    refuse(path, "cannot be read as safetensors")


def test_missing_weights_and_a_folder_in_their_place_are_refused(tmp_path):
    refuse(tmp_path / "model.safetensors", "does not exist")
    refuse(tmp_path)


def test_damaged_weights_are_refused_or_read_but_never_crash(weights):
    """Bytes changed at random: safetensors has no checksum, so changed numbers pass."""
    path, _ = weights
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    outcomes = set()
    for trial in range(200):
        damaged = bytearray(content)
        reach = 700 if trial % 2 else len(content)  # the header lies at the front
        for _ in range(3):
            position, value = torch.randint(0, reach, (2,), generator=generator).tolist()
            damaged[position] = value % 256
        path.write_bytes(damaged)
        model = Denoiser()
        before = snapshot(model)
        try:
            load_weights(path, model)
            outcomes.add("read")
        except CheckpointError as error:
            outcomes.add("refused")
            assert re.search(r"model\.safetensors", str(error))
            assert same_bits(snapshot(model), before)
    assert outcomes == {"read", "refused"}
