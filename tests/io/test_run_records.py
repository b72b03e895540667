"""Records of a run: every field is described, old files are read, and nothing else gets in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from genkit.errors import GenkitError
from genkit.io import run_records
from genkit.io.run_directory import RunDir
from genkit.io.run_records import RunRecord, ShapeRecord, Summary
from genkit.specs import ImageShape

# As the first version wrote it, without the fields that came later.
OLD: dict[str, Any] = {
    "model": "vae",
    "run": {"data": "mnist-mini", "seed": 3, "data_root": None},
    "options": {"latent": 4, "widths": [1, 2], "rate": 1e-3},
    "image_shape": {"channels": 1, "height": 28, "width": 20, "classes": 10},
    "data": {"name": "mnist-mini", "fingerprint": "ab" * 32, "classes": ["0", "1"]},
    "provenance": {"plugin": "torch-genkit 0.1.0", "torch-fidelity": "0.4.0", "commit": None},
}
VERSIONS = {"torch-fidelity": "0.4.0"}  # where they stand today
NOW = {
    **OLD,
    "provenance": {"plugin": "torch-genkit 0.1.0", "versions": VERSIONS, "commit": None},
}


def test_every_field_of_a_record_is_described() -> None:
    kinds = [k for k in vars(run_records).values() if isinstance(k, type)]
    records = [
        k for k in kinds if issubclass(k, BaseModel) and k.__module__ == run_records.__name__
    ]
    assert len(records) == 13
    for kind in records:
        for name, field in kind.model_fields.items():
            assert field.description or name == "event", (kind.__name__, name)


def test_an_old_config_is_read_and_written_again_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(OLD), encoding="utf-8")
    record = RunDir(tmp_path).record()
    assert record.image_shape.shape() == ImageShape(1, 28, 20, 10)
    assert record.ranks == 1 and record.device is None
    assert record.provenance.versions == {"torch-fidelity": "0.4.0"}
    record.write(path)
    assert json.loads(path.read_text(encoding="utf-8")) == NOW


def test_a_change_leaves_the_rest_of_the_record() -> None:
    record = RunRecord.from_json(OLD).model_copy(update={"ranks": 2})
    assert record.to_json() == {**NOW, "ranks": 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": 1}, "'model' cannot be 1"),
        ({"schema": 2}, "a newer genkit wrote it"),
        ({"schema": True}, "'schema' cannot be True"),
        ({"ranks": 1.5}, r"'ranks' cannot be 1\.5"),
        ({"data": []}, "'data' cannot be"),
        ({"data": {"fingerprint": 5}}, r"'data\.fingerprint' cannot be 5"),
        ({"image_shape": {"channels": 1, "height": 8}}, r"'image_shape\.width' is missing"),
        (
            {"image_shape": {"channels": 1, "height": 8, "width": 9000}},
            r"'image_shape\.width' cannot be 9000",
        ),
        (
            {"image_shape": {"channels": 1, "height": 8, "width": 8, "depth": 1}},
            r"'image_shape\.depth' cannot be 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_file_and_field(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**OLD, **change}), encoding="utf-8")
    with pytest.raises(GenkitError, match=rf"config\.json: .*{words}"):
        RunDir(tmp_path).record()


def test_a_shape_comes_back(tmp_path: Path) -> None:
    shape = ImageShape(3, 64, 48, 5)
    assert ShapeRecord.of(shape).shape() == shape


def test_a_summary_comes_back_and_is_none_before_the_first(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.summary() is None
    summary = Summary(step=3, images=24, seconds=1.5, images_per_second=16.0, warnings=("odd",))
    summary.write(run.summary_path)
    assert run.summary() == summary
    run.summary_path.write_text('{"step": "x"}', encoding="utf-8")
    with pytest.raises(GenkitError, match=r"summary\.json: 'step' cannot be 'x'"):
        run.summary()


def test_grids_come_in_the_order_of_their_steps(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    paths = [run.grid_path(step) for step in (10, 9, 10**9)]
    for path in (*paths, run.grid_path(9, "reconstructions"), run.samples / "step-x.png"):
        path.touch()
    assert run.grids() == [(9, paths[1]), (10, paths[0]), (10**9, paths[2])]
    assert run.grids("reconstructions") == [(9, run.grid_path(9, "reconstructions"))]
