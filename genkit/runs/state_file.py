"""Checks what was read from a file of weights or training state, before any of it is used.

Nothing here copies a tensor into a model.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genkit.errors import CheckpointError

RATES = ("lr", "initial_lr")


def check_state(
    state: Mapping[str, Any],
    model: nn.Module,
    average: nn.Module | None,
    optimizers: Sequence[Optimizer],
    averages: Mapping[int, nn.Module] | None = None,
) -> None:
    """Raise CheckpointError unless a state belongs to these objects and is finite; changes nothing.

    Names, shapes and types are compared. torch's own optimizers load states that make them fail
    later, so each takes one step from its state, on tensors without memory. States of a plugin's
    optimizers are not looked at: their form is its own, and a twin would share what they hold.
    """
    loop, seconds = state.get("loop"), state.get("seconds")
    if not isinstance(loop, dict):
        raise CheckpointError("it is not a training state: it has no 'loop'")
    if type(loop.get("step")) is not int or not 0 <= loop["step"] < 2**53:
        raise CheckpointError(f"its step is {loop.get('step')!r:.80}")
    if not isinstance(seconds, float) or not 0 <= seconds < math.inf:
        raise CheckpointError(f"its seconds are {seconds!r:.80}")
    parts = {"model": model, **({"average": average} if average else {})}
    contents, further = dict(loop), loop.get("averages", {})
    if not isinstance(further, dict) or list(further) != [str(each) for each in averages or {}]:
        raise CheckpointError("it is of a training with other averages")
    for half_life, module in (averages or {}).items():
        name = f"average over {half_life} images"
        parts[name], contents[name] = module, further[str(half_life)]
    for part, module in parts.items():
        found, own = contents.get(part), module.state_dict()
        if not isinstance(found, dict):
            raise CheckpointError(f"it has no {part!r}")
        compare_shapes({name: getattr(v, "shape", ()) for name, v in found.items()}, own, "it")
        compare_types(found, own, "it")
    skipped, logs = loop.get("skipped", {}), loop.get("logs", {})
    if not isinstance(skipped, dict) or not all(type(n) is int for n in skipped.values()):
        raise CheckpointError(f"its skipped updates are {skipped!r:.80}")
    if not isinstance(logs, dict) or not all(map(_is_scalar, logs.values())):
        raise CheckpointError("its values to log are not scalars")
    saved = loop.get("optimizers")
    if not isinstance(saved, list) or len(saved) != len(optimizers):
        raise CheckpointError(f"it is not of a model with {len(optimizers)} optimizers")
    for number, (optimizer, content) in enumerate(zip(optimizers, saved, strict=True), start=1):
        if not type(optimizer).__module__.startswith("torch.optim"):
            continue  # a plugin's: only it knows the form of its state
        if any(tensor.isnan().any() for tensor in _tensors(content)):
            raise CheckpointError(f"optimizer {number} holds values that are not a number")
        try:
            rates = [float(group[key]) for group in content["param_groups"] for key in RATES]
            if not all(map(math.isfinite, rates)):
                raise CheckpointError(f"its learning rates are {rates}")
            _rehearse(optimizer, content)
        except Exception as error:  # whatever a state of another optimizer makes it raise
            reason = str(error).split("\n")[0] or type(error).__name__
            raise CheckpointError(f"optimizer {number} cannot continue from it: {reason}") from None


def _is_scalar(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return type(value) in (int, float)


def _tensors(nest: Any) -> Iterator[Tensor]:
    """All tensors in dicts, lists and tuples."""
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, (dict, list, tuple)):
        for item in nest.values() if isinstance(nest, dict) else nest:
            yield from _tensors(item)


def _rehearse(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Take the next step from a saved state with a twin of the optimizer on "meta" tensors.

    Where a new optimizer cannot do that either, only shapes are compared.
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
        """The state with its tensors on "meta", except scalars, which count steps."""
        return {number: {k: shadow(v) for k, v in e.items()} for number, e in state.items()}

    def shadow(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to("meta") if value.ndim else value.clone()

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entry in saved["state"].items():
        own = parameters[number].shape
        for value in entry.values():
            if isinstance(value, Tensor) and value.ndim:
                value.to("meta").expand(own)  # raises if the shapes do not match
        if not 0 <= float(entry.get("step", 0)) < math.inf:
            raise ValueError(f"it took {entry['step']} steps")
    try:
        step(step({}))
    except (RuntimeError, TypeError):  # for instance because it reads values
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
            raise CheckpointError(f"{where} holds {name!r:.200}, which the model does not have")
        shape, expected = tuple(shapes[name]), tuple(getattr(own[name], "shape", ()))
        if shape != expected:
            raise CheckpointError(f"{where}: {name!r} has shape {shape}, the model {expected}")


def compare_types(found: Mapping[str, Any], own: Mapping[str, Any], where: object) -> None:
    """Raise CheckpointError unless types are a model's own and numbers are finite."""
    for name, value in found.items():
        kinds = [getattr(each, "dtype", type(each).__name__) for each in (value, own[name])]
        if kinds[0] != kinds[1]:
            raise CheckpointError(f"{where}: {name!r} is {kinds[0]}, the model has {kinds[1]}")
        if isinstance(value, Tensor):
            wide = value.float() if value.itemsize == 1 else value  # float8 has no isfinite
            if not torch.isfinite(wide).all():
                raise CheckpointError(f"{where}: {name!r} holds NaN or infinite values")
