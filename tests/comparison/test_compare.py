"""Comparisons: what they refuse beforehand, and a real one in which a model fails."""

import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from toys import train_tiny, write_npz

from genkit.comparison import compare as comparison
from genkit.comparison.candidates import (
    announce,
    budgets_of,
    choose_candidates,
    choose_presets,
    option_arguments,
)
from genkit.comparison.compare import compare
from genkit.comparison.montage import join_grids
from genkit.comparison.options import CompareOptions
from genkit.config.budget import Budget
from genkit.errors import GenkitError, UsageError
from genkit.io.run_directory import RunDir
from genkit.registry.catalogue import load_registry
from genkit.report.data_facts import DataFacts
from genkit.report.rows import ScoreRow, read_comparison, write_evaluation
from genkit.specs import TrainerConfig, TrainerSpec


@pytest.fixture(scope="module")
def registry():
    return load_registry()


def genkit(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-m", "genkit", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_model_given_twice_is_refused(registry, tmp_path):
    with pytest.raises(UsageError, match="'vae' is named twice"):
        choose_candidates(["vae", "dcgan", "vae"], registry, tmp_path)


def test_runs_of_one_folder_name_are_told_apart_by_their_paths(registry, tmp_path, monkeypatch):
    data = write_npz(tmp_path / "data.npz")
    for parent in ("a", "b"):
        train_tiny("vae", data, tmp_path / parent / "x", budget="1steps")
    train_tiny("vae", data, tmp_path / "c" / "y", budget="1steps")
    monkeypatch.chdir(tmp_path)
    found = choose_candidates(["a/x", "b/x", "c/y"], registry, tmp_path / "out")
    assert [candidate.name for candidate in found] == ["a/x", "b/x", "y"]
    with pytest.raises(UsageError, match="'x' is named twice"):
        choose_candidates(["a/x", "a/x"], registry, tmp_path / "out")


def test_unknown_model_is_refused_with_the_closest_name(registry, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'vae'"):
        choose_candidates(["dcgan", "vea"], registry, tmp_path)


def test_path_that_is_no_run_is_refused(registry, tmp_path):
    with pytest.raises(UsageError, match="is not a run directory"):
        choose_candidates([str(tmp_path)], registry, tmp_path)


def test_bad_budget_is_refused(registry, tmp_path):
    with pytest.raises(UsageError, match="'abc' is not a budget"):
        compare(["vae"], CompareOptions(budget="abc"), registry, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("vae", "cannot be read; write MODEL.OPTION=VALUE"),
        ("dcgan.latent=5", "is for none of the models"),
        ("vae.latnet=5", "Did you mean 'latent'"),
        ("vae.latent=0", "^--set vae.latent: "),
        ("vae.latent=x", "^--set vae.latent: "),
        ("vae.seed=1", "vae has no option 'seed'"),
    ],
)
def test_option_for_one_model_is_checked_before_training(registry, tmp_path, text, complaint):
    with pytest.raises(UsageError, match=complaint):
        compare(["vae"], CompareOptions(set=(text,)), registry, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_with_files_in_it_is_refused_and_left_alone(registry, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not empty"):
        compare(["vae"], CompareOptions(), registry, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_data_that_cannot_be_scored_is_refused_before_training(registry, tmp_path):
    path = tmp_path / "small.npz"
    np.savez(path, images=np.zeros((40, 16, 16), np.uint8))
    with pytest.raises(UsageError, match="1 x 28 x 28, not 1 x 16 x 16"):
        compare(
            ["vae"],
            CompareOptions(data=f"npz:{path}", features="digits"),
            registry,
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_comparison_goes_on_when_a_model_fails(tmp_path):
    made = genkit(
        "train", "vae", "--preset", "quick", "--budget", "3steps", "--run-dir", "old", cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == "old"
    weights = tmp_path / "old" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    done = genkit(
        *("compare", "vae", "dcgan", "old", "--budget", "3steps", "--samples", 64, "--out", "out"),
        *("--set", "vae.latent=3"),
        cwd=tmp_path,
        COLUMNS="80",
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().endswith("Error: old failed; the table says why")
    assert "old failed: " in done.stderr  # as soon as it does
    assert "Training vae, dcgan for 3steps each on mnist-mini" in done.stderr
    assert "old failed: " in done.stdout and "model.safetensors" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if " ±" in line) <= 90

    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    trained = json.loads((tmp_path / "out" / "vae" / "config.json").read_text())
    assert trained["options"]["latent"] == 3
    rows = {row["name"]: row for row in content["rows"]}
    assert [row["name"] for row in content["rows"]][2:] == ["old", "real", "copy", "noise"]
    assert content["ranked_by"] == "kid"  # 64 samples are few
    ranked = sorted(("vae", "dcgan"), key=lambda name: rows[name]["scores"]["kid"])
    assert rows[ranked[0]]["rank"] == 1 and rows[ranked[1]]["rank"] in (1, 2)
    assert rows["real"]["scores"]["fid"] < rows[ranked[0]]["scores"]["fid"]
    cards = [rows[name]["card"] for name in ("vae", "dcgan", "noise")]
    assert len({(c["features"], c["reference"], c["samples"]) for c in cards}) == 1
    for name in ("vae", "dcgan"):
        assert rows[name]["parameters"] > 100_000 and rows[name]["sample_rate"] > 0
        assert (tmp_path / "out" / name / "evaluation.json").exists()
    assert rows["vae"]["likelihood"]["kind"] == "bound" and rows["dcgan"]["likelihood"] is None
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.width > 4 * 2 * 8 * 28  # real, vae, dcgan and old, twice their size
    assert done.stdout.splitlines()[-2].startswith("out/report.html ")
    pages = [tmp_path / "out" / name / "report.html" for name in ("", "vae", "dcgan")]
    assert all("<h1>" in page.read_text(encoding="utf-8") for page in pages)
    assert "old failed: " in pages[0].read_text(encoding="utf-8")


@pytest.mark.thorough
def test_models_trained_with_several_seeds_have_the_mean_and_deviation_of_their_trainings(tmp_path):
    done = genkit(
        *("compare", "vae", "--seeds", 2, "--seed", 5, "--budget", "2steps", "--samples", 64),
        *("--out", "out", "--rank-by", "fid", "--cards"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Training vae, 2 times each for 2steps each" in done.stderr
    assert "Means of 2 trainings: ± is half of their 95% confidence interval" in done.stdout
    assert "quantisation and resizing: uint8, rounded, no resizing" in done.stdout
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["vae", "real", "copy", "noise"]
    trainings = [row["scores"]["fid"] for row in content["trainings"]]
    assert trainings[0] != trainings[1]
    row = content["rows"][0]
    assert row["scores"]["fid"] == pytest.approx(statistics.fmean(trainings))
    assert row["deviations"]["fid"] == pytest.approx(statistics.stdev(trainings))
    for seed in (5, 6):
        config = json.loads((tmp_path / "out" / f"vae-s{seed}" / "config.json").read_text())
        assert config["run"]["seed"] == seed
    again = genkit("report", "out/vae-s5", "out/vae-s6", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert re.search(r"^1=? .*vae-s[56]", again.stdout, re.M)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_comparison_leaves_trainings_that_go_on(tmp_path, number):
    command = [sys.executable, "-P", "-m", "genkit", "compare", "vae", "--preset", "quick"]
    command += ["--budget", "10m", "--out", "out"]
    # Where these tests run in a shell's background, SIGINT is ignored, which would be inherited.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        signal.signal(signal.SIGINT, before)
        for line in process.stderr:
            if "training: " in line:  # it has begun
                break
        os.killpg(process.pid, number)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    done = genkit("resume", tmp_path / "out" / "vae", "--budget", "1steps", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the budget of 1steps is spent" in done.stderr


class ScoresOneModel:
    """In place of the processes: one model is scored, then the user presses Ctrl-C."""

    ended = False

    def __init__(self, *arguments):
        self.said, self.timeline = [], []
        self.interrupt = threading.Event()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def expect(self, titles):
        pass

    def say(self, text):
        self.said.append(text)

    def end(self):
        self.ended = True

    def run(self, command, title, part="", aside=False):
        if command[0] == "evaluate":
            targets = command[1 : command.index("--alone")]
            rows = [ScoreRow(name=name, run=name, scores={"kid": 0.1}) for name in targets]
            if "likelihood" in command:
                rows = [ScoreRow(name="vae")]
            write_evaluation(Path(command[command.index("--json") + 1]), rows)
        elif title == "vae":
            RunDir.create(Path(command[command.index("--run-dir") + 1]))
        else:
            raise GenkitError("no such luck")


def test_interrupted_comparison_keeps_and_shows_what_was_scored(registry, tmp_path, monkeypatch):
    class Interrupted(ScoresOneModel):
        def run(self, command, title, part="", aside=False):
            if title == "dcgan":
                while not (tmp_path / "out" / "vae").exists():
                    time.sleep(0.01)
                time.sleep(0.3)
                raise KeyboardInterrupt
            super().run(command, title, part, aside)

    monkeypatch.setattr(comparison, "ProcessPool", Interrupted)
    console = Console(file=io.StringIO(), width=200)
    options = CompareOptions(budget="2steps", workers=3)
    with pytest.raises(KeyboardInterrupt):
        compare(["vae", "dcgan"], options, registry, tmp_path / "out", console)
    text = console.file.getvalue()
    assert "Interrupted: 1 of 2 trainings are scored and kept" in text
    assert f"genkit report {tmp_path / 'out'}" in text
    content = read_comparison(tmp_path / "out")
    rows = {row.name: row for row in content.rows}
    assert rows["vae"].scores == {"kid": 0.1} and rows["vae"].error is None
    assert rows["dcgan"].error == "the comparison was interrupted before it was scored"
    assert (tmp_path / "out" / "vae" / "evaluation.json").exists()
    done = genkit("report", "out", cwd=tmp_path)
    assert done.returncode == 0 and "vae" in done.stdout, done.stderr
    assert "dcgan failed: the comparison was interrupted" in done.stdout


def test_failure_of_a_model_is_said_when_it_happens(registry, tmp_path, monkeypatch):
    pools = []

    class Kept(ScoresOneModel):
        def __init__(self, *arguments):
            super().__init__()
            pools.append(self)

    monkeypatch.setattr(comparison, "ProcessPool", Kept)
    options = CompareOptions(budget="2steps", workers=1)
    console = Console(file=io.StringIO())
    compare(["vae", "dcgan"], options, registry, tmp_path / "out", console)
    assert pools[0].said == ["dcgan failed: no such luck"]


def test_estimate_counts_scoring_and_grids(registry, tmp_path):
    candidates = choose_candidates(["vae", "dcgan"], registry, tmp_path)
    facts = DataFacts(
        device="cpu",
        devices=(),
        shape="1 x 28 x 28",
        train_images=10_000,
        features="digits",
        notes=(),
    )

    def minutes(**given):
        options = CompareOptions(budget="10m", data="mnist-mini", **given)
        line = announce(candidates, options, facts, "quick", 1, tmp_path)[-1]
        return int(re.search(r"about (\d+) minutes in all", line)[1])

    assert minutes(grids=0, watch=0) == 22  # two trainings, three scorings of half a minute
    assert minutes() == 26  # and a fifth of the trainings for grids


def test_training_is_given_its_grids_and_watch(registry, tmp_path, monkeypatch):
    commands = []

    class Kept(ScoresOneModel):
        def run(self, command, title, part="", aside=False):
            commands.append(command)
            super().run(command, title, part, aside)

    monkeypatch.setattr(comparison, "ProcessPool", Kept)
    options = CompareOptions(budget="2steps", workers=1, grids=2, watch=0)
    compare(["vae"], options, registry, tmp_path / "out", Console(file=io.StringIO()))
    (train,) = (command for command in commands if command[0] == "train")
    place = train.index("--grids")
    assert train[place : place + 4] == ["--grids", "2", "--watch", "0"]


@pytest.mark.parametrize("count, columns, rows", [(1, 1, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2)])
def test_pictures_stand_at_most_four_in_a_row(tmp_path, count, columns, rows):
    Image.new("RGB", (700, 300), "red").save(tmp_path / "red.png")
    join_grids([(f"model {i}", tmp_path / "red.png") for i in range(count)], tmp_path / "all.png")
    with Image.open(tmp_path / "all.png") as image:
        assert image.size == (columns * 712 + 12, rows * 348)
        reds = sum(n for n, colour in image.getcolors(1 << 20) if colour == (255, 0, 0))
    assert reds == count * 700 * 300


@pytest.mark.slow
def test_comparison_in_which_every_model_fails_ends_with_an_error(tmp_path):
    np.savez(tmp_path / "tiny.npz", images=np.zeros((40, 4, 4), np.uint8))
    (tmp_path / "torch.py").write_text("raise SystemExit('not the real one')")
    done = genkit(
        *("compare", "vae", "dcgan", "--data", "npz:tiny.npz", "--features", "none"),
        *("--budget", "2steps", "--out", "out"),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "vae failed: vae takes images of 8 to 128 pixels a side, not 1 x 4 x 4" in done.stdout
    assert done.stderr.strip().endswith("Error: all models failed; the table says why")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (CompareOptions(), ("npz:/sprites.npz", ("size=8",))),
        (CompareOptions(data="mnist"), ("mnist", ())),
        (CompareOptions(data_option=("size=9",)), ("npz:/sprites.npz", ("size=9",))),
    ],
)
def test_data_is_that_of_a_run_unless_named(options, expected):
    recorded = {"data": "npz:/sprites.npz", "data_root": None, "data_option": ["size=8"]}
    registry = load_registry()
    chosen = options.with_data(recorded, registry)
    assert (chosen.data, chosen.data_option) == expected
    assert CompareOptions().with_data(None, registry).data == "mnist-mini"


@pytest.mark.thorough
def test_run_on_own_data_is_compared_on_its_data(tmp_path):
    np.savez(tmp_path / "own.npz", images=np.zeros((60, 16, 16, 3), np.uint8))
    made = genkit(
        *("train", "vae", "--preset", "quick", "--data", "npz:own.npz", "--budget", "1steps"),
        *("--run-dir", "old"),
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    done = genkit(
        "compare", "old", "--features", "none", "--samples", 64, "--out", "out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["data"] == f"npz:{tmp_path / 'own.npz'}"


def test_command_and_python_have_the_same_defaults():
    import inspect

    from genkit.cli.compare import compare

    parameters = inspect.signature(compare).parameters
    for name, value in vars(CompareOptions()).items():
        assert (parameters[name].default or None) == (value or None), name


def test_a_model_that_cannot_be_trained_by_class_is_a_row_that_says_so(registry, tmp_path):
    options = CompareOptions(conditional=True)
    names = choose_candidates(["vae"], registry, tmp_path)
    (able,) = choose_presets(names, options, registry, "quick")
    assert able.problem is None
    arguments = option_arguments("vae", options.given("vae"), registry)
    assert arguments == ["--conditional"]
    given = {"conditional": "false", "batch_size": "8"}
    assert option_arguments("vae", given, registry) == ["--no-conditional", "--batch-size=8"]


class Unable(TrainerConfig):
    """Options without --conditional."""


def test_a_model_without_the_option_is_named_before_training(registry, tmp_path, monkeypatch):
    (plain,) = choose_candidates(["vae"], registry, tmp_path)
    spec = TrainerSpec(name="vae", summary="", target="a:B", config=Unable)
    monkeypatch.setattr(registry.trainers, "find", lambda name: spec)
    (found,) = choose_presets([plain], CompareOptions(conditional=True), registry, "quick")
    assert found.problem == "vae has no --conditional: it cannot be trained by class"


def test_models_have_their_own_budgets_in_a_quick_comparison_that_names_none(registry, tmp_path):
    models = choose_candidates(["vae", "dcgan"], registry, tmp_path)

    def budgets(preset, **given):
        return budgets_of(choose_presets(models, CompareOptions(**given), registry, preset))

    own = {name: registry.trainers.find(name).budget for name in ("vae", "dcgan")}
    assert all(Budget.parse(text).unit != "seconds" for text in own.values())
    assert budgets("quick") == f"vae {own['vae']}, dcgan {own['dcgan']}"
    assert budgets("full") == "120s"
    assert budgets("quick", budget="9steps") == budgets("full", budget="9steps") == "9steps"
