"""What a run records of its origin: data, versions, command and commit. Reads, never writes."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch

from genkit.data import ImageData
from genkit.registry.catalogue import Registry
from genkit.specs import Spec
from genkit.version import __version__


def describe_data(data: ImageData) -> dict[str, Any]:
    """What a run records of its data."""
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "train_images": len(data.train.images),
        "test_images": len(data.test.images),
        "classes": list(data.classes),
    }


def describe_origin(registry: Registry, model: str) -> dict[str, Any]:
    """Versions, command and commit: what is needed to repeat a run."""
    plugin = registry.trainers[model].plugin
    specs = [registry.trainers[model].spec, *(e.spec for e in registry.metrics.values())]
    return {
        "genkit": __version__,
        "plugin": f"{plugin.distribution} {plugin.version}",
        "torch": torch.__version__,
        "python": platform.python_version(),
        **recorded_versions(specs),
        **_gpu(),
        "command": sys.argv,
        "commit": _commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def recorded_versions(specs: Iterable[Spec], *others: str) -> dict[str, str]:
    """Versions of `others` and of the distributions that the specs ask to have recorded, by name;
    without those that are not installed."""
    versions = {}
    for name in dict.fromkeys([*others, *(name for spec in specs for name in spec.records)]):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _gpu() -> dict[str, Any]:
    """The GPU, and whether its convolutions and matrix products in fp32 may take TF32, which has 10
    bits of mantissa."""
    if not torch.cuda.is_available():
        return {}
    matrices = torch.backends.cuda.matmul.allow_tf32
    return {
        "gpu": torch.cuda.get_device_name(),
        "tf32": {"convolutions": torch.backends.cudnn.allow_tf32, "matrices": matrices},
    }


def _commit() -> str | None:
    """The git commit of the working directory, if it is in a checkout."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
