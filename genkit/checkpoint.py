"""Saving and loading: training states for resuming, safetensors for weights to sample from.

A state is hashed; a damaged one is passed over and the one before it is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from genkit.errors import CheckpointError
from genkit.rundir import read_json, write_atomic, write_json

KEEP = 2  # the newest, and one before it in case the newest is damaged


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
    states = sorted(p for p in directory.glob("step-*.pt") if re.fullmatch(r"step-\d{9}", p.stem))
    for old in states[:-KEEP]:
        old.unlink(missing_ok=True)
        old.with_suffix(".json").unlink(missing_ok=True)
    for torn in directory.glob(".step-*.tmp"):  # of a run that was killed while it wrote
        torn.unlink(missing_ok=True)
    return path


def load_state(directory: Path) -> tuple[dict[str, Any], list[str]]:
    """The newest whole training state, and a line on each damaged one that was passed over.

    Raises CheckpointError if there is none. Only tensors and plain values are read.
    """
    notes: list[str] = []
    for path in sorted(directory.glob("step-*.pt"), reverse=True):
        try:
            content = path.read_bytes()
            expected = read_json(path.with_suffix(".json"))["sha256"]
            if hashlib.sha256(content).hexdigest() != expected:
                raise CheckpointError("its SHA-256 is not the one recorded")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return state, notes
        except Exception as error:  # whatever a damaged file makes torch raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            notes.append(f"checkpoint {path.name} is damaged and was passed over: {reason}")
    raise CheckpointError(
        f"{directory} holds no whole checkpoint to resume from. " + " ".join(notes)
    )


def save_weights(path: Path, model: nn.Module, card: Mapping[str, Any]) -> None:
    """Write a model's parameters and buffers as safetensors, which takes no views and no sharing:
    each tensor is a copy, and tied weights are written twice.

    The card, of JSON's types, goes into the file as metadata "genkit": safetensors writes several
    keys in random order, and then equal weights would not make equal files.
    """
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    write_atomic(path, save(tensors, {"genkit": json.dumps(card)}))


def load_weights(path: Path, model: nn.Module) -> None:
    """Copy weights from a safetensors file into a model.

    Names, shapes and types must be the model's own: they are compared before anything is
    copied, and CheckpointError names the first difference.
    """
    own: dict[str, Tensor] = model.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name in sorted(own.keys() | names):
                if name not in names:
                    raise CheckpointError(f"{path} lacks {name!r}: it is for another model")
                if name not in own:
                    raise CheckpointError(f"{path} holds {name!r}, which the model has not")
                shape = tuple(file.get_slice(name).get_shape())
                if shape != tuple(own[name].shape):
                    raise CheckpointError(
                        f"{path}: {name!r} has shape {shape}, the model {tuple(own[name].shape)}"
                    )
            loaded = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: the run has saved no weights yet") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from None
    for name, tensor in loaded.items():
        if tensor.dtype != own[name].dtype:
            raise CheckpointError(
                f"{path}: {name!r} is {tensor.dtype}, the model has {own[name].dtype}"
            )
    with torch.no_grad():
        for name, tensor in loaded.items():
            own[name].copy_(tensor)
