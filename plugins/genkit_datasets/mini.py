"""The balanced subset of MNIST that ships with genkit: no download, ready in a moment."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genkit.data import Split, Splits
from genkit.errors import PluginError
from genkit.specs import Config

PATH = Path(__file__).with_name("mnist_mini.npz")
SHA256 = "735a73f8c20d52de137283b7af9089906c0e43d021d678064e29a043e769a22b"


def load(config: Config, source: str | None, root: Path) -> Splits:
    """10,000 + 2,000 digits, uint8 (N, 1, 28, 28), each digit equally often.

    No argument is used.

    Raises:
        PluginError: the embedded file is damaged.
    """
    arrays = read_embedded(PATH, SHA256)
    train, test = (
        Split(
            arrays[f"{split}_images"][:, None],  # (N, 28, 28) -> (N, 1, 28, 28)
            arrays[f"{split}_labels"].astype(np.int64),
        )
        for split in ("train", "test")
    )
    return Splits(train, test, tuple("0123456789"))


def read_embedded(path: Path, sha256: str) -> dict[str, NDArray[np.uint8]]:
    """The arrays of an .npz file that ships with genkit, by name.

    Raises:
        PluginError: the file is damaged or missing.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PluginError(f"{path} cannot be read ({error}); install genkit again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise PluginError(
            f"{path} is damaged: its SHA-256 begins with {found[:8]} instead of {sha256[:8]}; "
            "install genkit again"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
