"""Progress follows the budget, and follows it again."""

import pytest

from genkit.config.budget import Budget
from genkit.phases.pace import Pace, append_mark, parse_marks, read_clock


def make_pace(budget, marks=(), record=lambda mark: None):
    return Pace(
        Budget.parse(budget), images_per_step=16, images_per_epoch=80, marks=marks, record=record
    )


def followed(pace, took):
    """Progress before each step, and the share of 100 seconds used, until they are spent."""
    progress, used, seconds, step = [], [], 0.0, 0
    while seconds < 100:
        progress.append(pace.before(step, seconds))
        used.append(seconds / 100)
        seconds, step = seconds + took(step), step + 1
    return progress, used


@pytest.mark.parametrize("budget", ["50steps", "0.8kimg", "10epochs"])
def test_progress_is_a_function_of_the_step_where_the_end_is_known(budget):
    pace = make_pace(budget)
    for step in (0, 1, 7, 49, 50, 60):
        for seconds in (0.0, 1e9):
            assert pace.before(step, seconds) == pytest.approx(min(step / 50, 1))


@pytest.mark.parametrize(
    "took",
    [
        lambda step: 0.05,
        lambda step: 3.0 if step == 0 else 0.05,  # compiling
        lambda step: 0.05 if step < 1000 else 0.15,
        lambda step: 0.15 if step < 300 else 0.05,
        lambda step: 4.0,  # a budget of few steps
    ],
)
def test_progress_keeps_up_with_seconds(took):
    marks = []
    progress, used = followed(make_pace("100s", record=marks.append), took)
    assert progress == sorted(progress) and progress[0] == 0 and progress[-1] <= 1
    near = [abs(a - b) for a, b in zip(progress[1:], used[1:], strict=True)]
    assert max(near) < 0.035
    assert len(marks) < 130


def test_recorded_marks_are_followed_whatever_the_clock_says(tmp_path):
    path = tmp_path / "clock.jsonl"
    assert read_clock(path) == ""
    pace = make_pace("100s", record=lambda mark: append_mark(path, mark))
    first, _ = followed(pace, lambda step: 0.05 + 0.0001 * (step % 7))
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"budget": 100.0, "step": 3, "seco\nnull\n')
    marks = parse_marks(read_clock(path))
    for start in (0, 1, 500, 1234):  # where a run resumes
        again = make_pace("100s", marks, record=lambda mark: pytest.fail(f"measured at {mark}"))
        assert [again.before(step, 0.08 * step) for step in range(start, len(first))] == (
            first[start:]
        )


def test_marks_of_another_budget_are_not_followed(tmp_path):
    marks = []
    followed(make_pace("100s", record=marks.append), lambda step: 0.05)
    assert make_pace("50s", marks).before(500, 25.0) == 0.5
    assert make_pace("100s", marks).before(500, 25.0) == pytest.approx(0.25, abs=0.02)
