"""A run's model as a folder for others: weights, config, model card, samples, ONNX.

The files tell nothing about the machine of the training: no path, no user, no command.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genkit.errors import UsageError, WriteError
from genkit.io.files import JsonObject, check_free, read_file, write_atomic
from genkit.io.run_directory import RunDir
from genkit.io.run_records import SCHEMA
from genkit.registry.catalogue import Registry
from genkit.report.model_card import model_card
from genkit.report.ranking import Ranking, rank, score_columns
from genkit.report.rows import ScoreRow, read_rows
from genkit.runs import checkpoint
from genkit.runs.build import FrozenRuns, count_parameters
from genkit.runs.onnx import export_network
from genkit.runs.run import Run, load_run
from genkit.sampling.draw import draw_classes

# An absolute path in a text, and all that follows it: below a home, on a drive, or neither.
_PATH = re.compile(r"(^|[\s:=,;'\"(\[])(?:~[\w.-]*|[A-Za-z]:)?[/\\](?![/\s]).*", re.DOTALL)
ORIGIN = ("genkit", "plugin", "torch", "python")  # what is kept of a run's provenance
TRAINING = ("step", "images", "seconds", "images_per_second")  # what is kept of a run's summary


def check_target(to: Path) -> None:
    """Raise UsageError unless the folder is new or empty."""
    check_free(to, "--to")


def export(run: Run, to: Path, *, onnx: bool = False) -> JsonObject:
    """Write model.safetensors, config.json, README.md and samples.png, and with `onnx`
    model.onnx, into a new or empty folder; all of the files or none.

    Returns: "path", "files" (bytes by name), "scores" (None if these weights have none) and "onnx"
    (how it was checked, or None).

    Raises:
        UsageError: the folder is not empty; or, with `onnx`, a package is missing or the model has
            no network that ONNX can express.
        GenkitError: the ONNX network does not do what PyTorch's does.
        WriteError: a file could not be written.
    """
    check_target(to)
    trainers = run.registry.trainers
    spec, plugin = trainers.find(run.record.model), trainers[run.record.model].plugin
    picture = io.BytesIO()
    run.grid(64).save(picture, "PNG")
    network = export_network(run.model.cpu()) if onnx else None
    config = public_config(run)
    ranking, features = _scores(run)
    card = model_card(
        config,
        spec.summary,
        (Path(plugin.distribution).name, plugin.version),
        ranking,
        features,
        network.facts() if network else None,
        follows_labels=_follows_labels(run),
    )
    files = {"samples.png": picture.getvalue()}
    if network:
        files["model.onnx"] = network.content
    files["config.json"] = (json.dumps(config, indent=2, allow_nan=False) + "\n").encode()
    files["README.md"] = card.encode()
    training = config["training"]
    about = {"model": spec.name, "step": training.get("step"), "weights": training["weights"]}
    files |= _frozen_files(run)
    _write(run, to, files, about)
    written = sorted(path for path in to.rglob("*") if path.is_file())
    return {
        "path": str(to),
        "files": {path.relative_to(to).as_posix(): path.stat().st_size for path in written},
        "scores": ranking.rows[0].scores if ranking else None,
        "onnx": network.facts() if network else None,
    }


def _frozen_files(run: Run) -> dict[str, bytes]:
    """The files of the runs that sampling needs, by their paths in the folder."""
    files: dict[str, bytes] = {}
    for name in needed_runs(run):
        other = load_run(run.directory.frozen_path(name), run.registry, "cpu")
        other.sample(1)  # shows which runs it needs itself
        own = {
            "config.json": (json.dumps(public_config(other), indent=2) + "\n").encode(),
            "model.safetensors": read_file(other.directory.weights_path),
            **_frozen_files(other),
        }
        files |= {f"runs/{name}/{path}": content for path, content in own.items()}
    return files


def _follows_labels(run: Run) -> bool:
    """Whether samples can be drawn of a class."""
    try:
        draw_classes(run.model, [0], 1)
    except UsageError:
        return False
    return True


def _write(run: Run, to: Path, files: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
    try:
        to.mkdir(parents=True, exist_ok=True)
        checkpoint.save_weights(RunDir(to).weights_path, run.model, about)
        for name, content in files.items():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(to / name, content)
    except OSError as error:
        raise WriteError(f"{to} cannot be made: {error.strerror or error}") from error
    except WriteError:
        for name in ("model.safetensors", *files):
            (to / name).unlink(missing_ok=True)
        raise


def public_config(run: Run) -> JsonObject:
    """A run's config.json for others: all that loading needs, and where it came from, without
    paths. "training" holds what is known of the training."""
    config = run.record.to_json()
    summary = run.summary.to_json() if run.summary else {}
    data, options = dict(config.get("data", {})), dict(config["run"])
    origin = {key: value for key, value in config.get("provenance", {}).items() if key in ORIGIN}
    plugin, _, version = str(origin.get("plugin", "")).rpartition(" ")
    if plugin:
        origin["plugin"] = f"{Path(plugin).name} {version}"
    if "name" in data:
        data["name"] = public_data(str(data["name"]), run.registry)
    if "data" in options:
        options["data"] = public_data(str(options["data"]), run.registry)
    options["data_root"] = options["from_run"] = None
    training = {key: summary[key] for key in TRAINING if key in summary}
    average = "raw" if summary.get("weights") == "raw" else "averaged (EMA)"
    training["weights"] = f"{average}, the last ones"
    if not summary and isinstance(config.get("training"), dict):  # it was exported before
        training = dict(config["training"])
        training.setdefault("weights", "unknown")
    if run.best and (best := checkpoint.read_best(run.directory.checkpoints)):
        training["weights"] = f"{average}, of step {best.step}: best {best.column} in training"
    public: JsonObject = without_paths(
        {
            "schema": SCHEMA,
            "model": config["model"],
            "run": options,
            "options": config["options"],
            "image_shape": config["image_shape"],
            "data": data,
            "runs": {name: config["runs"][name] for name in needed_runs(run)},
            "precision": config.get("precision", "fp32"),
            "device": config.get("device", "cpu"),
            "parameters": config.get("parameters", count_parameters(run.model)),
            "training": training,
            "provenance": origin,
        }
    )
    return public


def needed_runs(run: Run) -> list[str]:
    """The runs that a model, after it has drawn samples, is known to need for that: a first stage,
    but not a teacher."""
    opened = run.model.frozen_runs.opened if isinstance(run.model.frozen_runs, FrozenRuns) else {}
    return [name for name in run.record.runs if name in opened]


def public_data(name: str, registry: Registry) -> str:
    """A data set's name without the path on this machine: "folder:PATH"."""
    kind, colon, _ = name.partition(":")
    known = registry.datasets.get(kind)
    if colon and (known is None or known.spec.source == "PATH"):
        return f"{kind}:PATH"
    return name


def without_paths(value: Any) -> Any:
    """A JSON value with "PATH" in place of each absolute path and of what follows it."""
    if isinstance(value, str):
        return _PATH.sub(r"\1PATH", value)
    if isinstance(value, Mapping):
        return {key: without_paths(inner) for key, inner in value.items()}
    return [without_paths(inner) for inner in value] if isinstance(value, list) else value


def _scores(run: Run) -> tuple[Ranking | None, str | None]:
    """Stored scores of exactly these weights, with the calibration rows, and the features' name."""
    try:
        own, *others = read_rows([run.path])
    except UsageError:
        return None, None
    if own.card is None or own.images != (run.summary.images if run.summary else None):
        return None, None  # of an earlier moment
    if (own.card.weights or "").endswith("best in training") != run.best:
        return None, None  # of other weights
    rows = [
        _public_row(own.model_copy(update={"name": run.record.model}), run.registry),
        *(_public_row(row, run.registry) for row in others if row.is_calibration),
    ]
    return rank(rows, score_columns(run.registry)), own.card.features_name


def _public_row(row: ScoreRow, registry: Registry) -> ScoreRow:
    """A row without paths on this machine."""
    content = {**row.to_json(), "run": None}
    card = content.get("card") or {}
    for key in ("data", "trained_on"):
        if card.get(key) is not None:
            card[key] = public_data(card[key], registry)
    return ScoreRow.from_json(without_paths(content))
