"""safetensors files with faults of all kinds, made out of whole ones."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from toys import Denoiser, TinyGAN, make_loop, same_bits

from genkit.model import Phase
from genkit.runs.checkpoint import load_state, save_state
from genkit.runs.state_file import check_state
from genkit.runs.tree import pack
from genkit.training.loop import Loop

CUTS = (0, 1, 3, 10, 30, 50, 70, 90, 99, 99.9)  # percent
LAST = "layers.2.weight"  # of a toy's tensors by name: the others would be copied before it


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file out of its parts; a header of bytes is taken as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_key(content: bytes, key: str, value: Any) -> bytes:
    """The file with another entry in its header."""
    header, data = parts(content)
    return raw({**header, key: value}, data)


def with_entry(content: bytes, **changes: Any) -> bytes:
    """The file with the entry of its last tensor changed."""
    header, data = parts(content)
    name = last(header)
    return raw({**header, name: {**header[name], **changes}}, data)


def last(header: dict[str, Any]) -> str:
    """The name of the last of a model's tensors."""
    return min((name for name in header if name.endswith(LAST)), key=len)


def with_tree(content: bytes, document: Any) -> bytes:
    """A training state with another tree; a tree of text is taken as it is."""
    text = document if isinstance(document, str) else json.dumps(document)
    return with_key(content, "__metadata__", {"tree": text})


def doubled(content: bytes) -> bytes:
    """The file with a key twice in its header."""
    header, data = parts(content)
    name = last(header)
    again = json.dumps({name: header[name]})
    return raw((json.dumps(header)[:-1] + ", " + again[1:]).encode(), data)


def turned(content: bytes) -> bytes:
    """The file with its header in another order, which is as good."""
    header, data = parts(content)
    return raw(dict([*header.items()][::-1]), data)


def pickled(content: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("tensors"))
    return buffer.getvalue()


Fault = Callable[[bytes], bytes]
CUT: dict[str, Fault] = {
    f"cut at {percent}%": (lambda c, p=percent: c[: int(len(c) * p / 100)])  # type: ignore[misc]
    for percent in CUTS
}
# Each makes a file that is refused out of a whole one.
FAULTS: dict[str, Fault] = {
    **CUT,
    "text": lambda c: b"not a checkpoint",
    "wrong magic": lambda c: b"\x93NUMPY" + c[6:],
    "a zip of something else": lambda c: zipped("a.txt"),
    "a tar archive": lambda c: tarred(),
    "a pickle": lambda c: pickled(Denoiser().state_dict()),
    "a pickle as torch wrote it before 1.6": lambda c: pickled(
        Denoiser().state_dict(), _use_new_zipfile_serialization=False
    ),
    "header longer than the file": lambda c: raw(b"{}", length=10**4),
    "header of 2^63 bytes": lambda c: raw(b"{}", length=2**63),
    "header of -1 bytes": lambda c: raw(b"{}", length=2**64 - 1),
    "header of no bytes": lambda c: raw(b"", c),
    "header too short": lambda c: raw(json.dumps(parts(c)[0]).encode(), b"", length=10),
    "header of 100 MB": lambda c: raw(b"{" + b" " * 10**8 + b"}"),
    "header that is not UTF-8": lambda c: raw(b'{"\xff": 1}'),
    "header that is a list": lambda c: raw([]),
    "header that is a number": lambda c: raw(7),
    "header with NaN": lambda c: with_key(c, "x", math.nan),
    "header nested deeply": lambda c: raw(b'{"a":' * 10**5 + b"1" + b"}" * 10**5),
    "number of 5000 digits": lambda c: raw(b'{"a": ' + b"9" * 5000 + b"}"),
    "a key twice": doubled,
    "metadata that is a list": lambda c: with_key(c, "__metadata__", [1]),
    "metadata of numbers": lambda c: with_key(c, "__metadata__", {"tree": 1}),
    "metadata that is text": lambda c: with_key(c, "__metadata__", "tree"),
    "unknown type": lambda c: with_entry(c, dtype="F7"),
    "type that is a number": lambda c: with_entry(c, dtype=3),
    "type of another size": lambda c: with_entry(c, dtype="F64"),
    "same size, other type": lambda c: with_entry(c, dtype="I32"),
    "shape negative": lambda c: with_entry(c, shape=[-64, -16]),
    "shape text": lambda c: with_entry(c, shape="ab"),
    "shape huge": lambda c: with_entry(c, shape=[2**62, 2**62]),
    "shape of floats": lambda c: with_entry(c, shape=[64.0, 16.0]),
    "shape turned": lambda c: with_entry(c, shape=[16, 64]),
    "shape missing": lambda c: with_key(c, last(parts(c)[0]), {"dtype": "F32"}),
    "offsets beyond the file": lambda c: with_entry(c, data_offsets=[0, 10**12]),
    "offsets backwards": lambda c: with_entry(c, data_offsets=[4096, 0]),
    "offsets that overlap": lambda c: with_entry(c, data_offsets=[0, 4096]),
    "offsets negative": lambda c: with_entry(c, data_offsets=[-4096, 0]),
    "offsets of floats": lambda c: with_entry(c, data_offsets=[0.5, 4096.5]),
    "three offsets": lambda c: with_entry(c, data_offsets=[0, 4096, 8192]),
    "entry that is not a table": lambda c: with_key(c, last(parts(c)[0]), 7),
    "a tensor too many": lambda c: with_key(
        c, "\x1b[31m", {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    ),
    "trailing bytes": lambda c: c + b"x",
    "bytes that no tensor has": lambda c: raw({}, bytes(4096)),
}


def small_state() -> bytes:
    """A training state of a toy as a file."""
    loop = make_loop(Denoiser(), ema_half_life=50)
    loop.iterate()
    return pack({"loop": loop.state_dict(), "seconds": 1.0})


def bombs() -> dict[str, bytes]:
    """Training states of at most some kilobytes that ask for gigabytes, or never end."""
    one = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}

    def bomb(document: Any, header: dict[str, Any] = one, data: bytes = bytes(4)) -> bytes:
        return with_tree(raw(header, data), document)

    def strided(shape: list[int], strides: list[int]) -> bytes:
        return bomb({"dict": [["a", {"strided": ["a", shape, strides]}]]})

    def shaped(*shape: int) -> dict[str, Any]:
        return {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}

    named = {"dict": [["a", {"tensor": "a"}]]}
    return {
        "a view that swells": strided([10**6, 10**6], [0, 0]),
        "strides that leave the memory": strided([2, 10**5], [10**9, 1]),
        "a shape of no strides": strided([10**5, 10**5], []),
        "a huge axis": strided([10**12], [1]),
        "strides of axes of one": strided([1, 1], [2**62, 2**63]),
        "a shape that swells": bomb(named, shaped(10**6, 10**6)),
        "a product that overflows": bomb(named, shaped(2**32, 2**32)),
        "lists in lists": bomb("[" * 20_000 + "]" * 20_000),
        "tables in tables": bomb('{"dict":[["a",' * 5_000 + "1" + "]]}" * 5_000),
        "a tree as deep as JSON is read": bomb("[" * 900 + "]" * 900),
        "a long number": bomb("9" * 20_000),
        "a long power": bomb("1e999999999"),
        "a size": bomb({"size": [2**62] * 9}),
        "a length": raw(b"{}", length=2**40),
        "a device": bomb({"device": "cuda:" + "9" * 5_000}),
    }


# ---- training states in place

NAME = "step-000000002"


class Call:
    """Unpickled, it would call a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def make_gan() -> TinyGAN:
    """A model of two phases on one optimizer."""

    def plan(m: Any, g: Any, d: Any) -> list[Phase]:
        m.generator.requires_grad_(False)
        return [Phase(name=n, loss=m.discriminator_loss, optimizer=d) for n in ("d", "again")]

    return TinyGAN(plan)


def plant(folder: Path, content: bytes) -> Path:
    """Put a state into place, with a valid sidecar."""
    path = folder / f"{NAME}.safetensors"
    path.write_bytes(content)
    sidecar = {"step": 2, "file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(sidecar), encoding="utf-8")
    return path


def make_states(folder: Path) -> tuple[Path, Loop, list[Any]]:
    """A folder with the states of steps 1 and 2, the loop and the state of each."""
    loop = make_loop(Denoiser(), ema_half_life=50)
    states = []
    for _ in range(2):
        loop.iterate()
        states.append(copy.deepcopy({"loop": loop.state_dict(), "seconds": float(loop.step)}))
        save_state(folder, loop.step, states[-1])
    return folder, loop, states


def fits(loop: Loop) -> Callable[[Any], None]:
    return lambda state: check_state(state, loop.model, loop.average, loop.optimizers)


def assert_passed_over(run: tuple[Path, Loop, list[Any]]) -> str:
    """The state of step 1 is taken, nothing of the loop changes; returns what is said of step 2."""
    folder, loop, states = run
    before = copy.deepcopy(loop.state_dict())
    state, notes = load_state(folder, fits(loop))
    assert same_bits(state, states[0]) and same_bits(loop.state_dict(), before)
    assert len(notes) == 1
    assert f"{NAME}.safetensors is damaged and was passed over: " in notes[0]
    assert notes[0].isprintable() and len(notes[0]) < 400
    return notes[0]
