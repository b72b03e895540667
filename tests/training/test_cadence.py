"""What is due when, against counting by hand."""

from __future__ import annotations

import time

import pytest

from genkit.config.budget import Budget
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


def at(spent: float, whole: float) -> Moment:
    """So far into a training of so many seconds."""
    return Moment(step=1, images=64, seconds=spent * whole, spent=spent)


def test_quick_samples_are_all_drawn_however_short_the_training() -> None:
    watching = WatchingTime(Budget.parse("9steps"))
    for look in range(100):
        assert watching.affordable(256, 64, at(look / 100, 1.0)) == 256
        watching.add(256, 0.25)


def test_slow_samples_become_fewer_and_then_none() -> None:
    watching = WatchingTime(Budget.parse("200s"))
    assert watching.affordable(64, 64, at(0.0, 200.0)) == 64  # what they cost is not known yet
    watching.add(64, 12.0)
    assert watching.affordable(256, 64, at(0.1, 200.0)) == 0  # 10 of 40 s are allowed so far
    assert watching.affordable(256, 64, at(0.9, 200.0)) == 74  # half of the 28 s that are left
    watching.add(74, 20.0)
    assert watching.affordable(256, 64, at(1.0, 200.0)) == 0


@pytest.mark.parametrize("whole", [20.0, 120.0, 10_000.0])
def test_a_fifth_of_a_training_is_looked_at_spread_over_all_of_it(whole: float) -> None:
    watching, spent, looks = WatchingTime(Budget.parse(f"{whole}s")), 0.0, []
    for look in range(10):
        count = watching.affordable(256 if look else 64, 64, at(look / 9, whole))
        cost = count * whole / 2000  # all ten in full would cost more than the training
        spent += cost
        if count:
            watching.add(count, cost)
        looks.append(count > 0)
    assert 0.1 * whole < spent <= 0.2 * whole
    assert any(looks[:3]) and any(looks[3:6]) and any(looks[6:])
