"""Third-party training states: refused in one sentence, and none of their code runs.

Whoever writes the file also writes its SHA-256, so every damaged state here has a valid sidecar.
"""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from command_lines import error_of
from forged import (
    FAULTS,
    NAME,
    Call,
    assert_passed_over,
    bombs,
    fits,
    make_gan,
    make_states,
    parts,
    pickled,
    plant,
    small_state,
    turned,
    with_key,
    with_tree,
)
from toys import bright_squares, child_environment, make_loop, same_bits, train_tiny, write_npz

from genkit.cli import main
from genkit.errors import CheckpointError
from genkit.runs.checkpoint import load_state
from genkit.runs.tree import pack, unpack


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A folder with the states of steps 1 and 2, the loop and the state of each."""
    return make_states(tmp_path)


def test_a_good_state_passes_and_changes_nothing(run: Any) -> None:
    folder, loop, states = run
    before = copy.deepcopy(loop.state_dict())
    state, notes = load_state(folder, fits(loop))
    assert same_bits(state, states[1]) and notes == []
    assert same_bits(loop.state_dict(), before)
    other = make_loop(make_gan(), ema_half_life=10)
    other.iterate()
    fits(other)({"loop": other.state_dict(), "seconds": 0.0})


def test_the_order_of_names_does_not_matter(run: Any) -> None:
    folder, loop, states = run
    model = states[1]["loop"]["model"]
    other = {**states[1], "loop": {**states[1]["loop"], "model": dict([*model.items()][::-1])}}
    plant(folder, turned(pack(other)))
    state, notes = load_state(folder, fits(loop))
    assert notes == [] and same_bits(state, states[1])


# ---- files


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_file_is_passed_over_whatever_its_sidecar_says(run: Any, kind: str) -> None:
    plant(run[0], FAULTS[kind](pack(run[2][1])))
    assert_passed_over(run)


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link", "link to a device", "unread"])
def test_what_is_not_a_file_is_passed_over_at_once(run: Any, kind: str) -> None:
    path = run[0] / f"{NAME}.safetensors"
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(content)
        path.with_suffix(".json").unlink()
        os.mkfifo(path.with_suffix(".json"))
    assert_passed_over(run)


def test_a_link_to_a_whole_state_is_as_good_as_the_state(run: Any) -> None:
    folder, loop, states = run
    path = folder / f"{NAME}.safetensors"
    path.rename(folder / "elsewhere")
    path.symlink_to("elsewhere")
    assert same_bits(load_state(folder, fits(loop))[0], states[1])


@pytest.mark.parametrize("flips", range(10))
def test_flipped_bits_are_found_by_the_hash_and_without_it_do_no_harm(run: Any, flips: int) -> None:
    path = run[0] / f"{NAME}.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) * flips // 10] ^= 1 << (flips % 8)
    path.write_bytes(content)
    assert "SHA-256" in assert_passed_over(run)
    plant(run[0], bytes(content))
    state, notes = load_state(run[0], fits(run[1]))
    assert same_bits(state, run[2][0]) if notes else state.keys() == run[2][1].keys()


# ---- trees

TREES: dict[str, tuple[Any, str]] = {
    "not JSON": ("{", "Expecting"),
    "no text at all": ("", "Expecting"),
    "a list": ([], "holds a list"),
    "a number": (7, "holds a int"),
    "null": (None, "holds a NoneType"),
    "a table of another kind": ({"object": "os.system"}, "holds 'object', which is not a kind"),
    "a table of no kind": ({}, "not enough values"),
    "a table of two kinds": ({"dict": [], "tuple": []}, "too many values"),
    "NaN": ('{"dict": [["a", NaN]]}', "NaN"),
    "a number too large": ('{"dict": [["a", 1e999]]}', "1e999"),
    "a JSON key twice": ('{"dict": [], "dict": []}', "twice"),
    "a key twice": ({"dict": [["a", 1], ["a", 2]]}, "a key twice"),
    "a key that is true and one": ({"dict": [[True, 1], [1, 2]]}, "a key twice"),
    "a key that is a list": ({"dict": [[[], 1]]}, "unhashable"),
    "a pair of three": ({"dict": [["a", 1, 2]]}, "too many values"),
    "a dict that is text": ({"dict": "ab"}, "not enough values"),
    "a dict that is a number": ({"dict": 7}, "not iterable"),
    "a tuple of nothing": ({"tuple": None}, "not iterable"),
    "a set of lists": ({"set": [[]]}, "unhashable"),
    "a size of text": ({"size": ["a"]}, "Size"),
    "a function for a dtype": ({"dtype": "torch.load"}, "'torch.load'"),
    "a device that torch does not know": ({"device": "teapot"}, "teapot"),
    "a float that is not one": ({"float": "many"}, "many"),
    "versions that are a list": ({"state_dict": [[], [1]]}, "no attribute"),
    "a version that is text": (
        {"state_dict": [[], {"dict": [["", {"dict": [["version", "2"]]}]]}]},
        "has the version",
    ),
    "nested deeply": ("[" * 200 + "]" * 200, "nested too deeply"),
    "nested very deeply": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "no tensors": ({"dict": []}, "which its tree does not name"),
    "a tensor that is not there": ({"tensor": "x"}, "names 'x', which is not there"),
    "a tensor named by a list": ({"tensor": []}, "unhashable"),
}


@pytest.mark.parametrize("kind", TREES)
def test_a_file_with_another_tree_is_passed_over(run: Any, kind: str) -> None:
    document, words = TREES[kind]
    content = pack({} if words.startswith("holds a ") else run[2][1])
    plant(run[0], with_tree(content, document))
    assert words in assert_passed_over(run)


WEIGHT = "loop.model.layers.2.weight"  # (64, 16)
PLACES: dict[str, tuple[Any, str]] = {
    "named twice": ({"tensor": "loop.model.layers.0.weight"}, "was named before"),
    "too few strides": ({"strided": [WEIGHT, [64, 16], [1]]}, "is longer than"),
    "overlapping": ({"strided": [WEIGHT, [64, 16], [1, 1]]}, "has strides"),
    "expanded": ({"strided": [WEIGHT, [64, 16], [0, 1]]}, "has strides"),
    "with gaps": ({"strided": [WEIGHT, [64, 16], [32, 1]]}, "has strides"),
    "negative strides": ({"strided": [WEIGHT, [64, 16], [-16, -1]]}, "has strides"),
    "strides of text": ({"strided": [WEIGHT, [64, 16], ["16", "1"]]}, "has strides"),
    "strides of floats": ({"strided": [WEIGHT, [64, 16], [16.0, 1.0]]}, "as_strided"),
    "beyond its memory": ({"strided": [WEIGHT, [65, 16], [16, 1]]}, "1,024 values for"),
    "less than its memory": ({"strided": [WEIGHT, [63, 16], [16, 1]]}, "1,024 values for"),
    "a negative shape": ({"strided": [WEIGHT, [-64, -16], [16, 1]]}, "has strides"),
    "another shape": ({"strided": [WEIGHT, [16, 64], [64, 1]]}, "has shape (16, 64)"),
    "a tuple for it": ({"tuple": [{"tensor": WEIGHT}]}, "has shape ()"),
    "a number for it": (1.5, "which its tree does not name"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_tensor_at_an_odd_place_is_passed_over(run: Any, kind: str) -> None:
    node, words = PLACES[kind]
    content = pack(run[2][1])
    text = parts(content)[0]["__metadata__"]["tree"]
    known = json.dumps({"tensor": WEIGHT}, separators=(",", ":"))
    assert text.count(known) == 1
    plant(run[0], with_tree(content, text.replace(known, json.dumps(node))))
    assert words in assert_passed_over(run)


def test_a_file_of_weights_is_not_a_state(run: Any) -> None:
    plant(run[0], with_key(pack(run[2][1]), "__metadata__", {"genkit": "{}"}))
    assert "it is not a training state: 'tree'" in assert_passed_over(run)


# ---- pickles


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_pickle_with_code_in_it_is_refused_and_never_runs(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, bool],
    suffix: str,
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    data = write_npz(tmp_path / "data.npz", bright_squares(20))
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    canary = tmp_path / "canary"
    content = pickled({"extra": Call(os.system, f"touch {canary}")}, **options)
    path = plant(run.path / "checkpoints", content).rename(
        run.path / "checkpoints" / f"{NAME}{suffix}"
    )
    capsys.readouterr()
    assert main(["resume", str(run.path), "--budget", "4steps"]) == 1
    error = error_of(capsys.readouterr())
    expected = {
        ".safetensors": "holds no whole checkpoint to resume from",
        ".pt": "was written by an older genkit",
    }
    assert expected[suffix] in error and not canary.exists()
    picture = str(tmp_path / "picture.png")  # the weights are still good
    assert main(["sample", str(run.path), "-n", "1", "--output", picture]) == 0
    assert not canary.exists()
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False)  # noqa: TID251
    assert canary.exists()  # the canary sings: the test could fail


# ---- bombs: small files that would fill any memory

BOMBS = """
    import resource
    import torch
    from forged import bombs, small_state
    from genkit.runs.tree import unpack
    torch.set_num_threads(1)
    unpack(small_state())
    pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + 2**30, pages + 2**30))
    for name, content in bombs().items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            unpack(content)
            print(name, "was read")
        except Exception as error:
            assert "memory" not in str(error), (name, error)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if grown > 100_000:
            print(name, "took", grown, "KiB")
"""


@pytest.mark.slow
def test_bombs_are_refused_in_bounded_memory() -> None:
    assert max(map(len, bombs().values())) < 150_000
    environment = {**child_environment(), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", dedent(BOMBS)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("kind", bombs())
def test_a_bomb_is_refused_in_a_sentence(kind: str) -> None:
    assert unpack(small_state())["seconds"] == 1.0
    with pytest.raises(CheckpointError) as error:
        unpack(bombs()[kind])
    assert len(str(error.value)) < 400
