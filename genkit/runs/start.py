"""A training that begins with the weights of another run, as far as they fit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from genkit.errors import CheckpointError, UsageError, reason_of
from genkit.io.files import read_file
from genkit.io.run_directory import RunDir
from genkit.io.run_records import StartRecord
from genkit.model import GenerativeModel
from genkit.runs.checkpoint import copy_weights
from genkit.runs.state_file import compare_types
from genkit.specs import TrainerSpec

MOST_NAMED = 4  # weights in a line


def take_weights(path: Path, spec: TrainerSpec, model: GenerativeModel) -> StartRecord:
    """Copy the averaged weights of a run whose names and shapes are the model's own into it.

    Raises:
        UsageError: the path is not a run with weights, the run is of another kind of model, or
            nothing of it fits.
    """
    try:
        directory = RunDir.open(Path(os.path.expanduser(path)))
        record = directory.record()
    except UsageError as error:
        raise UsageError(f"--from: {error}") from None
    if record.model != spec.name:
        raise UsageError(
            f"--from {path} is a run of {record.model}, whose weights do not fit {spec.name}; name "
            f"a run of {spec.name}, or leave --from out"
        )
    own: dict[str, Tensor] = model.state_dict()
    weights = directory.weights_path
    try:
        digest = hashlib.sha256(read_file(weights)).hexdigest()
        taken, others = _fitting(weights, own)
        compare_types(taken, own, weights)
    except OSError as error:
        raise UsageError(f"--from: {weights} cannot be read: {reason_of(error)}") from None
    except (SafetensorError, CheckpointError) as error:
        raise UsageError(f"--from: {weights} cannot be used: {error}") from None
    if not taken:
        raise UsageError(f"--from {path}: none of its weights has a name and shape of this model")
    copy_weights(taken, model)
    left = tuple(_left(name, own, others) for name in own if name not in taken)
    unused = tuple(name for name in others if name not in own)
    return StartRecord(sha256=digest, taken=len(taken), left=left, unused=unused)


def describe_start(path: Path, start: StartRecord) -> str:
    """A line on what was taken from a run and what was not."""
    whole = start.taken + len(start.left)
    line = f"{start.taken} of {whole} weights are those of {path}"
    if start.left:
        line += f"; new are {_listed(start.left)}"
    if start.unused:
        line += f"; not used are {_listed(start.unused)}"
    return line


def _fitting(
    path: Path, own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """The tensors of a file that have a name and shape of the model, and the shapes of the rest."""
    taken, others = {}, {}
    with safe_open(path, "pt") as file:
        for name in file.keys():
            shape = tuple(file.get_slice(name).get_shape())
            if name in own and shape == tuple(own[name].shape):
                taken[name] = file.get_tensor(name)
            else:
                others[name] = shape
    return taken, others


def _left(name: str, own: Mapping[str, Tensor], others: Mapping[str, tuple[int, ...]]) -> str:
    """A weight that was not taken, with its shape if the run's has another one."""
    if name not in others:
        return name
    return f"{name} {tuple(own[name].shape)}, there {others[name]}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return "; ".join(names[:MOST_NAMED]) + more
