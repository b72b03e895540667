"""Trees of tensors and plain values as one safetensors file, which holds no code.

The tensors lie under their dotted paths; the metadata "tree" holds the rest as JSON. There null,
true, false, finite numbers, text and lists stand for themselves. All else is a table of one key,
its kind: {"dict": [[key, value], ...]}, {"tuple": [...]}, {"tensor": "its.path"}.
"""

from __future__ import annotations

import functools
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from genkit.errors import CheckpointError, PluginError, printable
from genkit.io.files import parse_json

StateDict = dict[
    str, Any
]  # tensors and plain values of any depth, as torch's modules and optimizers give them

MOST_HEADER_BYTES = 16 * 2**20
MOST_DEPTH = 100
MOST_BITS = 10_000  # of a whole number
# What a damaged file makes its readers raise.
MALFORMED = (
    *(SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError),
    *(RuntimeError, MemoryError, OverflowError),
)
DTYPES = {str(each): each for each in vars(torch).values() if isinstance(each, torch.dtype)}
# Kinds that are written as a list, and as text: their types, and how they are read.
SEQUENCES: dict[str, type] = {"tuple": tuple, "set": set, "size": torch.Size}
TEXTS: dict[str, tuple[type, Callable[[str], Any]]] = {
    "float": (float, float),  # infinite, or not a number
    "complex": (complex, complex),
    "dtype": (torch.dtype, DTYPES.__getitem__),
    "device": (torch.device, torch.device),
}


def pack(tree: Any) -> bytes:
    """A safetensors file's bytes that hold a tree of tensors, numbers and text in dicts, lists,
    tuples and sets.

    Tensors of any shape keep their dtype, and their strides where these leave no gaps. Each is
    written by itself, also where several share memory.

    Raises:
        PluginError: something else is in the tree; the message names its path.
    """
    tensors: dict[str, Tensor] = {}
    document = json.dumps(_encode(tree, (), tensors), separators=(",", ":"))
    storages = set()
    for name, tensor in tensors.items():  # safetensors takes no shared memory
        start = tensor.untyped_storage().data_ptr()
        if start in storages:
            tensors[name] = tensor.clone()
        storages.add(start)
    content = save(tensors, {"tree": document})
    if (size := int.from_bytes(content[:8], "little")) > MOST_HEADER_BYTES:
        raise PluginError(
            f"the training state cannot be saved: its {len(tensors):,} tensors and other values "
            f"need a header of {size:,} bytes, the most are {MOST_HEADER_BYTES:,}"
        )
    return content


def unpack(content: bytes) -> Any:
    """The tree in a safetensors file's bytes, its tensors on the CPU.

    Raises:
        CheckpointError: it is not such a file, or not one that `pack` writes.
    """
    try:
        header = parse_header(content)
        tensors = load(content)
        tree = _decode(parse_json(header["__metadata__"]["tree"]), tensors)
    except MALFORMED as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise CheckpointError(f"it is not a training state: {reason:.200}") from None
    for name in tensors:
        raise CheckpointError(f"it holds {name!r:.200}, which its tree does not name")
    return tree


def parse_header(content: bytes) -> dict[str, Any]:
    """The header of a safetensors file: each tensor's type, shape and place by its name, and
    "__metadata__"; ValueError if it is damaged or too large."""
    size = int.from_bytes(content[:8], "little")
    if size > min(MOST_HEADER_BYTES, len(content) - 8):
        raise ValueError(f"its header would have {size:,} bytes")
    header = parse_json(content[8 : 8 + size])
    if not isinstance(header, dict):
        raise ValueError("its header is not a table")
    return header


def _encode(value: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; its tensors go into `tensors`."""
    kind = type(value)
    if len(path) > MOST_DEPTH:
        raise _refusal(path[:4], "nested too deeply")
    if value is None or kind in (bool, str):
        return value
    if kind is int and value.bit_length() <= MOST_BITS:
        return value
    if kind is float and math.isfinite(value):
        return value
    if kind in (Tensor, nn.Parameter):
        return _encode_tensor(value, path, tensors)
    if kind in (dict, OrderedDict):
        pairs = []
        for key, item in value.items():
            below = (*path, str(key))
            pairs.append([_encode(key, below, tensors), _encode(item, below, tensors)])
        if kind is dict:
            return {"dict": pairs}
        # torch keeps the versions of its modules beside a module's state_dict.
        versions = getattr(value, "_metadata", None)
        return {"state_dict": [pairs, _encode(versions, (*path, "_metadata"), tensors)]}
    if kind is list or kind in SEQUENCES.values():
        items = [_encode(item, (*path, str(i)), tensors) for i, item in enumerate(value)]
        return next(({name: items} for name, each in SEQUENCES.items() if each is kind), items)
    for name, (each, _) in TEXTS.items():
        if kind is each:
            return {name: str(value)}
    raise _refusal(path, f"a {kind.__name__}")


def _encode_tensor(tensor: Tensor, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    """A reference to a tensor, which goes into `tensors` under a name of its own."""
    dense = tensor.layout == torch.strided and tensor.device.type != "meta"
    if not dense or not _storable(tensor.dtype):
        raise _refusal(path, f"a tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}")
    name = _name(path)
    while name in tensors or name == "__metadata__":
        name += "'"
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    strides = torch.empty_like(plain, device="meta").stride()
    if not plain.numel() or strides == torch.empty(plain.shape, device="meta").stride():
        tensors[name] = plain.contiguous()
        return {"tensor": name}
    order = sorted(range(plain.ndim), key=lambda axis: -strides[axis])
    tensors[name] = plain.permute(order).contiguous()  # as it lies in memory
    return {"strided": [name, list(plain.shape), list(strides)]}


@functools.cache
def _storable(dtype: torch.dtype) -> bool:
    """Whether safetensors can write and read a dtype."""
    try:
        load(save({"tensor": torch.zeros(1).to(dtype)}))
    except (KeyError, ValueError, RuntimeError):
        return False
    return True


def _name(path: Sequence[str]) -> str:
    return printable(".".join(path)) or "it"


def _refusal(path: Sequence[str], what: str) -> PluginError:
    return PluginError(
        f"the training state cannot be saved: {_name(path)} is {what}; a model's and an "
        "optimizer's state_dict may hold dense tensors, numbers and text"
    )


def _decode(node: Any, tensors: dict[str, Tensor], depth: int = 0) -> Any:
    """What `_encode` made a node of; each tensor is taken out of `tensors`."""
    if depth > MOST_DEPTH:
        raise ValueError("its tree is nested too deeply")

    def below(nodes: Sequence[Any]) -> list[Any]:
        return [_decode(each, tensors, depth + 1) for each in nodes]

    if isinstance(node, list):
        return below(node)
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return _take(content, tensors)
    if kind == "strided":
        name, shape, strides = content
        return _lay_out(_take(name, tensors), shape, strides)
    if kind in ("dict", "state_dict"):
        pairs, versions = (content, None) if kind == "dict" else content
        found: dict[Any, Any] = {} if kind == "dict" else OrderedDict()
        for pair in pairs:
            key, item = below(pair)
            found[key] = item
        if len(found) < len(pairs):
            raise ValueError("its tree has a key twice")
        if versions is not None:
            found._metadata = _versions(_decode(versions, tensors, depth + 1))  # type: ignore[attr-defined]
        return found
    if kind in SEQUENCES:
        return SEQUENCES[kind](below(content))
    if kind in TEXTS:
        return TEXTS[kind][1](content)
    raise ValueError(f"its tree holds {kind!r:.80}, which is not a kind of value")


def _take(name: str, tensors: dict[str, Tensor]) -> Tensor:
    if name not in tensors:
        raise ValueError(f"its tree names {name!r:.200}, which is not there or was named before")
    return tensors.pop(name)


def _lay_out(tensor: Tensor, shape: Sequence[int], strides: Sequence[int]) -> Tensor:
    """The values as they lie in memory, under another shape and its strides; ValueError if these
    leave gaps, overlap or leave the memory."""
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size < 0 or (size > 1 and stride != expected):
            raise ValueError(f"its tree has strides {strides!r:.80} for the shape {shape!r:.80}")
        expected *= size
    if expected != tensor.numel():
        raise ValueError(f"its tree has {tensor.numel():,} values for the shape {shape!r:.80}")
    return tensor.as_strided(shape, strides)


def _versions(value: Any) -> dict[str, dict[str, Any]]:
    """The versions of a module's parts, as torch reads them; ValueError if they are not."""
    for entry in value.values():
        if not isinstance(entry, dict) or type(entry.get("version", 1)) is not int:
            raise ValueError(f"its tree has the version {entry!r:.80}")
    return dict(value)
