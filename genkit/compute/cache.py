"""Results kept between commands, in the cache folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from genkit.errors import GenkitError
from genkit.io.files import user_cache, write_atomic


def cache_folder(kind: str) -> Path:
    """Folder of results of one kind, which can be computed again: in $GENKIT_CACHE, else in the
    user's cache folder."""
    root = os.environ.get("GENKIT_CACHE") or user_cache()
    return Path(os.path.expanduser(root)) / kind


def read_cached(path: Path) -> dict[str, Tensor] | None:
    """Tensors of any shape from the cache; None if they are not there, are damaged or cannot be
    read."""
    try:
        with safe_open(path, framework="pt") as file:
            recorded = file.metadata()["sha256"]
            found = {name: file.get_tensor(name) for name in file.keys()}
        return found if hash_tensors(found) == recorded else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def write_cached(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors of any shape to the cache. If that fails, they are computed again next time."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save(tensors, {"sha256": hash_tensors(tensors)}))
    except (OSError, GenkitError):
        pass


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """SHA-256, in hex, of names, shapes and values, which safetensors itself does not check."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        hashed.update(f"{name} {tuple(tensors[name].shape)};".encode())
        hashed.update(tensors[name].contiguous().numpy().tobytes())
    return hashed.hexdigest()
