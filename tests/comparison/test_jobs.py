"""Which job a free worker takes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from genkit.comparison.jobs import Jobs


def noting(done: list[str], name: str) -> Callable[[], str]:
    def run() -> str:
        done.append(name)
        return name

    return run


def order(workers: int, trainings: int) -> list[str]:
    """In which order one thread takes jobs that are all known before it starts: trainings, a
    calibration, and a scoring for each training."""
    done: list[str] = []
    jobs = Jobs(workers)
    jobs._threads = jobs._threads[:1]
    trained = [jobs.train(noting(done, f"train {i}")) for i in range(trainings)]
    calibrated = jobs.add(noting(done, "calibrate"))
    scored = [
        jobs.add(noting(done, f"score {i}"), job, calibrated) for i, job in enumerate(trained)
    ]
    with jobs:
        for job in scored:
            job.result(timeout=10)
    return done


def test_the_last_trainings_are_begun_before_anything_is_scored() -> None:
    assert order(2, 2) == ["calibrate", "train 0", "train 1", "score 0", "score 1"]
    assert order(3, 2) == ["train 0", "train 1", "calibrate", "score 0", "score 1"]


def test_a_single_worker_scores_each_model_before_it_trains_the_next() -> None:
    assert order(1, 2) == ["calibrate", "train 0", "score 0", "train 1", "score 1"]


def test_while_more_trainings_are_left_than_workers_what_is_trained_is_scored_first() -> None:
    assert order(2, 4) == [
        *("calibrate", "train 0", "score 0", "train 1", "score 1"),
        *("train 2", "train 3", "score 2", "score 3"),
    ]


def test_jobs_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=10)
    with Jobs(2) as jobs:
        for job in [jobs.train(both.wait), jobs.add(both.wait)]:
            job.result(timeout=10)


def test_a_job_waits_for_those_that_it_comes_after_whether_they_end_well_or_not() -> None:
    go = threading.Event()

    def fail() -> None:
        go.wait(10)
        raise ValueError("no")

    with Jobs(2) as jobs:
        failed = jobs.train(fail)
        after = jobs.add(lambda: failed.done(), failed)
        assert not after.done()
        go.set()
        assert after.result(timeout=10) is True
        with pytest.raises(ValueError, match="no"):
            failed.result()


def test_what_waits_at_the_end_is_cancelled_and_what_runs_is_awaited() -> None:
    started, go, done = threading.Event(), threading.Event(), []

    def slow() -> None:
        started.set()
        go.wait(10)
        done.append("slow")

    with Jobs(1) as jobs:
        jobs.train(slow)
        waiting = jobs.train(noting(done, "never"))
        started.wait(10)
        threading.Timer(0.1, go.set).start()
    assert waiting.cancelled() and done == ["slow"]
