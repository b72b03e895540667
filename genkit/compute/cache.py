"""Results kept between commands, in the cache folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from genkit.errors import GenkitError
from genkit.io.files import write_atomic


def cache_folder(kind: str) -> Path:
    """The folder for what can be computed again: in $GENKIT_CACHE, else in ~/.cache/genkit."""
    root = os.environ.get("GENKIT_CACHE") or Path.home() / ".cache" / "genkit"
    return Path(root) / kind


def read_kept(path: Path) -> dict[str, Tensor] | None:
    """Tensors by name out of the cache; None if they are missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            recorded = file.metadata()["sha256"]
            found = {name: file.get_tensor(name) for name in file.keys()}
        return found if digest(found) == recorded else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def keep(path: Path, tensors: dict[str, Tensor]) -> None:
    """Keep tensors for the next time; a cache that cannot be written is only slower."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save(tensors, {"sha256": digest(tensors)}))
    except (OSError, GenkitError):
        pass


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes and numbers: safetensors does not notice a flipped bit."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        hashed.update(f"{name} {tuple(tensors[name].shape)};".encode())
        hashed.update(tensors[name].contiguous().numpy().tobytes())
    return hashed.hexdigest()
