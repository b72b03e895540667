"""Run directories: where a run keeps its config, metrics, samples, checkpoints and scores.

Files appear whole or not at all. Knows no model and no tensor.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from genkit.errors import GenkitError, UsageError, WriteError
from genkit.io.files import parse_json, read_file, read_json, write_atomic
from genkit.io.locks import locked

SCHEMA = 1  # of config.json
MOST_METRICS_BYTES = 2**30
CONFIG_TYPES: dict[str, type] = {
    **{"model": str, "run": dict, "options": dict, "image_shape": dict, "schema": int},
    **{"sources": dict, "data": dict, "precision": str, "device": str, "parameters": int},
    **{"provenance": dict, "ranks": int},
}


class RunDir:
    """The directory of one run.

    `config.json`, `metrics.jsonl`, `samples/`, `checkpoints/`, `model.safetensors` and
    `evaluation.json` lie in it; sampling and scoring later need nothing else but the plugin.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> RunDir:
        """Make a new run directory; UsageError if something is there already."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            occupied = any(path.iterdir())
            run = cls(path)
            if not occupied:
                run.samples.mkdir()
                run.checkpoints.mkdir()
        except OSError as error:
            raise UsageError(
                f"run directory {path} cannot be made: {error.strerror or error}"
            ) from None
        if occupied:
            hint = f", or go on with it: genkit resume {path}" if run.config_path.exists() else ""
            raise UsageError(
                f"run directory {path} exists and is not empty; choose another --run-dir{hint}"
            )
        return run

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Open an existing run directory; UsageError if it is none."""
        run = cls(path)
        if not run.config_path.is_file():
            what = "is no run directory: no config.json" if path.exists() else "does not exist"
            raise UsageError(f"{path} {what}; give the path of a run, such as runs/NAME")
        return run

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes from training in this directory; UsageError if one does."""
        return locked(self.path, "trains in")

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights_path(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def evaluation_path(self) -> Path:
        return self.path / "evaluation.json"

    def config(self) -> dict[str, Any]:
        """The run's config.json; UsageError if it is damaged."""
        try:
            content = read_json(self.config_path)
        except GenkitError as error:
            raise UsageError(str(error)) from None
        if not isinstance(content, dict):
            raise UsageError(f"{self.config_path} is no run's config: it is no table")
        for key, kind in CONFIG_TYPES.items():
            value = content.get(key)
            if key not in content and key in ("model", "run", "options", "image_shape"):
                raise UsageError(f"{self.config_path} is no run's config: {key!r} is missing")
            if key in content and (not isinstance(value, kind) or isinstance(value, bool)):
                raise UsageError(f"{self.config_path}: {key!r} cannot be {value!r:.80}")
        if content.get("schema", SCHEMA) > SCHEMA:
            raise UsageError(
                f"{self.config_path} has schema {content['schema']!r:.80}: a newer genkit wrote "
                f"it, this one knows schema {SCHEMA}; update genkit"
            )
        return dict(content)

    def append_metrics(self, rows: Iterable[Mapping[str, Any]], sync: bool = False) -> None:
        """Append lines to metrics.jsonl, all of them or none; WriteError if they do not fit. `sync`
        makes them and those before survive a power cut."""
        try:
            text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
            with open(self.metrics_path, "ab", buffering=0) as file:
                before = file.tell()
                try:
                    if file.write(text) != len(text):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    file.truncate(before)
                    raise
                if sync:
                    os.fsync(file.fileno())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise WriteError(f"{self.metrics_path} could not be written: {reason}") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; one torn by a crash or damaged later is left out."""
        rows = []
        try:
            content = read_file(self.metrics_path, MOST_METRICS_BYTES)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise GenkitError(
                f"{self.metrics_path} cannot be read: {error.strerror or error}"
            ) from None
        for line in content.split(b"\n"):
            with suppress(ValueError):
                row = parse_json(line)
                if isinstance(row, dict) and type(row.get("step", 0)) is int:
                    rows.append(row)
        return rows

    def cut_metrics(self, step: int) -> None:
        """Drop the lines after a step, which a resumed run will write again."""
        if self.metrics_path.exists():
            rows = [row for row in self.read_metrics() if row.get("step", 0) <= step]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            write_atomic(self.metrics_path, text.encode())


def new_run_path(model: str, data: str, seed: int, parent: Path = Path("runs")) -> Path:
    """A path for a run that is not taken yet: runs/MODEL-DATA-sSEED, then with -2, -3, ..."""
    data = re.sub(r"[^A-Za-z0-9]+", "-", data).strip("-")[:40]
    base = parent / f"{model}-{data}-s{seed}"
    path, count = base, 1
    while path.exists():
        count += 1
        path = base.with_name(f"{base.name}-{count}")
    return path
