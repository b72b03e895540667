"""Saving and loading: training states for resuming, safetensors for weights to sample from.

A state is hashed; a damaged one is passed over and the one before it is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from genkit.errors import CheckpointError, GenkitError, PluginError, printable
from genkit.io.files import parse_json, read_file, read_json, write_atomic, write_json
from genkit.runs.state_file import compare_shapes, compare_types, read_state

# What `load_state` reads again.
PLAIN = (int, float, complex, bool, str, NoneType, torch.Size, torch.dtype, torch.device)
LEAVES: tuple[type, ...] = (Tensor, nn.Parameter, *PLAIN)
KEEP = 2  # the newest, and one before it in case the newest is damaged
MOST_HEADER_BYTES = 16 * 2**20
MALFORMED = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError)


def save_state(directory: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write the training state of a step, point `last.json` at it, drop all but the newest two.

    The pointer holds the file's SHA-256: torch reads a file with a flipped bit without a word.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    path = directory / f"step-{step:09d}.pt"
    write_atomic(path, content)
    pointer = {"step": step, "file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    write_json(path.with_suffix(".json"), pointer)
    write_json(directory / "last.json", pointer)
    states = [p for p in directory.glob("step-*.pt") if re.fullmatch(r"step-\d{9}", p.stem)]
    whole = sorted(p for p in states if p.with_suffix(".json").exists() and p <= path)
    for old in {*states} - {*whole[-KEEP:]}:  # also later ones: damaged, or they would be this one
        old.with_suffix(".json").unlink(missing_ok=True)  # first: it is nothing without the state
        old.unlink(missing_ok=True)
    for torn in directory.glob(".step-*.tmp"):  # of a run that was killed while it wrote
        torn.unlink(missing_ok=True)
    return path


def check_plain(value: Any, where: str = "it") -> None:
    """Raise PluginError unless a training state holds plain tensors, numbers and text only, in
    dicts, lists, tuples and sets: `load_state` would refuse objects."""
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            check_plain(key, where)
            check_plain(item, f"{where}.{key}")
    elif type(value) in (list, tuple, set):
        for place, item in enumerate(value):
            check_plain(item, f"{where}.{place}")
    elif type(value) not in LEAVES or (isinstance(value, Tensor) and value.is_sparse):
        raise PluginError(
            f"the training state cannot be saved: {where.removeprefix('it.')} is a "
            f"{type(value).__name__}; a model's and an optimizer's state_dict may hold tensors, "
            "numbers and text"
        )


def load_state(
    directory: Path, fits: Callable[[dict[str, Any]], None] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The newest whole training state, and a line on each damaged one that was passed over.

    Raises CheckpointError if there is none. `fits` raises CheckpointError for a state that is
    whole but belongs to something else, as `check_state` does; it is passed over, too.
    """
    notes: list[str] = []
    for path in sorted(directory.glob("step-*.pt"), reverse=True):
        try:
            content = read_file(path)
            expected = read_json(path.with_suffix(".json"))["sha256"]
            if hashlib.sha256(content).hexdigest() != expected:
                raise CheckpointError("its SHA-256 is not the one recorded")
            state = read_state(content)
            if fits:
                fits(state)
            return state, notes
        except Exception as error:  # whatever a damaged file makes torch raise
            reason = printable(str(error).split("\n")[0] or type(error).__name__)[:300]
            notes.append(f"checkpoint {path.name} is damaged and was passed over: {reason}")
    raise CheckpointError(
        f"{directory} holds no whole checkpoint to resume from. " + " ".join(notes)
    )


def save_weights(path: Path, model: nn.Module, card: Mapping[str, Any]) -> str:
    """Write a model's parameters and buffers as safetensors, which takes no views and no sharing:
    each tensor is a copy, and tied weights are written twice. Returns the file's SHA-256.

    The card, of JSON's types, goes into the file as metadata "genkit": safetensors writes several
    keys in random order, and then equal weights would not make equal files.
    """
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    content = save(tensors, {"genkit": json.dumps(card)})
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def save_best(
    directory: Path, model: nn.Module, card: Mapping[str, Any], score: Mapping[str, Any]
) -> None:
    """Write the weights that scored best so far, point `best.json` at them, drop those before."""
    path = directory / f"best-{card['step']:09d}.safetensors"
    digest = save_weights(path, model, card)
    pointer = {"step": card["step"], "file": path.name, "sha256": digest, **score}
    write_json(directory / "best.json", pointer)
    for old in directory.glob("best-*.safetensors"):
        if old != path:
            old.unlink(missing_ok=True)


def read_best(directory: Path) -> dict[str, Any] | None:
    """What `best.json` says: "step", "file", "sha256", "column" and "value"; None if there is no
    whole one."""
    try:
        pointer = read_json(directory / "best.json")
        step, name, digest = int(pointer["step"]), str(pointer["file"]), str(pointer["sha256"])
        column, value = str(pointer["column"]), float(pointer["value"])
    except (GenkitError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return {"step": step, "file": name, "sha256": digest, "column": column, "value": value}


def best_weights(directory: Path) -> Path:
    """The file of the best weights; CheckpointError if there is none or it is damaged."""
    pointer = read_best(directory)
    if pointer is None:
        raise CheckpointError(
            f"{directory} holds no best weights: the run was not watched, or has just begun"
        )
    path = directory / Path(pointer["file"]).name
    try:
        digest = hashlib.sha256(read_file(path)).hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if digest != pointer["sha256"]:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in best.json")
    return path


def load_weights(path: Path, model: nn.Module) -> None:
    """Copy weights from a safetensors file into a model, once all of them are what they must be."""
    copy_weights(read_weights(path, model), model)


def copy_weights(tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Copy tensors that were read for this model into it."""
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def read_weights(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The weights for a model in a safetensors file; the model may be one without memory.

    Names, shapes and types must be the model's own and all values finite, or else CheckpointError
    names the first fault.
    """
    own: dict[str, Tensor] = model.state_dict()
    room = 8 * sum(tensor.numel() for tensor in own.values())  # no type has more than 8 bytes
    try:
        content = read_file(path, room + MOST_HEADER_BYTES)
        size = int.from_bytes(content[:8], "little")
        if size > min(MOST_HEADER_BYTES, len(content) - 8):
            raise ValueError(f"its header would have {size:,} bytes")
        header = parse_json(content[8 : 8 + size])
        header.pop("__metadata__", None)
        compare_shapes({name: each["shape"] for name, each in header.items()}, own, path)
        loaded = load(content)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: the run has saved no weights yet") from None
    except (SafetensorError, *MALFORMED) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read as safetensors: {reason}") from None
    compare_types(loaded, own, path)
    return loaded
