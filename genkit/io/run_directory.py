"""Run directories: where a run keeps its config, metrics, samples, checkpoints and scores.

Files appear whole or not at all. Knows neither models nor tensors.
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

from genkit.errors import GenkitError, UsageError, WriteError, reason_of
from genkit.io.files import is_free, parse_json, read_file, write_atomic
from genkit.io.locks import locked
from genkit.io.run_records import RunRecord, Summary

MOST_METRICS_BYTES = 2**30
MetricsRow = dict[str, Any]  # of metrics.jsonl: "step", an int, and what was measured then


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
            free = is_free(path)
            run = cls(path)
            if free:
                run.samples.mkdir()
                run.checkpoints.mkdir()
        except OSError as error:
            raise UsageError(f"run directory {path} cannot be made: {reason_of(error)}") from None
        if not free:
            hint = f", or resume it: genkit resume {path}" if run.config_path.exists() else ""
            raise UsageError(
                f"run directory {path} exists and is not empty; choose another --run-dir{hint}"
            )
        return run

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Open an existing run directory; UsageError if there is none."""
        run = cls(path)
        if not run.config_path.is_file():
            what = (
                "is not a run directory: it has no config.json"
                if path.exists()
                else "does not exist"
            )
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
    def clock_path(self) -> Path:
        return self.path / "clock.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def grid_path(self, step: int, kind: str = "step") -> Path:
        """Where the grid of samples drawn after a step lies, or another picture of that step, such
        as "reconstructions"."""
        return self.samples / f"{kind}-{step:09d}.png"

    def grids(self, kind: str = "step") -> list[tuple[int, Path]]:
        """Steps and paths of all grids of a kind, in the order of the steps."""
        found = []
        for path in self.samples.glob(f"{kind}-*.png"):
            if match := re.fullmatch(rf"{kind}-(\d{{1,18}})\.png", path.name):
                found.append((int(match[1]), path))
        return sorted(found)

    def picture_kinds(self) -> list[str]:
        """The kinds of `grids` that there are, by name."""
        names = (re.fullmatch(r"(.+)-\d{1,18}\.png", path.name) for path in self.samples.glob("*"))
        return sorted({match[1] for match in names if match})

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights_path(self) -> Path:
        return self.path / "model.safetensors"

    def frozen_path(self, name: str) -> Path:
        """Where the copy of a run lies that the model's option `name` names."""
        return self.path / "runs" / name

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.json"

    @property
    def evaluation_path(self) -> Path:
        return self.path / "evaluation.json"

    def record(self) -> RunRecord:
        """The run's config.json; UsageError, which names the field, if it is damaged."""
        try:
            return RunRecord.read(self.config_path)
        except GenkitError as error:
            raise UsageError(str(error)) from None

    def summary(self) -> Summary | None:
        """How far the run has come; None before its first checkpoint, and for an exported run.

        Raises:
            GenkitError: summary.json is damaged.
        """
        return Summary.read(self.summary_path) if self.summary_path.exists() else None

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
            raise WriteError(
                f"{self.metrics_path} could not be written: {reason_of(error)}"
            ) from error

    def read_metrics(self) -> list[MetricsRow]:
        """All whole lines of metrics.jsonl; one torn by a crash or damaged later is left out."""
        rows: list[MetricsRow] = []
        try:
            content = read_file(self.metrics_path, MOST_METRICS_BYTES)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise GenkitError(f"{self.metrics_path} cannot be read: {reason_of(error)}") from None
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
