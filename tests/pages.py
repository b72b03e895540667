"""Run directories and comparisons as genkit writes them, made without a training, for pages."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CARD = {
    "features": "digits-0123abcd",
    "features_note": "",
    "reference": "mnist-train",
    "reference_images": 60_000,
    "data_fingerprint": "aa",
    "samples": 500,
    "quantisation": "uint8",
    "metrics": {"fid": "Gaussians"},
}


def grid(path: Path, size: int = 28, channels: int = 1, columns: int = 8, rows: int = 8) -> None:
    """A grid of noise, which compresses as badly as a picture can."""
    random = np.random.RandomState(zlib.crc32(path.name.encode()))
    shape = (rows * (size + 2) + 2, columns * (size + 2) + 2, channels)
    pixels = random.randint(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels.squeeze()).save(path, compress_level=1)


def write_run(
    folder: Path,
    model: str = "dcgan",
    *,
    size: int = 28,
    channels: int = 1,
    lines: int = 40,
    grids: int = 4,
    warning: str | None = None,
    more_pictures: bool = False,
) -> Path:
    """A run directory that was trained for `lines` lines of the log; never scored."""
    (folder / "samples").mkdir(parents=True)
    config = {
        "schema": 1,
        "model": model,
        "run": {"data": "mnist-mini", "budget": "20s", "watch": 256},
        "options": {"batch_size": 32, "loss": "hinge"},
        "sources": {"run.budget": "given", "options.batch_size": "preset quick"},
        "image_shape": {"channels": channels, "height": size, "width": size, "classes": 10},
        "data": {"classes": [f"digit {number}" for number in range(10)]},
        "parameters": 951_969,
        "device": "cpu",
        "provenance": {
            "genkit": "0.1.0",
            "torch": "2.15.0",
            "command": ["/bin/genkit", "train", model, "--run-dir", "a folder"],
            "started": "2026-11-23T03:37:49+0000",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    log: list[dict[str, Any]] = []
    for line in range(1, lines + 1):
        step = 50 * line
        values = {"generator/loss": 1 / line, "discriminator/loss": 1 + math.sin(line)}
        log.append({"step": step, "images": 32 * step, **values, "seconds": 0.5 * line})
        if line % 4 == 0:
            log.append({"step": step, "images": 32 * step, "kid": 2 / line, "diversity": 0.9})
    if warning:
        log.append({"step": 50 * lines, "warning": warning})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    steps = 50 * lines
    summary = {"step": steps, "images": 32 * steps, "seconds": 0.5 * lines, "warnings": []}
    (folder / "summary.json").write_text(json.dumps(summary))
    for i in range(grids):
        step = round(i * steps / max(grids - 1, 1))
        grid(folder / "samples" / f"step-{step:09d}.png", size, channels)
    if more_pictures:
        grid(folder / "samples" / f"reconstructions-{steps:09d}.png", size, channels)
        for step in (steps // 2, steps):  # which a model itself wanted
            path = folder / "samples" / f"attention-maps-{step:09d}.png"
            grid(path, size, channels, columns=6, rows=2)
        grid(folder / "samples" / "interpolation.png", size, channels, columns=9)
        grid(folder / "samples" / "completion.png", size, channels, columns=5)
        grid(folder / "samples" / "classes.png", size, channels, columns=4, rows=10)
        grid(folder / "neighbours.png", size, channels, columns=16, rows=3)
    return folder


def row(name: str, kid: float | None, deviation: float = 0.01, **more: Any) -> dict[str, Any]:
    """A row of scores as `evaluate` makes it."""
    if kid is None:
        return {"name": name, **more}
    scores = {"fid": 30 * kid, "kid": kid, "precision": 0.5, "is": 8.0}
    deviations = {"fid": 30 * deviation, "kid": deviation, "precision": 0.02, "is": 0.1}
    costs = {"parameters": 951_969, "images": 64_000, "seconds": 20.0}
    cost = costs if name not in ("real", "copy", "noise") else {}
    return {"name": name, "scores": scores, "deviations": deviations, "card": CARD, **cost, **more}


CALIBRATION = [row("real", 0.014, 0.02), row("copy", -0.007, 0.007), row("noise", 8.13, 0.08)]


def write_comparison(folder: Path, rows: Sequence[dict[str, Any]], **of_run: Any) -> Path:
    """The folder of a comparison with a run for each of the rows that are models."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = []
    for number, given in enumerate(rows):
        if given["name"] in ("real", "copy", "noise"):
            whole.append(given)
        else:
            run = write_run(folder / f"run{number}", given["name"], **of_run)
            whole.append({**given, "run": str(run)})
    size, channels = of_run.get("size", 28), of_run.get("channels", 1)
    grid(folder / "real.png", size, channels)
    command = ["/usr/bin/genkit", "compare", *(given["name"] for given in rows)]
    content = {"command": command, "rows": whole, "seeds": 1}
    (folder / "compare.json").write_text(json.dumps(content))
    return folder
