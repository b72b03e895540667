"""What reporters say of work that counts images, and bars that begin anew."""

import io

import pytest
from rich.console import Console

from genkit.progress import Reporter, new_bars, show_state


class Recorder(Reporter):
    def __init__(self):
        self.states = []

    def update(self, state):
        self.states.append(state)


def test_counter_tells_rate_and_time_left(monkeypatch):
    from genkit import progress

    times = iter([100.0, 104.0, 110.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    recorder = Recorder()
    count = recorder.counter("features")
    count(20, 100)
    count(100, 100)
    first, last = recorder.states
    assert (first["stage"], first["fraction"], first["images"]) == ("features", 0.2, 20)
    assert first["images_per_second"] == pytest.approx(5)
    assert first["seconds_left"] == pytest.approx(16)
    assert (last["fraction"], last["seconds_left"]) == (1, 0)


def test_bar_that_falls_back_begins_anew():
    bars = new_bars(Console(file=io.StringIO()))
    task = bars.add_task("scoring", total=1.0, note="")
    show_state(bars, task, {"fraction": 1.0, "stage": "sampling"})
    assert bars.tasks[0].finished
    show_state(bars, task, {"fraction": 0.25, "stage": "features"})
    assert bars.tasks[0].completed == 0.25 and not bars.tasks[0].finished
    assert bars.tasks[0].fields["note"] == "features"
