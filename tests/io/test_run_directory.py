"""Run directories: files appear whole or not at all, and nothing that is there is overwritten."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from genkit.errors import GenkitError, UsageError
from genkit.io.files import read_json, write_atomic, write_json
from genkit.io.run_directory import RunDir, new_run_path

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
SHAPE = {"channels": 1, "height": 28, "width": 28}
CONFIG: dict[str, Any] = {"model": "vae", "run": {}, "options": {}, "image_shape": SHAPE}


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """Let a function of `os` fail, as on a full disk or when the process is interrupted."""

    def failing(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(os, name, failing)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_failed_write_leaves_the_old_file_and_nothing_else(
    step: str, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    fail_at(monkeypatch, step, FULL)
    with pytest.raises(GenkitError, match=r"file could not be written: No space left on device"):
        write_atomic(path, b"new" * 1000)
    assert contents(tmp_path) == ({} if old is None else {"file": old})


def test_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    fail_at(monkeypatch, "replace", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": b"old"}


def test_write_replaces_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a much longer old content")
    write_atomic(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": b"new"}


def test_write_below_a_missing_folder_or_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "missing" / "x", tmp_path / "file" / "x"):
        with pytest.raises(GenkitError, match="could not be written"):
            write_atomic(path, b"new")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_it_cannot_hold_and_keeps_the_old_file(
    value: float, tmp_path: Path
) -> None:
    path = tmp_path / "scores.json"
    write_json(path, {"fid": 1.5})
    with pytest.raises(GenkitError, match=r"scores\.json could not be written"):
        write_json(path, {"fid": value})
    assert read_json(path) == {"fid": 1.5}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_damaged_json_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(GenkitError, match=r"a\.json cannot be read"):
        read_json(tmp_path / "a.json")


def test_missing_json_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(GenkitError, match=r"a\.json cannot be read"):
        read_json(tmp_path / "a.json")


# ---- creating and opening


def test_new_run_has_folders_for_samples_and_checkpoints(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "runs" / "first")
    assert sorted(p.name for p in run.path.iterdir()) == ["checkpoints", "samples"]
    assert run.name == "first"


def test_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    assert RunDir.create(tmp_path).samples.is_dir()


def test_occupied_folder_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError, match="exists and is not empty; choose another") as caught:
        RunDir.create(tmp_path)
    assert "genkit resume" not in str(caught.value)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_existing_run_is_refused_with_the_way_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match=f"resume it: genkit resume {tmp_path}"):
        RunDir.create(tmp_path)


def test_file_in_place_of_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be made"):
            RunDir.create(path)
    assert contents(tmp_path) == {"file": b"x"}


def test_run_that_appears_meanwhile_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(()))  # empty when it was looked at
    (tmp_path / "samples").mkdir()
    with pytest.raises(UsageError, match="cannot be made: File exists"):
        RunDir.create(tmp_path)


def test_opening_says_whether_the_path_is_missing_or_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist; give the path of a run"):
        RunDir.open(tmp_path / "missing")
    with pytest.raises(UsageError, match=r"is not a run directory: it has no config\.json"):
        RunDir.open(tmp_path)


@pytest.mark.parametrize("key", sorted(CONFIG))
def test_config_without_one_of_its_parts_is_refused_by_name(key: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_json(run.config_path, CONFIG)
    assert run.record().to_json() == CONFIG
    write_json(run.config_path, {k: v for k, v in CONFIG.items() if k != key})
    with pytest.raises(UsageError, match=rf"config\.json: '{key}' is missing"):
        run.record()


def test_damaged_config_is_a_usage_error(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for content in ('{"model": "v', "[1]", ""):
        run.config_path.write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match=r"config\.json"):
            run.record()


def test_new_run_path_is_free_and_has_no_odd_characters(tmp_path: Path) -> None:
    path = new_run_path("vae", "folder:/data/my cats!", 3, tmp_path)
    assert path == tmp_path / "vae-folder-data-my-cats-s3"
    path.mkdir()
    assert new_run_path("vae", "folder:/data/my cats!", 3, tmp_path) == Path(f"{path}-2")
    Path(f"{path}-2").mkdir()
    assert new_run_path("vae", "folder:/data/my cats!", 3, tmp_path) == Path(f"{path}-3")


# ---- metrics


def test_metrics_come_back_as_they_went_in(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_metrics() == []
    rows = [{"step": step, "elbo/loss": 0.1 * step} for step in range(1, 6)]
    for row in rows:
        run.append_metrics([row])
    assert run.read_metrics() == rows


def test_line_torn_by_a_crash_is_left_out_wherever_it_was_torn(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.append_metrics([{"step": 1, "loss": 2.5}])
    whole = run.metrics_path.read_bytes()
    torn = json.dumps({"step": 2, "loss": 1.25}).encode()
    for length in range(len(torn)):
        run.metrics_path.write_bytes(whole + torn[:length])
        assert run.read_metrics() == [{"step": 1, "loss": 2.5}]
    run.metrics_path.write_bytes(whole + b"\0\0\0")  # as after a power cut
    assert run.read_metrics() == [{"step": 1, "loss": 2.5}]


def test_cutting_drops_later_lines_and_the_torn_one_so_that_new_ones_follow(
    tmp_path: Path,
) -> None:
    run = RunDir(tmp_path)
    for step in (10, 20, 30):
        run.append_metrics([{"step": step}])
    with open(run.metrics_path, "a", encoding="utf-8") as file:
        file.write('{"step": 4')
    run.cut_metrics(20)
    run.append_metrics([{"step": 30, "again": True}])
    assert run.read_metrics() == [{"step": 10}, {"step": 20}, {"step": 30, "again": True}]


def test_cutting_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path)
    run.append_metrics([{"step": 10}])
    before = contents(tmp_path)
    fail_at(monkeypatch, "replace", FULL)
    with pytest.raises(GenkitError):
        run.cut_metrics(0)
    assert contents(tmp_path) == before


def test_metrics_refuse_nan_and_name_their_file(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.append_metrics([{"step": 1}])
    with pytest.raises(GenkitError, match=r"metrics\.jsonl could not be written"):
        run.append_metrics([{"step": 2, "loss": math.nan}])
    assert run.read_metrics() == [{"step": 1}]
