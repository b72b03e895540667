"""Training states and weights on disk: damage is found, and nothing is copied before it is."""

import copy
import json
import re
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from toys import Denoiser, TinyGAN, make_loop, same_bits, snapshot

from genkit.errors import CheckpointError
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
    assert json.loads((folder / "last.json").read_text())["file"] == "step-000000002.pt"


def test_states_need_no_code_to_load(states):
    """Also the states of Adam and of two phases on one optimizer are plain values and tensors."""

    def plan(m, g, d):
        return [Phase(name=n, loss=m.discriminator_loss, optimizer=d) for n in ("d", "again")]

    loop = make_loop(TinyGAN(plan), ema_half_life=10)
    loop.iterate()
    path = save_state(states[0], 3, loop.state_dict())
    state = torch.load(path, weights_only=True)  # noqa: TID251
    assert same_bits(state, loop.state_dict())


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
    DAMAGE[damage](folder / "step-000000002.pt")
    state, notes = load_state(folder)
    assert same_bits(state, saved[0])
    if damage == "missing":
        assert notes == []
    else:
        assert len(notes) == 1 and "step-000000002.pt is damaged and was passed over" in notes[0]
        assert "\n" not in notes[0]


def test_a_missing_pointer_does_no_harm(states):
    folder, saved = states
    (folder / "last.json").unlink()
    assert same_bits(load_state(folder)[0], saved[1])


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_any_whole_state_there_is_a_checkpoint_error(states, damage):
    folder, _ = states
    for path in folder.glob("step-*.pt"):
        DAMAGE[damage](path)
    with pytest.raises(CheckpointError, match="holds no whole checkpoint to resume from") as error:
        load_state(folder)
    assert str(folder) in str(error.value)


def test_code_in_a_state_is_not_run(states):
    class Evil:
        def __reduce__(self):
            return (print, ("code was run",))

    folder, saved = states
    save_state(folder, 3, {"loop": Evil()})
    state, notes = load_state(folder)
    assert same_bits(state, saved[1]) and "step-000000003.pt is damaged" in notes[0]


def test_only_the_newest_two_states_stay(states):
    folder, saved = states
    for step in range(3, 8):
        save_state(folder, step, saved[0])
    names = sorted(path.name for path in folder.iterdir())
    kept = ["step-000000006.json", "step-000000006.pt", "step-000000007.json", "step-000000007.pt"]
    assert names == ["last.json", *kept]


def test_what_a_killed_run_left_half_written_is_cleared_away(states):
    folder, saved = states
    torn = folder / ".step-000000003.pt.123.tmp"
    torn.write_bytes(b"half")
    assert load_state(folder)[1] == []
    save_state(folder, 3, saved[0])
    assert not torn.exists()


def test_strange_files_beside_the_states_are_left_alone(states):
    folder, saved = states
    for name in ("step-best.pt", "step-1.pt", "notes.txt"):
        (folder / name).write_text("mine")
    for step in range(3, 6):
        save_state(folder, step, saved[0])
    assert all((folder / name).exists() for name in ("step-best.pt", "step-1.pt", "notes.txt"))
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
def test_files_that_are_no_weights_are_refused(tmp_path, content):
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
