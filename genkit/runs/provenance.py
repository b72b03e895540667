"""What a run records of its origin: data, versions, command and commit. Writes nothing."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

import torch

from genkit.data import ImageData
from genkit.io.run_records import AttributesRecord, DataRecord, Provenance, Tf32
from genkit.registry.catalogue import Registry
from genkit.specs import Spec
from genkit.version import __version__


def describe_data(data: ImageData) -> DataRecord:
    """What a run records of its data."""
    made = data.attributes
    return DataRecord(
        name=data.name,
        fingerprint=data.fingerprint,
        augmentation=str(data.train.augmentation) or None,
        train_images=len(data.train.images),
        test_images=len(data.test.images),
        classes=tuple(data.classes),
        class_shares=data.shape.class_shares,
        mean=data.model_shape.mean,
        deviation=data.model_shape.deviation,
        attributes=AttributesRecord(names=made.names, values=made.values) if made else None,
    )


def describe_origin(registry: Registry, model: str) -> Provenance:
    """Versions, command and commit: what is needed to repeat a run."""
    plugin = registry.trainers[model].plugin
    specs = [registry.trainers[model].spec, *(e.spec for e in registry.metrics.values())]
    found = Provenance(
        genkit=__version__,
        plugin=f"{plugin.distribution} {plugin.version}",
        plugin_hash=plugin.file_hash,
        torch=torch.__version__,
        python=platform.python_version(),
        versions=recorded_versions(specs),
        command=tuple(sys.argv),
        commit=_commit(),
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
    if not torch.cuda.is_available():
        return found
    tf32 = Tf32(
        convolutions=torch.backends.cudnn.allow_tf32,
        matrices=torch.backends.cuda.matmul.allow_tf32,
    )
    gpu, timed = torch.cuda.get_device_name(), torch.backends.cudnn.benchmark
    return found.model_copy(update={"gpu": gpu, "tf32": tf32, "cudnn_benchmark": timed})


def recorded_versions(specs: Iterable[Spec], *others: str) -> dict[str, str]:
    """Versions of `others` and of the distributions that the specs ask to have recorded, by name;
    without those that are not installed."""
    versions = {}
    for name in dict.fromkeys([*others, *(name for spec in specs for name in spec.records)]):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _commit() -> str | None:
    """The git commit of the working directory, if it is in a checkout."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
