"""Saving and loading: training states to resume from, weights to sample from, both safetensors.

A state is hashed; a damaged one is passed over and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from genkit.errors import CheckpointError, GenkitError, plugin_code, printable
from genkit.io.files import read_file, read_json, write_atomic, write_json
from genkit.io.records import BestPointer
from genkit.runs.state_file import compare_shapes, compare_types
from genkit.runs.tree import MALFORMED, MOST_HEADER_BYTES, StateDict, pack, parse_header, unpack

KEEP = 2  # the newest, and one before it in case the newest is damaged


def save_state(directory: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write the training state of a step, point `last.json` at it, drop all but the newest two.

    The pointer holds the file's SHA-256, since safetensors does not notice a flipped bit.

    Raises:
        PluginError: the state holds more than tensors, numbers and text.
        WriteError: it could not be written.
    """
    with plugin_code("saving the training state"):
        content = pack(dict(state))
    path = directory / f"step-{step:09d}.safetensors"
    write_atomic(path, content)
    pointer = {"step": step, "file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    write_json(path.with_suffix(".json"), pointer)
    write_json(directory / "last.json", pointer)
    states = [
        p for p in directory.glob("step-*.safetensors") if re.fullmatch(r"step-\d{9}", p.stem)
    ]
    whole = sorted(p for p in states if p.with_suffix(".json").exists() and p <= path)
    for old in {*states} - {*whole[-KEEP:]}:  # also later ones, which are damaged
        old.with_suffix(".json").unlink(
            missing_ok=True
        )  # first, since it is useless without the state
        old.unlink(missing_ok=True)
    for torn in directory.glob(".step-*.tmp"):  # of a run that was killed while it wrote
        torn.unlink(missing_ok=True)
    return path


def load_state(
    directory: Path, fits: Callable[[StateDict], None] | None = None
) -> tuple[StateDict, list[str]]:
    """The newest whole training state, and a line on each damaged one that was passed over.

    Raises CheckpointError if there is none. `fits` raises CheckpointError for a state that is
    whole but belongs to something else, as `check_state` does; it is passed over, too.
    """
    notes: list[str] = []
    for path in sorted(directory.glob("step-*.safetensors"), reverse=True):
        try:
            content = read_file(path)
            expected = read_json(path.with_suffix(".json"))["sha256"]
            if hashlib.sha256(content).hexdigest() != expected:
                raise CheckpointError("its SHA-256 is not the one recorded")
            state = unpack(content)
            if not isinstance(state, dict):
                raise CheckpointError(f"it holds a {type(state).__name__}, not a training state")
            if fits:
                fits(state)
            return state, notes
        except Exception as error:  # whatever a damaged file makes its readers raise
            reason = printable(str(error).split("\n")[0] or type(error).__name__)[:300]
            notes.append(f"checkpoint {path.name} is damaged and was passed over: {reason}")
    if not notes and (old := sorted(directory.glob("step-*.pt"))):
        raise CheckpointError(
            f"{old[-1]} was written by an older genkit, whose training states are not read any "
            "more: train again; the run's model.safetensors still samples"
        )
    raise CheckpointError(
        f"{directory} holds no whole checkpoint to resume from. " + " ".join(notes)
    )


def save_weights(path: Path, model: nn.Module, card: Mapping[str, Any]) -> str:
    """Write a model's parameters and buffers as safetensors; returns the file's SHA-256, in hex.

    Each tensor is written by itself, tied weights twice, since safetensors takes no views.

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
    directory: Path, model: nn.Module, card: Mapping[str, Any], column: str, value: float
) -> None:
    """Write the weights that scored best so far, point `best.json` at them, drop those before.

    `column` is the score's name, `value` what it was.
    """
    step = int(card["step"])
    path = directory / f"best-{step:09d}.safetensors"
    digest = save_weights(path, model, card)
    pointer = BestPointer(step=step, file=path.name, sha256=digest, column=column, value=value)
    pointer.write(directory / "best.json")
    for old in directory.glob("best-*.safetensors"):
        if old != path:
            old.unlink(missing_ok=True)


def read_best(directory: Path) -> BestPointer | None:
    """What `best.json` says; None if there is no whole one."""
    try:
        return BestPointer.read(directory / "best.json")
    except GenkitError:
        return None


def best_weights(directory: Path) -> Path:
    """The file of the best weights; CheckpointError if there is none or it is damaged."""
    pointer = read_best(directory)
    if pointer is None:
        raise CheckpointError(
            f"{directory} holds no best weights: the run was not watched, or has just begun"
        )
    path = directory / Path(pointer.file).name
    try:
        digest = hashlib.sha256(read_file(path)).hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    if digest != pointer.sha256:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in best.json")
    return path


def load_weights(path: Path, model: nn.Module) -> None:
    """Copy weights from a safetensors file into a model, after all of them were checked."""
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
        header = parse_header(content)
        header.pop("__metadata__", None)
        compare_shapes({name: each["shape"] for name, each in header.items()}, own, path)
        loaded = load(content)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: the run has saved no weights yet") from None
    except MALFORMED as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read as safetensors: {reason}") from None
    compare_types(loaded, own, path)
    return loaded
