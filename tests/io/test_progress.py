"""What reporters say of work that counts images; bars that start again; samples on a terminal."""

import io
import json
import re
import sys

import numpy as np
import pytest
from rich.console import Console

from genkit.cli import main
from genkit.comparison.pool import ProcessPool
from genkit.io import progress
from genkit.io.preview import Preview
from genkit.io.progress import Bar, JSONLines, Lines, Reporter, new_bars, new_reporter, show_state
from genkit.io.run_records import Message, ProgressState, Started, read_event, write_event
from genkit.training.resume import resume

STATE = ProgressState(
    fraction=0.25,
    images_per_second=653.2,
    seconds_left=3725.0,
    values={"generator/loss": 0.5, "generator/gradient_norm": 9.0},
)


class Listener(Reporter):
    def __init__(self):
        self.states = []

    def update(self, state):
        self.states.append(state)


def terminal(width=100, height=40, **more):
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, **more)


def written(console):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def test_counter_tells_rate_and_time_left(monkeypatch):
    times = iter([100.0, 104.0, 110.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    listener = Listener()
    count = listener.counter("features")
    count(20, 100)
    count(100, 100)
    first, last = listener.states
    assert (first.stage, first.fraction, first.images) == ("features", 0.2, 20)
    assert first.images_per_second == pytest.approx(5)
    assert first.seconds_left == pytest.approx(16)
    assert (last.fraction, last.seconds_left) == (1, 0)


# ---- bars and lines


def test_bar_that_falls_back_begins_anew():
    bars = new_bars(Console(file=io.StringIO()))
    task = bars.add_task("scoring", total=1.0, note="")
    show_state(bars, task, ProgressState(fraction=1.0, stage="sampling"))
    assert bars.tasks[0].finished
    show_state(bars, task, ProgressState(fraction=0.25, stage="features"))
    assert bars.tasks[0].completed == 0.25 and not bars.tasks[0].finished
    assert bars.tasks[0].fields["note"] == "features"


def test_bar_tells_rate_time_left_last_score_and_losses():
    console = terminal()
    bars = new_bars(console)
    task = bars.add_task("dcgan", total=1.0)
    show_state(bars, task, STATE.model_copy(update={"score": {"kid": 0.01234}}), "training")
    console.print(bars.make_tasks_table(bars.tasks))
    line = written(console)
    assert re.search(
        r"dcgan .* 25% 1:02:05 training  653 img/s  kid 0.0123  generator/loss 0.5", line
    )
    assert "gradient_norm" not in line


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_bars_never_take_a_second_line(width):
    console = terminal(width)
    bars = new_bars(console)
    for name in ("dcgan", "a-third-party-model"):
        state = STATE.model_copy(update={"stage": "x" * 90})
        show_state(bars, bars.add_task(name, total=1.0), state, "training")
    console.print(bars.make_tasks_table(bars.tasks))
    lines = written(console).splitlines()
    assert len(lines) == 2 and all(len(line) <= width for line in lines)
    assert "25%" in lines[0] and "1:02:05" in lines[0]


def test_lines_tell_what_bars_tell(capsys):
    reporter = Lines()
    reporter.start("dcgan")
    reporter.score("kid", 0.01234)
    reporter.update(STATE)
    told = capsys.readouterr().err
    assert told == "dcgan: 25%  653 img/s  kid 0.0123  generator/loss 0.5  3725 s left\n"


def test_score_goes_to_the_parent_process_with_each_update(capsys):
    reporter = JSONLines()
    reporter.update(ProgressState(fraction=0.0))
    reporter.score("kid", 0.5)
    reporter.update(ProgressState(fraction=0.5))
    reporter.update(ProgressState(fraction=1.0))
    scores = [json.loads(line).get("score") for line in capsys.readouterr().out.splitlines()]
    assert scores == [None, {"kid": 0.5}, {"kid": 0.5}]


def test_training_reports_the_score_that_its_log_holds(tmp_path):
    from genkit.registry.catalogue import load_registry
    from genkit.training.train import train_by_name

    listener = Listener()
    listener.scores, listener.pictures = [], []
    listener.score = lambda name, value: listener.scores.append((name, value))
    listener.show = listener.pictures.append
    given = {
        "budget": "4steps",
        "grids": 3,
        "watch": 16,
        "batch_size": 8,
        "width": 4,
        "log_every": 2,
    }
    registry = load_registry()
    run = train_by_name(registry, "vae", run_dir=tmp_path / "run", reporter=listener, given=given)
    rows = run.directory.read_metrics()
    assert listener.scores == [("kid", row["kid"]) for row in rows if "kid" in row]
    assert len(listener.scores) == 2 and len(listener.pictures) == 3
    assert {(p.shape, p.dtype.name) for p in listener.pictures} == {((64, 1, 28, 28), "uint8")}
    assert np.array_equal(listener.pictures[-1], run.sample(64).numpy())

    again = Listener()  # it hears the last score when a run resumes
    resume(run.path, registry, reporter=again, budget="6steps", watch=0)
    assert again.last_score == {}
    resume(run.path, registry, reporter=again, budget="8steps", watch=16, grids=1)
    assert again.last_score == {"kid": pytest.approx(run.directory.read_metrics()[-1]["kid"])}


# ---- several processes


@pytest.mark.parametrize(
    "event", [Started(title="vae"), Message(message="a \n b"), STATE, ProgressState(fraction=0.0)]
)
def test_events_between_processes_come_back_as_they_were(event):
    line = write_event(event)
    assert "\n" not in line and read_event(line) == event


@pytest.mark.parametrize(
    "line", ["", "printed", "[1]", "null", '{"event": "x"}', '{"event": "update"}', '{"event": []}']
)
def test_other_lines_of_a_process_are_no_events(line):
    assert read_event(line) is None


TELLS = """
import json
state = {"fraction": 0.5, "images_per_second": 9.0, "seconds_left": 7.0, "values": {"a/loss": 2.0}}
print(json.dumps({"event": "update", "score": SCORE, **state}), flush=True)
"""


@pytest.fixture
def pool_of(monkeypatch):
    """A pool whose commands are Python source."""
    from genkit.io import forks

    monkeypatch.setattr(forks, "genkit_command", lambda words: [sys.executable, "-c", words[0]])
    return ProcessPool


def test_each_title_has_one_bar_for_all_its_parts_and_those_that_wait_have_one(pool_of):
    with pool_of(terminal()) as processes:
        processes.expect(["dcgan", "vae"])
        assert [task.fields["note"] for task in processes.bars.tasks] == ["waiting", "waiting"]
        processes.run([TELLS.replace("SCORE", "{'kid': 0.25}")], "dcgan", "training")
        assert processes.bars.tasks[0].fields["note"] == "training done  kid 0.25"
        processes.run([TELLS.replace("SCORE", "{}")], "dcgan", "scoring")
        notes = [task.fields["note"] for task in processes.bars.tasks]
    assert notes == ["scoring done  kid 0.25", "waiting"]


def test_piped_pool_prints_lines_with_the_same(pool_of):
    console = Console(file=io.StringIO(), width=60)
    with pool_of(console) as processes:
        processes.run([TELLS.replace("SCORE", "{'kid': 0.25}")], "dcgan", "training")
    assert console.file.getvalue().splitlines() == [
        "dcgan: training: 50%  9 img/s  kid 0.25  a/loss 2  7 s left",
        "dcgan: training: done",
    ]


# ---- samples on a terminal


def pictures(count=16, channels=1, side=28):
    """Images whose left half is black and whose right half is white; blue ones with colours."""
    images = np.zeros((count, channels, side, side), np.uint8)
    images[:, -1, :, side // 2 :] = 255
    return images


def drawn(console, images):
    console.print(Preview(images))
    return written(console).rstrip("\n").split("\n")


def test_preview_draws_two_pixels_a_character_in_their_colours():
    console = terminal(80, color_system="truecolor")
    console.print(Preview(pictures(1, channels=3, side=4)))
    black, blue = "\x1b[38;2;0;0;0;48;2;0;0;0m", "\x1b[38;2;0;0;255;48;2;0;0;255m"
    line = f"{black}▀▀\x1b[0m{blue}▀▀\x1b[0m"
    assert console.file.getvalue().split("\n")[:2] == [line, line]


def test_preview_takes_the_colours_that_there_are():
    console = terminal(80, color_system="256")
    console.print(Preview(pictures(1, side=4)))
    assert "\x1b[38;5;16;48;5;16m" in console.file.getvalue()
    assert "38;2;" not in console.file.getvalue()


@pytest.mark.parametrize("settings", [{"no_color": True}, {"color_system": None}])
def test_preview_without_colours_is_black_and_white_and_still_a_picture(settings):
    lines = drawn(terminal(80, **settings), pictures(1, side=4))
    assert [line.rstrip("\n") for line in lines] == ["  ██", "  ██"]


@pytest.mark.parametrize(
    ("width", "height", "across", "rows"),
    [(120, 40, 8, 2), (80, 40, 5, 2), (80, 24, 5, 1), (31, 40, 2, 2), (10, 24, 1, 2)],
)
def test_preview_fits_width_and_half_the_height(width, height, across, rows):
    lines = drawn(terminal(width, height, color_system="truecolor"), pictures(64))
    assert max(map(len, lines)) <= width and len(lines) <= max(height // 2, 4)
    assert {len(line.split()) for line in lines if line} == {across}
    assert lines.count("") == rows - 1


@pytest.mark.parametrize(("side", "wide"), [(8, 8), (28, 14)])
def test_preview_never_enlarges(side, wide):
    (first, *_) = drawn(terminal(119, color_system="truecolor"), pictures(8, side=side))
    assert [len(word) for word in first.split()] == [wide] * 8


def test_preview_keeps_tall_images_within_the_height():
    images = np.zeros((4, 3, 64, 16), np.uint8)
    lines = drawn(terminal(60, 20, color_system="truecolor"), images)
    assert 1 < len(lines) <= 10


def test_bar_shows_the_newest_samples_below_it(monkeypatch):
    console = terminal(80, color_system="truecolor")
    monkeypatch.setattr(progress, "error_console", lambda: console)
    bar = Bar(preview=True)
    bar.start("vae")
    bar.update(STATE)
    assert "▀" not in written(console)
    bar.show(pictures())
    bar.stop()
    after = written(console).split("\n")
    place = max(i for i, line in enumerate(after) if "25%" in line)
    assert after[place + 1].startswith("▀" * 14)


def test_bar_without_preview_shows_no_samples(monkeypatch):
    console = terminal(80, color_system="truecolor")
    monkeypatch.setattr(progress, "error_console", lambda: console)
    bar = Bar()
    bar.start("vae")
    bar.show(pictures())
    bar.stop()
    assert "▀" not in written(console)


@pytest.mark.parametrize("kind", ["auto", "lines"])
def test_preview_where_there_is_no_terminal_is_one_line(kind, capsys):
    reporter = new_reporter(kind, preview=True)
    reporter.show(pictures())
    assert capsys.readouterr().err.splitlines() == [
        "--preview needs a terminal that shows Unicode; grids are written all the same"
    ]


def test_train_with_preview_and_no_terminal_trains(tmp_path, capsys):
    words = f"train vae --budget 1steps --grids 1 --watch 0 --run-dir {tmp_path}/run --preview"
    assert main(words.split()) == 0
    assert capsys.readouterr().err.count("--preview needs a terminal") == 1
