"""The log of a run: nothing that was measured is lost while the disk takes no writes."""

import errno
import io
import os

import pytest

from genkit.errors import WriteError
from genkit.io import run_directory as rundir
from genkit.io.files import write_json
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir
from genkit.training.metrics_log import KEPT, MetricsLog


class Said(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


@pytest.fixture
def directory(tmp_path):
    run = RunDir.create(tmp_path / "run")
    write_json(run.config_path, {})
    return run


@pytest.fixture
def log(directory):
    return MetricsLog(directory, Said())


def fail(path="file"):
    raise WriteError(f"{path} could not be written: No space left on device")


def rows(count, first=1):
    return [{"step": step, "elbo/loss": step / 2} for step in range(first, first + count)]


def test_lines_that_could_not_be_written_come_later_in_their_order(log, directory, monkeypatch):
    log.add(rows(1)[0])
    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "append_metrics", lambda self, rows, sync: fail("metrics.jsonl"))
        for row in rows(3, first=2):
            log.add(row)
        with pytest.raises(WriteError):
            log.flush()
    assert directory.read_metrics() == rows(1)
    log.add(rows(1, first=5)[0])
    assert directory.read_metrics() == rows(5)
    assert len(log.reporter.lines) == 1


def test_a_line_of_which_only_a_part_fits_leaves_none_of_it(log, directory, monkeypatch):
    log.add(rows(1)[0])

    class File(io.FileIO):
        def write(self, content):
            super().write(content[:5])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(rundir, "open", lambda path, mode, **_: File(path, mode), raising=False)
        log.add(rows(1, first=2)[0])
    assert directory.metrics_path.read_bytes().count(b"\n") == 1
    log.flush()
    assert directory.read_metrics() == rows(2)


def test_flushing_with_sync_brings_the_log_to_the_disk(log, directory, monkeypatch):
    synced = []
    monkeypatch.setattr(rundir.os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    log.add(rows(1)[0])
    assert not synced  # a line of the log is worth no wait for the disk
    log.flush(sync=True)
    assert synced == [directory.metrics_path.stat().st_ino]
    assert directory.read_metrics() == rows(1)


def test_one_trouble_is_told_once_until_all_of_it_is_over(log):
    said = log.reporter.lines
    for _ in range(3):
        log.attempt("checkpoint", fail)
        log.attempt("log", lambda: None)  # small things still fit
        log.attempt("grid", fail)
    assert said == [
        "Warning: file could not be written: No space left on device; training continues and tries "
        "again"
    ]
    log.attempt("checkpoint", lambda: None)
    log.attempt("checkpoint", fail)
    assert len(said) == 1  # the grid is still to be written
    log.attempt("checkpoint", lambda: None)
    log.attempt("grid", lambda: None)
    log.attempt("checkpoint", fail)
    assert len(said) == 2


def test_a_run_directory_that_is_gone_is_an_error_at_once(log, directory):
    directory.config_path.unlink()
    with pytest.raises(WriteError):
        log.attempt("log", fail)


def test_other_errors_are_not_swallowed(log):
    with pytest.raises(ZeroDivisionError):
        log.attempt("log", lambda: 1 / 0)


def test_history_and_warnings_are_the_same_after_a_restore(log, directory):
    """Step by step, as a model that is asked what goes wrong sees them."""
    seen = []
    for row in rows(KEPT + 20):
        log.add({**row, "elbo/odd": None, "seconds": 1.5, "kid": 0.5})
        seen.append({name: list(values) for name, values in log.history.items()})
        if row["step"] == 7:
            log.warn(7, "odd")
    again = MetricsLog(directory, Said())
    restored = []

    def note(row):
        if "warning" not in row:
            restored.append({name: list(values) for name, values in again.history.items()})

    again.restore(KEPT + 10, note)
    assert restored == seen[: KEPT + 10]
    assert again.history == {"elbo/loss": [step / 2 for step in range(11, KEPT + 11)]}
    assert again.warnings == log.warnings == ["odd"]
    assert directory.read_metrics()[-1]["step"] == KEPT + 10
