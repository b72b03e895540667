"""What is in a file of weights or of training state, looked at before it is believed.

Nothing here copies a tensor into a model, and none of it runs what the file's author wrote.
"""

from __future__ import annotations

import copy
import io
import math
import pickletools
import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genkit.errors import CheckpointError

MOST_VALUES = 1_000_000  # of a training state, tensors and numbers
RATES = ("lr", "initial_lr")
# What a pickle of plain tensors, numbers and text names.
PLAIN = re.compile(
    r"torch (\w+Storage|Size|device|bool|b?float\w+|u?int\d+|complex\d+)|collections \w+Dict"
    r"|torch\.storage UntypedStorage|torch\._utils _rebuild_(tensor_v[23]|parameter)"
    r"|(__builtin__|builtins) (set|complex)|collections Counter"
)


def read_state(content: bytes) -> dict[str, Any]:
    """A training state out of a file's bytes: plain tensors, numbers, text, lists and dicts.

    torch allows more: packed members, `bytearray(10**12)`, codecs and views that swell to any size,
    older formats. These are refused before torch sees the file. Raises whatever torch does.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        packed = [m.filename for m in members if m.compress_type or m.file_size != m.compress_size]
        outside = [n for n in names if n.startswith("/") or {"..", ""} & set(n.split("/"))]
        if packed or outside or len(set(names)) < len(names) or len(names) < 2:
            what = f"{packed[0]!r} is packed" if packed else f"it has odd members {names[:3]}"
            raise CheckpointError(f"it is no archive that genkit writes: {what}")
        if sum(member.file_size for member in members) > len(content):
            raise CheckpointError("its members overlap")
        code = [archive.read(name) for name in names if name.endswith("/data.pkl")]
    for opcode, name, _ in pickletools.genops(code[0]):
        if opcode.name == "GLOBAL" and not PLAIN.fullmatch(str(name)):
            raise CheckpointError(f"it asks for {name}, which no training state needs")
    state: dict[str, Any] = torch.load(  # noqa: TID251
        io.BytesIO(content), map_location="cpu", weights_only=True
    )
    if not isinstance(state, dict):
        raise CheckpointError(f"it holds a {type(state).__name__}, no training state")
    for tensor in _tensors(state):
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise CheckpointError("it holds a tensor of an odd kind")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"it holds a view that swells to {tuple(tensor.shape)}")
    return state


def _tensors(nest: Any) -> list[Tensor]:
    """All tensors in dicts, lists and tuples; CheckpointError if these hold themselves, or one
    another so often that to go through them would never end."""
    found, waiting, count = [], [nest], 0
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (dict, list, tuple, set)):
            count += len(item)
            if count > MOST_VALUES:
                raise CheckpointError(f"it holds more than {MOST_VALUES:,} values")
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return found


def check_state(
    state: Mapping[str, Any],
    model: nn.Module,
    average: nn.Module | None,
    optimizers: Sequence[Optimizer],
) -> None:
    """Raise CheckpointError if a state is not of these, or has a NaN; changes nothing.

    Names, shapes and types are compared. What torch's own optimizers would take without a look
    and then choke on, they are made to take a step with, on tensors that have no memory.
    """
    loop, seconds = state.get("loop"), state.get("seconds")
    if not isinstance(loop, dict):
        raise CheckpointError("it is no training state: it has no 'loop'")
    if type(loop.get("step")) is not int or not 0 <= loop["step"] < 2**53:
        raise CheckpointError(f"its step is {loop.get('step')!r:.80}")
    if not isinstance(seconds, float) or not 0 <= seconds < math.inf:
        raise CheckpointError(f"its seconds are {seconds!r:.80}")
    parts = {"model": model, **({"average": average} if average else {})}
    for part, module in parts.items():
        found, own = loop.get(part), module.state_dict()
        if not isinstance(found, dict):
            raise CheckpointError(f"it has no {part!r}")
        compare_shapes({name: getattr(v, "shape", ()) for name, v in found.items()}, own, "it")
        compare_types(found, own, "it")
    saved = loop.get("optimizers")
    if not isinstance(saved, list) or len(saved) != len(optimizers):
        raise CheckpointError(f"it is not of a model with {len(optimizers)} optimizers")
    for number, (optimizer, content) in enumerate(zip(optimizers, saved, strict=True), start=1):
        if any(tensor.isnan().any() for tensor in _tensors(content)):
            raise CheckpointError(f"optimizer {number} holds values that are not a number")
        try:
            rates = [float(group[key]) for group in content["param_groups"] for key in RATES]
            if not all(map(math.isfinite, rates)):
                raise CheckpointError(f"its learning rates are {rates}")
            _rehearse(optimizer, content)
        except Exception as error:  # whatever an optimizer makes of what is not its own
            reason = str(error).split("\n")[0] or type(error).__name__
            raise CheckpointError(f"optimizer {number} cannot go on from it: {reason}") from None


def _rehearse(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Take the next step from a saved state with a twin of the optimizer on "meta" tensors.

    Where that cannot be done, only shapes are compared. Other optimizers than torch's are left
    alone: they may hold what a twin would share.
    """

    def step(saved: Mapping[str, Any]) -> Mapping[str, Any]:
        twin = copy.copy(optimizer)  # without hooks
        twin.state = defaultdict(dict)
        twin.param_groups = [
            {**group, "params": [torch.empty_like(p, device="meta") for p in group["params"]]}
            for group in optimizer.param_groups
        ]
        if saved:
            twin.load_state_dict({**saved, "state": shadows(saved["state"])})
        for group in twin.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter)
        twin.step()
        return twin.state_dict()

    def shadows(state: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
        """The state without its numbers, except those that stand alone: counts of steps."""
        return {number: {k: shadow(v) for k, v in e.items()} for number, e in state.items()}

    def shadow(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to("meta") if value.ndim else value.clone()

    if not type(optimizer).__module__.startswith("torch.optim"):
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entry in saved["state"].items():
        own = parameters[number].shape
        for value in entry.values():
            if isinstance(value, Tensor) and value.ndim:
                value.to("meta").expand(own)  # raises if it cannot be
        if not 0 <= float(entry.get("step", 0)) < math.inf:
            raise ValueError(f"it took {entry['step']} steps")
    try:
        step(step({}))
    except (RuntimeError, TypeError):  # it looks at values, say
        return
    step(saved)


def compare_shapes(
    shapes: Mapping[str, Sequence[int]], own: Mapping[str, Tensor], where: object
) -> None:
    """Raise CheckpointError unless names and shapes are a model's own."""
    for name in sorted(own.keys() | shapes.keys(), key=str):
        if name not in shapes:
            raise CheckpointError(f"{where} lacks {name!r}: it is for another model")
        if name not in own:
            raise CheckpointError(f"{where} holds {name!r:.200}, which the model has not")
        shape, expected = tuple(shapes[name]), tuple(getattr(own[name], "shape", ()))
        if shape != expected:
            raise CheckpointError(f"{where}: {name!r} has shape {shape}, the model {expected}")


def compare_types(found: Mapping[str, Any], own: Mapping[str, Any], where: object) -> None:
    """Raise CheckpointError unless types are a model's own and numbers are finite."""
    for name, value in found.items():
        kinds = [getattr(each, "dtype", type(each).__name__) for each in (value, own[name])]
        if kinds[0] != kinds[1]:
            raise CheckpointError(f"{where}: {name!r} is {kinds[0]}, the model has {kinds[1]}")
        if isinstance(value, Tensor) and not torch.isfinite(value).all():
            raise CheckpointError(f"{where}: {name!r} holds NaN or infinite values")
