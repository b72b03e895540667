"""What is due when, against counting by hand."""

from __future__ import annotations

import time

import pytest

from genkit.training.cadence import CheckpointCadence, GridCadence, LogCadence, WatchingTime
from genkit.training.context import Moment

START = Moment(step=0, images=0, seconds=0.0, spent=0.0)


def test_log_lines_come_at_multiples_of_the_step_also_after_a_resume() -> None:
    for begin in (0, 5):
        cadence = LogCadence(4, Moment(begin, 0, 0.0, 0.0))
        due = [step for step in range(begin + 1, 14) if cadence.due(step)]
        assert due == [step for step in (4, 8, 12) if step > begin]


def test_the_rate_is_that_since_the_last_line() -> None:
    cadence = LogCadence(1, Moment(10, 80, 2.0, 0.1))
    assert cadence.rate(Moment(12, 96, 4.0, 0.1)) == pytest.approx(16 / 2)
    assert cadence.rate(Moment(13, 104, 4.5, 0.1)) == pytest.approx(8 / 0.5)


@pytest.mark.parametrize(
    ("rates", "found"),
    [
        ([10] * 12, None),
        ([10] * 8 + [8] * 4, "1.2 times"),
        ([10] * 8 + [9] * 4, None),  # less than a fifth longer
        ([10] * 4 + [1] * 4 + [10] * 4, None),  # it was slow in between only
        ([10, 10, 10, 1, 10, 10, 5, 5, 1, 5, 5, 5], "2.0 times"),  # medians
        ([10] * 7 + [1] * 4, None),  # few lines
        ([5] * 6 + [10] * 6, None),  # faster
    ],
)
def test_a_training_that_became_slower_is_reported(rates: list[float], found: str | None) -> None:
    cadence, images, seconds = LogCadence(1, START), 0, 0.0
    for rate in rates:
        images, seconds = images + 100, seconds + 100 / rate
        cadence.rate(Moment(0, images, seconds, 0.0))
    note = cadence.slowdown()
    assert (found in note) if found and note else note is found


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, [12]), (2, [0, 12]), (3, [0, 6, 12]), (5, [0, 3, 6, 9, 12]), (30, range(13))],
)
def test_grids_are_spread_evenly_from_the_start_to_the_end(count: int, expected: list[int]) -> None:
    cadence = GridCadence(count, START)
    assert [step for step in range(13) if cadence.due(step / 12)] == list(expected)


def test_a_resumed_run_draws_the_grids_that_are_left() -> None:
    cadence = GridCadence(5, Moment(step=4, images=0, seconds=0.0, spent=4 / 12))
    assert [step for step in range(5, 13) if cadence.due(step / 12)] == [6, 9, 12]


def test_a_checkpoint_is_due_so_long_after_the_last_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    cadence = CheckpointCadence(60)
    clock[0] = 160.0
    assert not cadence.due()
    clock[0] = 161.0
    assert cadence.due()
    cadence.restart()
    assert not cadence.due()


def test_quick_samples_are_all_drawn_however_short_the_training() -> None:
    watching = WatchingTime()
    for _ in range(100):
        assert watching.affordable(256, 64, trained=0.0) == 256
        watching.add(256, 0.1)


def test_slow_samples_become_fewer_and_then_none() -> None:
    watching = WatchingTime()
    assert watching.affordable(64, 64, trained=0.0) == 64
    watching.add(64, 10.0)  # 30 s are free: 20 s are left for 128 images
    assert watching.affordable(256, 64, trained=20.0) == 128
    watching.add(128, 20.0)
    assert watching.affordable(256, 64, trained=100.0) == 0


def test_a_fifth_of_a_long_training_is_looked_at() -> None:
    watching, trained = WatchingTime(), 10_000.0
    spent = 0.0
    while count := watching.affordable(256, 64, trained):
        spent += count * 1.0
        watching.add(count, count * 1.0)
    assert 0.2 * trained - 64 < spent <= 0.2 * trained
