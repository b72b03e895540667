"""What cannot change in the middle of a run, and what can: it follows from the records' fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, JsonValue

from genkit.config.run import RunConfig
from genkit.config.validation import validate
from genkit.errors import CheckpointError, UsageError
from genkit.io.files import parse_json
from genkit.io.run_directory import RunDir
from genkit.io.run_records import DataRecord, RunRecord


def _fixed(kind: type[BaseModel]) -> list[str]:
    """The fields that are marked as fixed."""
    extras = {name: field.json_schema_extra for name, field in kind.model_fields.items()}
    return [name for name, extra in extras.items() if isinstance(extra, dict) and "fixed" in extra]


CHANGEABLE = tuple(name for name in RunConfig.model_fields if name not in _fixed(RunConfig))


def settled(record: RunRecord) -> dict[str, JsonValue]:
    """What of a run's config.json cannot change, by dotted names. The data may move, as long as its
    fingerprint stays."""
    content = record.model_dump(mode="json")
    parts = {name: content[name] for name in _fixed(RunRecord)}
    parts["run"] = {name: record.run.get(name) for name in _fixed(RunConfig)}
    parts["data"] = {name: content["data"][name] for name in _fixed(DataRecord)}
    flat: dict[str, JsonValue] = {}
    for name, value in parts.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def settled_text(record: RunRecord) -> str:
    """The same as text, which goes into each training state."""
    return json.dumps(settled(record))


def check_settled(directory: RunDir, record: RunRecord, recorded: object) -> None:
    """Raise UsageError, with each difference, if config.json was changed in what cannot change
    since a checkpoint that holds the text `recorded`."""
    try:
        if not isinstance(recorded, str):
            raise ValueError("it is not text")
        then = dict(parse_json(recorded))
    except (TypeError, ValueError):
        raise CheckpointError(
            f"the checkpoint in {directory.checkpoints} does not say which run it belongs to"
        ) from None
    now = settled(record)
    changed = [
        f"{name} is {now.get(name)!r}, was {then.get(name)!r}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if changed:
        raise UsageError(
            f"{directory.config_path} was changed in what cannot change in the middle of a run: "
            f"{'; '.join(changed)}. Put it back, or train a new run"
        )


def changed(run: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """A run's options with some changed; UsageError for one that cannot change."""
    for name in changes:
        if name not in CHANGEABLE:
            raise UsageError(
                f"{name!r} cannot change in the middle of a run; train a new run, or change one "
                f"of: {', '.join(CHANGEABLE)}"
            )
    values = {name: getattr(run, name) for name in RunConfig.model_fields}
    return validate(RunConfig, {**values, **changes})
