"""Run directories: where a run keeps its config, metrics, samples, checkpoints and scores.

Files appear whole or not at all. Knows no model and no tensor.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from genkit.errors import GenkitError, UsageError


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise GenkitError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is gone already if all went well
            temporary.unlink()
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames in a directory survive a power cut, where the system can do that."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinities are refused, since JSON has none."""
    try:
        text = json.dumps(content, indent=2, allow_nan=False, default=str)
    except ValueError as error:
        raise GenkitError(f"{path} could not be written: {error}") from error
    write_atomic(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON; GenkitError if the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise GenkitError(f"{path} cannot be read: {error}") from error


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
        needed = {"model": str, "run": dict, "options": dict, "image_shape": dict}
        for key, kind in needed.items():
            if not isinstance(content, dict) or not isinstance(content.get(key), kind):
                raise UsageError(f"{self.config_path} is no run's config: {key!r} is missing")
        return dict(content)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        try:
            with open(self.metrics_path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        except (OSError, ValueError) as error:
            raise GenkitError(f"{self.metrics_path} could not be written: {error}") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl; a line torn by a crash is left out."""
        rows = []
        if self.metrics_path.exists():
            for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    break
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
