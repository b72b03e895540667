"""Checkpoints and weights from strangers: refused in one sentence, and none of their code runs.

Whoever writes the file also writes its SHA-256, so every damaged state here has a valid sidecar.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from command_lines import error_of
from safetensors.torch import save as to_safetensors
from toys import (
    Denoiser,
    TinyGAN,
    bright_squares,
    child_environment,
    make_loop,
    same_bits,
    snapshot,
    train_tiny,
    write_npz,
)

from genkit.cli import main
from genkit.errors import CheckpointError
from genkit.model import Phase
from genkit.runs.checkpoint import load_state, load_weights, save_state, save_weights
from genkit.runs.state_file import check_state, read_state

NAME = "step-000000002"


class Call:
    """Unpickled, it would call a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Subclass(torch.Tensor):
    """A tensor of a type that a file would bring along."""


def make_gan() -> TinyGAN:
    """A model of two phases on one optimizer."""

    def plan(m: Any, g: Any, d: Any) -> list[Phase]:
        return [Phase(name=n, loss=m.discriminator_loss, optimizer=d) for n in ("d", "again")]

    return TinyGAN(plan)


def saved(content: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def plant(folder: Path, content: bytes) -> Path:
    """Put a state into place, with a valid sidecar."""
    path = folder / f"{NAME}.pt"
    path.write_bytes(content)
    sidecar = {"step": 2, "file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(sidecar), encoding="utf-8")
    return path


def rezip(content: bytes, change: Any) -> bytes:
    """The archive with its list of (name, bytes, compression) changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name), zipfile.ZIP_STORED) for name in archive.namelist()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data, compression in change(members):
            archive.writestr(name, data, compression)
    return buffer.getvalue()


def with_pickle(code: bytes) -> bytes:
    """An archive whose pickle is this."""
    return rezip(saved({}), lambda m: [(n, code if "data.pkl" in n else d, z) for n, d, z in m])


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A folder with the states of steps 1 and 2, the loop and the state of each."""
    loop = make_loop(Denoiser(), ema_half_life=50)
    states = []
    for _ in range(2):
        loop.iterate()
        states.append(copy.deepcopy({"loop": loop.state_dict(), "seconds": float(loop.step)}))
        save_state(tmp_path, loop.step, states[-1])
    return tmp_path, loop, states


def fits(loop: Any) -> Any:
    return lambda state: check_state(state, loop.model, loop.average, loop.optimizers)


def assert_passed_over(run: Any) -> str:
    """The state of step 1 is taken, nothing of the loop changes; returns what is said of step 2."""
    folder, loop, states = run
    before = copy.deepcopy(loop.state_dict())
    state, notes = load_state(folder, fits(loop))
    assert same_bits(state, states[0]) and same_bits(loop.state_dict(), before)
    assert len(notes) == 1 and f"{NAME}.pt is damaged and was passed over: " in notes[0]
    assert notes[0].isprintable() and len(notes[0]) < 400
    return notes[0]


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
    turned = {**states[1], "loop": {**states[1]["loop"], "model": dict([*model.items()][::-1])}}
    plant(folder, saved(turned))
    state, notes = load_state(folder, fits(loop))
    assert notes == [] and same_bits(state, states[1])


# ---- training states: files

CUTS = (0, 1, 3, 10, 30, 50, 70, 90, 99, 99.9)


@pytest.mark.parametrize("percent", CUTS)
def test_a_truncated_state_is_passed_over_whatever_its_sidecar_says(
    run: Any, percent: float
) -> None:
    content = (run[0] / f"{NAME}.pt").read_bytes()
    plant(run[0], content[: int(len(content) * percent / 100)])
    assert_passed_over(run)


def as_tar(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def deflate(members: list[Any]) -> list[Any]:
    return [(name, data, zipfile.ZIP_DEFLATED) for name, data, _ in members]


FILES: dict[str, Any] = {
    "wrong magic": lambda s: b"\x93NUMPY" + saved(s)[6:],
    "text": lambda s: b"not a checkpoint",
    "a pickle as torch wrote it before 1.6": lambda s: saved(
        s, _use_new_zipfile_serialization=False
    ),
    "a tar archive": as_tar,
    "a zip of something else": lambda s: rezip(saved(s), lambda m: [("a.txt", b"x", 0)]),
    "an empty zip": lambda s: rezip(saved(s), lambda m: []),
    "packed members": lambda s: rezip(saved(s), deflate),
    "a single packed member": lambda s: rezip(saved(s), lambda m: [*m[:-1], *deflate(m[-1:])]),
    "a member named ../x": lambda s: rezip(saved(s), lambda m: [*m, ("archive/../x", b"", 0)]),
    "an absolute member": lambda s: rezip(saved(s), lambda m: [*m, ("/etc/x", b"", 0)]),
    "a TorchScript archive": lambda s: rezip(
        saved(s), lambda m: [*m, ("archive/constants.pkl", b"\x80\x02).", 0)]
    ),
    "a tensor's bytes missing": lambda s: rezip(
        saved(s), lambda m: [each for each in m if not each[0].endswith("data/0")]
    ),
    "a tensor's bytes cut short": lambda s: rezip(
        saved(s), lambda m: [(n, d[:3] if n.endswith("data/0") else d, z) for n, d, z in m]
    ),
    "no dict": lambda s: saved([s]),
    "nothing": lambda s: saved({}),
    "a list that holds itself": lambda s: with_pickle(b"\x80\x02}X\x01\x00\x00\x00a]q\x01h\x01as."),
    "a pickle that ends early": lambda s: with_pickle(b"\x80\x02}"),
    "a negative stride": lambda s: rezip(
        saved({"a": torch.arange(7.0)}),
        lambda m: [(n, d.replace(b"K\x01\x85", b"J\xff\xff\xff\xff\x85"), z) for n, d, z in m],
    ),
    "protocol 9": lambda s: with_pickle(b"\x80\x09}."),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_kind_is_passed_over(run: Any, kind: str) -> None:
    plant(run[0], FILES[kind](run[2][1]))
    assert_passed_over(run)


def test_duplicate_members_are_refused(run: Any) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = rezip(saved(run[2][1]), lambda m: [*m, m[0]])
    plant(run[0], content)
    assert "odd members" in assert_passed_over(run)


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link", "link to a device", "unread"])
def test_what_is_no_file_is_passed_over_at_once(run: Any, kind: str) -> None:
    path = run[0] / f"{NAME}.pt"
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
    path = folder / f"{NAME}.pt"
    path.rename(folder / "elsewhere")
    path.symlink_to("elsewhere")
    assert same_bits(load_state(folder, fits(loop))[0], states[1])


@pytest.mark.parametrize("flips", range(10))
def test_flipped_bits_are_found_by_the_hash_and_without_it_at_least_run_nothing(
    run: Any, flips: int
) -> None:
    path = run[0] / f"{NAME}.pt"
    content = bytearray(path.read_bytes())
    content[len(content) * flips // 10] ^= 1 << (flips % 8)
    path.write_bytes(content)
    assert "SHA-256" in assert_passed_over(run)
    plant(run[0], bytes(content))
    state, notes = load_state(run[0], fits(run[1]))
    assert same_bits(state, run[2][0]) if notes else state.keys() == run[2][1].keys()


# ---- training states: code


def evil(canary: Path) -> dict[str, Any]:
    command, python = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    lead = Subclass(torch.zeros(2))
    lead.note = Call(os.system, command)  # type: ignore[attr-defined]
    return {
        "os.system": Call(os.system, command),
        "eval": Call(eval, python),
        "exec": Call(exec, python),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "import": Call(__import__, "antigravity"),
        "subprocess": Call(subprocess.Popen, ["touch", str(canary)]),
        "torch.load itself": Call(torch.load, str(canary)),  # noqa: TID251
        "a tensor of another type": lead,
        "code as a key": {Call(os.system, command): 1},
        "a path": canary,
    }


@pytest.mark.parametrize("kind", evil(Path("x")))
@pytest.mark.parametrize("place", ["top", "model", "optimizer"])
def test_code_in_a_state_never_runs(run: Any, kind: str, place: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    state, code = copy.deepcopy(run[2][1]), evil(canary)[kind]
    where = {
        "top": state,
        "model": state["loop"]["model"],
        "optimizer": state["loop"]["optimizers"][0]["state"][0],
    }
    where[place]["extra"] = code
    plant(run[0], saved(state))
    assert "it asks for" in assert_passed_over(run)
    assert not canary.exists()


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_these_files_would_run_code_if_they_were_unpickled(
    run: Any, tmp_path: Path, options: dict[str, bool]
) -> None:
    """The canary sings: the tests above could fail."""
    canary = tmp_path / "canary"
    content = saved({"extra": Call(os.system, f"touch {canary}")}, **options)
    plant(run[0], content)
    assert_passed_over(run)
    assert not canary.exists()
    torch.load(io.BytesIO(content), weights_only=False)  # noqa: TID251
    assert canary.exists()


def test_resume_says_in_one_line_that_only_hostile_states_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_npz(tmp_path / "data.npz", bright_squares(20))
    run = train_tiny("vae", data, tmp_path / "run", budget="2steps")
    canary = tmp_path / "canary"
    for path in (run.path / "checkpoints").glob("step-*.pt"):
        path.unlink()
    plant(run.path / "checkpoints", saved({"extra": Call(os.system, f"touch {canary}")}))
    capsys.readouterr()
    assert main(["resume", str(run.path), "--budget", "4steps"]) == 1
    error = error_of(capsys.readouterr())
    assert "holds no whole checkpoint to resume from" in error and "it asks for" in error
    assert not canary.exists()


def test_nobody_can_allow_more_than_plain_values(run: Any, monkeypatch: Any) -> None:
    """torch's switches that make it unpickle all are without effect."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary = run[0] / "canary"
    plant(run[0], saved({"extra": Call(os.system, f"touch {canary}")}))
    assert_passed_over(run)
    assert not canary.exists()


# ---- training states: contents


def change(*path: Any, to: Any = None) -> Any:
    """A change of one place in a state; `to` is the new value, or a function of the old one."""

    def apply(state: Any) -> None:
        *way, last = path
        for key in way:
            state = state[key]
        state[last] = to(state[last]) if callable(to) else to

    return apply


def drop(*path: Any) -> Any:
    def apply(state: Any) -> None:
        *way, last = path
        for key in way:
            state = state[key]
        del state[last]

    return apply


MODEL = ("loop", "model")
WEIGHT = (*MODEL, "layers.2.weight")
ADAM = ("loop", "optimizers", 0)
MOMENT = (*ADAM, "state", 0, "exp_avg")
GROUP = (*ADAM, "param_groups", 0)
CONTENTS: dict[str, tuple[Any, str]] = {
    "no loop": (drop("loop"), "no 'loop'"),
    "a loop that is text": (change("loop", to="x"), "no 'loop'"),
    "step negative": (change("loop", "step", to=-1), "its step is -1"),
    "step text": (change("loop", "step", to="2"), "its step is '2'"),
    "step bool": (change("loop", "step", to=True), "its step is True"),
    "step huge": (change("loop", "step", to=10**400), "its step is 1000"),
    "step missing": (drop("loop", "step"), "its step is None"),
    "seconds NaN": (change("seconds", to=math.nan), "its seconds are nan"),
    "seconds infinite": (change("seconds", to=math.inf), "its seconds are inf"),
    "seconds negative": (change("seconds", to=-1.0), "its seconds are -1.0"),
    "seconds text": (change("seconds", to="1"), "its seconds are '1'"),
    "seconds missing": (drop("seconds"), "its seconds are None"),
    "model missing": (drop(*MODEL), "no 'model'"),
    "average missing": (drop("loop", "average"), "no 'average'"),
    "tensor missing": (drop(*WEIGHT), "lacks 'layers.2.weight'"),
    "tensor too many": (change(*MODEL, "zebra", to=torch.zeros(2)), "holds 'zebra'"),
    "shape": (change(*WEIGHT, to=lambda t: t.flatten()), "has shape (1024,), the model (64, 16)"),
    "type": (change(*WEIGHT, to=lambda t: t.double()), "is torch.float64"),
    "text for a tensor": (change(*WEIGHT, to="x"), "has shape (), the model (64, 16)"),
    "NaN": (change(*WEIGHT, to=lambda t: t * math.nan), "'layers.2.weight' holds NaN"),
    "infinite average": (
        change("loop", "average", "layers.0.bias", to=lambda t: t + math.inf),
        "'layers.0.bias' holds NaN or infinite",
    ),
    "a view that swells": (
        change(*WEIGHT, to=torch.zeros(1).expand(10**6, 10**6)),
        "a view that swells",
    ),
    "a view that swells into the right shape": (
        change(*WEIGHT, to=torch.zeros(1).expand(64, 16)),
        "a view that swells",
    ),
    "a view that overlaps itself": (
        change(*WEIGHT, to=torch.zeros(79).as_strided((64, 16), (1, 1))),
        "a view that swells",
    ),
    "a sparse tensor": (change(*WEIGHT, to=torch.zeros(64, 16).to_sparse()), "asks for"),
    "a meta tensor": (change(*WEIGHT, to=torch.zeros(64, 16, device="meta")), "asks for"),
    "no optimizers": (drop("loop", "optimizers"), "1 optimizers"),
    "two optimizers": (change("loop", "optimizers", to=lambda o: o * 2), "1 optimizers"),
    "optimizer text": (change(*ADAM, to="x"), "optimizer 1 cannot go on"),
    "moment of another shape": (change(*MOMENT, to=torch.zeros(7)), "optimizer 1 cannot go on"),
    "moment text": (change(*MOMENT, to="x"), "optimizer 1 cannot go on"),
    "moment missing": (drop(*MOMENT), "optimizer 1 cannot go on"),
    "moment NaN": (change(*MOMENT, to=lambda t: t * math.nan), "optimizer 1 holds values that"),
    "moment that swells": (change(*MOMENT, to=torch.zeros(1).expand(10**6, 10**6)), "swells"),
    "count of steps negative": (
        change(*ADAM, "state", 0, "step", to=torch.tensor(-3.0)),
        "optimizer 1 cannot go on",
    ),
    "groups missing": (drop(*ADAM, "param_groups"), "optimizer 1 cannot go on"),
    "group for fewer parameters": (
        change(*GROUP, "params", to=lambda p: p[:-1]),
        "optimizer 1 cannot go on",
    ),
    "learning rate text": (change(*GROUP, "lr", to="fast"), "optimizer 1 cannot go on"),
    "learning rate NaN": (change(*GROUP, "lr", to=math.nan), "its learning rates are [nan"),
    "first learning rate missing": (drop(*GROUP, "initial_lr"), "optimizer 1 cannot go on"),
    "betas missing": (drop(*GROUP, "betas"), "optimizer 1 cannot go on"),
    "betas text": (change(*GROUP, "betas", to="ab"), "optimizer 1 cannot go on"),
    "nests that double": (
        change("extra", to=[[[1] * 500] * 500] * 500),
        "more than 1,000,000 values",
    ),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_state_with_odd_contents_is_passed_over(run: Any, kind: str) -> None:
    alter, words = CONTENTS[kind]
    state = copy.deepcopy(run[2][1])
    alter(state)
    plant(run[0], saved(state))
    assert words in assert_passed_over(run)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True),
        lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.5, centered=True),
        lambda p: torch.optim.Adagrad(p, 0.1),
        lambda p: torch.optim.NAdam(p, 0.1),
        lambda p: torch.optim.Adafactor(p, 0.1),
    ],
)
def test_states_of_all_kinds_of_optimizers_pass_and_none_takes_a_foreign_one(make: Any) -> None:
    loop = make_loop(Denoiser(make), ema_half_life=50)
    loop.iterate()
    state = {"loop": copy.deepcopy(loop.state_dict()), "seconds": 1.0}
    before = copy.deepcopy(loop.state_dict())
    fits(loop)(state)
    assert same_bits(loop.state_dict(), before)
    values = state["loop"]["optimizers"][0]["state"]
    tensors = [(v, k) for v in values.values() for k, t in v.items() if getattr(t, "ndim", 0)]
    for entry, key in tensors:
        whole, entry[key] = entry[key], torch.zeros(3, 5, 7)
        with pytest.raises(CheckpointError, match="optimizer 1 cannot go on"):
            fits(loop)(state)
        entry[key] = whole
    assert tensors or not any(values.values())


def test_a_state_of_another_model_is_refused_before_anything_is_copied(run: Any) -> None:
    other = make_loop(make_gan(), ema_half_life=10)
    other.iterate()
    plant(run[0], saved({"loop": other.state_dict(), "seconds": 1.0}))
    assert "lacks " in assert_passed_over(run) or "holds " in assert_passed_over(run)


# ---- bombs: small files that would fill any memory

BOMBS = """
    import io, resource, sys, zipfile
    import torch
    from test_hostile_states import bombs
    from genkit.errors import CheckpointError
    from genkit.runs.state_file import read_state
    torch.set_num_threads(1)
    pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + 2**30, pages + 2**30))
    for name, content in bombs().items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read_state(content)
            print(name, "was read")
        except Exception as error:
            assert "memory" not in str(error), (name, error)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if grown > 100_000:
            print(name, "took", grown, "KiB")
"""


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def bombs() -> dict[str, bytes]:
    """Archives of a few kilobytes each that ask for gigabytes."""
    hexed = b"c_codecs\nencode\n(" + text("aa") + text("latin1") + b"tR"
    for _ in range(35):
        hexed = b"c_codecs\nencode\n(" + hexed + text("hex") + b"tR"
    swelling = b"]" + b"K\x01a"
    for number in range(40):
        swelling = b"(" + swelling + b"q" + bytes([number]) + b"h" + bytes([number]) + b"l"
    expanded = torch.zeros(1).expand(10**5, 10**5)
    return {
        "bytearray": with_pickle(b"\x80\x02c__builtin__\nbytearray\n(J\xff\xff\xff\x7ftR."),
        "codecs": with_pickle(b"\x80\x02" + hexed + b"."),
        "nests": with_pickle(b"\x80\x02}" + text("a") + swelling + b"s."),
        "view": saved({"a": expanded}),
        "view that changes its type": with_pickle(
            b"\x80\x02ctorch._utils\n_rebuild_device_tensor_from_cpu_tensor\n(K\x01tR."
        ),
        "deflated": rezip(saved({"a": torch.zeros(2**20)}), deflate),
        "long text": with_pickle(b"\x80\x02\x8d" + struct.pack("<Q", 2**40) + b"."),
        "long number": with_pickle(b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"."),
    }


@pytest.mark.slow
def test_bombs_are_refused_in_bounded_memory() -> None:
    environment = {
        **child_environment(),
        "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2])),
    }
    done = subprocess.run(
        [sys.executable, "-c", dedent(BOMBS)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_only_plain_values_are_read(run: Any) -> None:
    plain = {"loop": {}, "text": "x", "numbers": [1, 2.5, True, None, 1j, 10**30], "t": (1, 2)}
    plain |= {"tensors": [torch.zeros(2, dtype=d) for d in (torch.bool, torch.uint16)]}
    plain |= {"parameter": torch.nn.Parameter(torch.ones(2)), "half": torch.ones(1).bfloat16()}
    assert same_bits(read_state(saved(plain)), plain)


# ---- weights


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file out of its parts."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def header_and_data() -> tuple[dict[str, Any], bytes]:
    content = to_safetensors(Denoiser().state_dict())
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_entry(**changes: Any) -> bytes:
    """Weights with a tensor's entry in the header changed."""
    header, data = header_and_data()
    header["layers.2.weight"] |= changes
    return raw(header, data)


def with_key(key: str, value: Any) -> bytes:
    header, data = header_and_data()
    return raw({**header, key: value}, data)


def doubled() -> bytes:
    header, data = header_and_data()
    text = json.dumps(header)
    again = json.dumps({"layers.2.weight": header["layers.2.weight"]})
    return raw((text[:-1] + ", " + again[1:]).encode(), data)


def poisoned(value: float, name: str = "layers.2.weight") -> bytes:
    tensors = {key: tensor.clone() for key, tensor in Denoiser().state_dict().items()}
    tensors[name].view(-1)[-1] = value
    return to_safetensors(tensors)


WHOLE = to_safetensors(Denoiser().state_dict())
SIZE = struct.unpack("<Q", WHOLE[:8])[0]
WEIGHTS: dict[str, tuple[Any, str]] = {
    **{
        f"cut at {percent}%": (lambda p=percent: WHOLE[: int(len(WHOLE) * p / 100)], "cannot be")
        for percent in CUTS
    },
    "header longer than the file": (lambda: raw(b"{}", length=10**4), "cannot be read"),
    "header of 2^63 bytes": (lambda: raw(b"{}", length=2**63), "header would have"),
    "header of -1 bytes": (lambda: raw(b"{}", length=2**64 - 1), "header would have"),
    "header of no bytes": (lambda: raw(b"", WHOLE), "cannot be read"),
    "header too short": (lambda: raw(WHOLE[8 : 8 + SIZE], b"", length=10), "cannot be read"),
    "header of 100 MB": (lambda: raw(b"{" + b" " * 10**8 + b"}"), "cannot be read"),
    "header that is no UTF-8": (lambda: raw(b'{"\xff": 1}'), "cannot be read"),
    "header that is a list": (lambda: raw([]), "cannot be read"),
    "header with NaN": (lambda: with_key("x", math.nan), "NaN"),
    "header nested deeply": (lambda: raw(b'{"a":' * 10**5 + b"1" + b"}" * 10**5), "nested"),
    "number of 5000 digits": (lambda: raw(b'{"a": ' + b"9" * 5000 + b"}"), "cannot be read"),
    "a key twice": (doubled, "twice"),
    "metadata that is a list": (lambda: with_key("__metadata__", [1]), "cannot be read"),
    "metadata of numbers": (lambda: with_key("__metadata__", {"a": 1}), "cannot be read"),
    "unknown type": (lambda: with_entry(dtype="F7"), "cannot be read"),
    "type that is a number": (lambda: with_entry(dtype=3), "cannot be read"),
    "type of another size": (lambda: with_entry(dtype="F64"), "cannot be read"),
    "same size, other type": (lambda: with_entry(dtype="I32"), "torch.int32"),
    "shape negative": (lambda: with_entry(shape=[-64, -16]), "shape"),
    "shape text": (lambda: with_entry(shape="ab"), "shape"),
    "shape huge": (lambda: with_entry(shape=[2**62, 2**62]), "shape"),
    "shape of floats": (lambda: with_entry(shape=[64.0, 16.0]), "cannot be read"),
    "shape turned": (lambda: with_entry(shape=[16, 64]), "has shape (16, 64), the model (64, 16)"),
    "shape missing": (lambda: with_key("layers.2.weight", {"dtype": "F32"}), "cannot be read"),
    "offsets beyond the file": (lambda: with_entry(data_offsets=[0, 10**12]), "cannot be read"),
    "offsets backwards": (lambda: with_entry(data_offsets=[4096, 0]), "cannot be read"),
    "offsets that overlap": (lambda: with_entry(data_offsets=[0, 4096]), "cannot be read"),
    "offsets negative": (lambda: with_entry(data_offsets=[-4096, 0]), "cannot be read"),
    "entry that is no table": (lambda: with_key("layers.2.weight", 7), "cannot be read"),
    "trailing bytes": (lambda: WHOLE + b"x", "cannot be read"),
    "another model's": (lambda: to_safetensors(make_gan().state_dict()), "model"),
    "a tensor too many": (
        lambda: to_safetensors({**Denoiser().state_dict(), "\x1b[31m": torch.zeros(1)}),
        r"'\x1b[31m', which the model has not",
    ),
    "NaN": (lambda: poisoned(math.nan), "'layers.2.weight' holds NaN or infinite values"),
    "infinite": (lambda: poisoned(-math.inf), "'layers.2.weight' holds NaN or infinite values"),
    "a pickle": (lambda: saved(Denoiser().state_dict()), "cannot be read"),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_hostile_weights_are_refused_and_the_model_stays_as_it_was(
    tmp_path: Path, kind: str
) -> None:
    make, words = WEIGHTS[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(make())
    model = Denoiser()
    before = snapshot(model)
    with pytest.raises(CheckpointError) as error:
        load_weights(path, model)
    assert words in str(error.value) and str(path) in str(error.value)
    assert len(str(error.value)) < 600 and str(error.value).isprintable()
    assert same_bits(snapshot(model), before)


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "link to itself"])
def test_weights_that_are_no_file_are_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "link to a device" else path.name)
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_weights(path, Denoiser())


def test_weights_much_larger_than_the_model_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.truncate(2**40)  # a file with a hole takes no room
    with pytest.raises(CheckpointError, match="it has 1,099,511,627,776 bytes"):
        load_weights(path, Denoiser())


def test_the_order_of_tensors_in_a_file_does_not_matter(tmp_path: Path) -> None:
    """safetensors orders by type and name; a file in another order is as good."""
    model, other = Denoiser(), Denoiser()
    save_weights(tmp_path / "a", model, {})
    content = (tmp_path / "a").read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    turned = dict([*header.items()][::-1])
    (tmp_path / "b").write_bytes(raw(turned, content[8 + size :]))
    load_weights(tmp_path / "b", other)
    assert same_bits(snapshot(model), snapshot(other))
