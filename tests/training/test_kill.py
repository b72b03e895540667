"""Pull the plug at any moment of a training: it resumes to the same bits.

Each kill is a real SIGKILL of a process of its own, forked from one that has imported torch: this
file run as a script.
"""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import child_environment, registry, same_bits, train_tiny, write_npz

from genkit.io import files, run_directory
from genkit.io.progress import Reporter
from genkit.io.run_directory import RunDir
from genkit.runs.checkpoint import load_state, read_best
from genkit.training.resume import resume

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux")

TIMES = ("seconds", "images_per_second")
MODELS = ("dcgan", "vae", "pixelcnn")
# A line of the log and a checkpoint after each step. The VAE is watched, so that there are best
# weights and, since it has learned nothing yet, warnings.
OFTEN = {"checkpoint_seconds": 1e-9, "log_every": 1, "watch": 0, "grids": 2}
WATCHED = {"data": "mnist-mini", "grids": 4, "watch": 16}
# What a save does, in order. Pruning begins when there are three states.
SAVE = """sync metrics.jsonl
    write .STATE.safetensors.tmp, sync .STATE.safetensors.tmp
    replace STATE.safetensors, sync checkpoints
    write .STATE.json.tmp, sync .STATE.json.tmp, replace STATE.json, sync checkpoints
    write .last.json.tmp, sync .last.json.tmp, replace last.json, sync checkpoints
    unlink OLD.json, unlink OLD.safetensors
    write .model.safetensors.tmp, sync .model.safetensors.tmp, replace model.safetensors, sync run
    write .summary.json.tmp, sync .summary.json.tmp, replace summary.json, sync run"""


# ---- in the process that is killed


class Plug:
    """Notes what is done to files, in order, and kills the process before deed number `at`; a write
    has been done by half then."""

    def __init__(self, at=None):
        self.at = at
        self.deeds = []

    def note(self, deed, path):
        if len(self.deeds) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.deeds.append(f"{deed} {Path(path).name}".replace(f".{os.getpid()}.", "."))

    def install(self):
        plug, replace, unlink = self, os.replace, os.unlink

        class File(io.FileIO):
            def write(self, content):
                if len(plug.deeds) == plug.at:
                    super().write(bytes(content)[: len(content) // 2])
                plug.note("write", self.name)
                return super().write(content)

        def opened(path, mode="r", *arguments, **options):
            if mode in ("wb", "ab"):
                return File(path, mode)
            return open(path, mode, *arguments, **options)

        def noted_replace(source, target):
            plug.note("replace", target)
            replace(source, target)

        def noted_unlink(path, **options):
            if Path(path).exists():
                plug.note("unlink", path)
            unlink(path, **options)

        files.open = run_directory.open = opened
        os.replace, os.unlink = noted_replace, noted_unlink
        # Nothing is lost without: a killed process leaves what it wrote to the system.
        os.fsync = lambda number: plug.note("sync", os.readlink(f"/proc/self/fd/{number}"))


class Ticks(Reporter):
    """Writes a byte to a pipe for each line of the log."""

    def __init__(self, pipe):
        self.pipe = pipe

    def update(self, state):
        os.write(self.pipe, b".")


def work(case, reporter=None):
    """Train, or resume from what there is."""
    path = Path(case["path"])
    if (path / "config.json").exists():
        resume(path, registry(), reporter=reporter)
    else:
        train_tiny(case["model"], run_dir=path, reporter=reporter, **case["options"])


def forked(task, *arguments):
    """Run a task in a copy of this process; returns the copy's number."""
    child = os.fork()
    if child:
        return child
    try:
        task(*arguments)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def at_deed(case):
    plug = Plug(case["at"])
    plug.install()
    work(case)
    Path(case["path"], "deeds.json").write_text(json.dumps(plug.deeds), encoding="utf-8")


def at_random(case, generator):
    """Kill a training again and again, some lines of its log after it began or went on."""
    for _ in range(case["times"]):
        reading, writing = os.pipe()
        child = forked(work, case, Ticks(writing))
        os.close(writing)
        for _ in range(generator.integers(1, 9)):
            os.read(reading, 1)
        time.sleep(generator.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.close(reading)
        yield os.waitpid(child, 0)[1]


def warm_up():
    """Import here, once, what each training would import: that takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            options = {**OFTEN, **WATCHED, "budget": "1steps"}
            run = train_tiny(model, run_dir=Path(folder, model), **options)
            resume(run.path, registry(), budget="2steps")


def serve():
    """Take cases, one a line; answer each with the ways in which its processes ended."""
    generator = np.random.default_rng(0)
    warm_up()
    for line in sys.stdin:
        case = json.loads(line)
        if "times" in case:
            ends = list(at_random(case, generator))
        else:
            ends = [os.waitpid(forked(at_deed, case), 0)[1]]
        if any(ends):
            ends.append(os.waitpid(forked(work, case), 0)[1])
        print(json.dumps(ends), flush=True)


# ---- in the process that looks


THOROUGH = (pytest.mark.slow, pytest.mark.thorough)


@pytest.fixture(scope="module")
def server():
    """Runs a case in processes that may be killed; returns how they ended."""
    command = [sys.executable, __file__]
    pipe = subprocess.PIPE
    environment = {**child_environment(), "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:

        def run(**case):
            process.stdin.write(json.dumps(case) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """Uninterrupted runs, made when asked for: the case that made it, and what it did to files."""
    made = {}
    data = write_npz(tmp_path_factory.mktemp("data") / "data.npz")

    def run(model, steps):
        if (model, steps) not in made:
            options = {"data": data, **OFTEN, "budget": f"{steps}steps"}
            options |= WATCHED if model == "vae" else {}
            path = tmp_path_factory.mktemp(model) / "run"
            case = {"model": model, "path": str(path), "options": options}
            assert server(**case, at=None) == [0]
            deeds = json.loads((path / "deeds.json").read_text(encoding="utf-8"))
            made[model, steps] = case, deeds
        return made[model, steps]

    return run


def outcome(path):
    """All that must be equal to the last bit."""
    directory = RunDir(Path(path))
    rows = directory.read_metrics()
    best = read_best(directory.checkpoints)
    state, notes = load_state(directory.checkpoints)
    summary = json.loads((directory.path / "summary.json").read_text(encoding="utf-8"))
    assert not notes and not list(directory.path.rglob("*.tmp"))
    return {
        "state": state["loop"],
        "weights": directory.weights_path.read_bytes(),
        "best": best,
        "best weights": best and (directory.checkpoints / best.file).read_bytes(),
        "metrics": [{k: v for k, v in row.items() if k not in TIMES} for row in rows],
        "warnings": summary["warnings"],
        "samples": {path.name: path.read_bytes() for path in directory.samples.iterdir()},
        "files": sorted(path.name for path in directory.checkpoints.iterdir()),
    }


def saves(deeds):
    """The first and last number of the deeds of each save."""
    starts = [i for i, deed in enumerate(deeds) if deed == "sync metrics.jsonl"]
    return [(i, deeds.index("replace summary.json", i) + 1) for i in starts]


def assert_survives(server, whole, model, points, folder):
    case, deeds = whole
    expected = outcome(case["path"])
    for at in points:
        ends = server(**{**case, "path": str(folder / f"at-{at}")}, at=at)
        assert ends == [signal.SIGKILL, 0], f"{deeds[at]}, number {at}"
        found = outcome(folder / f"at-{at}")
        different = [part for part in expected if not same_bits(expected[part], found[part])]
        assert not different, f"{deeds[at]}, number {at}"


def test_a_save_writes_syncs_and_renames_each_file_before_it_begins_the_next(whole):
    """The data reach the disk before the name does, and the name before the pointer to it: this is
    what a power cut needs, and what no kill can show."""
    _, deeds = whole("dcgan", 4)
    spans = saves(deeds)
    assert len(spans) == 5  # after each step, and the weights once more at the end
    for step, (first, last) in enumerate(spans[:4], start=1):
        expected = [word.strip() for line in SAVE.splitlines() for word in line.split(",")]
        expected = [word for word in expected if step > 2 or "OLD" not in word]
        text = "\n".join(expected).replace("STATE", f"step-{step:09d}")
        text = text.replace("OLD", f"step-{step - 2:09d}")
        assert deeds[first : last + 1] == text.splitlines()


SLOW = [pytest.param(model, marks=THOROUGH) for model in ("dcgan", "vae")]


@pytest.mark.parametrize("save", [pytest.param(0, marks=THOROUGH), 2])
@pytest.mark.parametrize("model", ["pixelcnn", *SLOW])
def test_a_run_killed_anywhere_in_a_save_ends_as_if_it_had_not_been(
    server, whole, model, save, tmp_path
):
    run = whole(model, 4)
    first, last = saves(run[1])[save]
    assert last - first >= 15
    assert_survives(server, run, model, range(first, last + 1), tmp_path)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("model", MODELS)
def test_a_run_killed_between_saves_ends_as_if_it_had_not_been(server, whole, model, tmp_path):
    """While it writes lines of the log, grids and the best weights."""
    run = whole(model, 4)
    within = {i for first, last in saves(run[1]) for i in range(first, last + 1)}
    config = run[1].index("replace config.json")  # before that there is no run
    points = sorted(set(range(config + 1, len(run[1]))) - within)
    assert len(points) >= 14
    assert_survives(server, run, model, points[:: 2 if model == "vae" else 1], tmp_path)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("model", MODELS)
def test_a_run_killed_eight_times_at_random_ends_as_if_it_had_not_been(
    server, whole, model, tmp_path
):
    case, _ = whole(model, 80)
    path = str(tmp_path / "run")
    ends = server(**{**case, "path": path}, times=8)
    assert ends == [signal.SIGKILL] * 8 + [0]
    assert same_bits(outcome(path), outcome(case["path"]))


def test_the_runs_that_are_compared_have_something_to_lose(whole):
    """Else equality would say little."""
    found = outcome(whole("vae", 4)[0]["path"])
    assert found["best"] and "nearly alike" in found["warnings"][0]
    assert found["state"]["step"] == 4 and len(found["metrics"]) > 4 and len(found["samples"]) == 9


if __name__ == "__main__":
    serve()
