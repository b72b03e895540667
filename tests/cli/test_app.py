"""The command line: what it answers without torch, and what it says to input it cannot use."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_origin

import numpy as np
import pytest
from command_lines import Answer, CommandLines, error_of

from genkit.cli import main
from genkit.config.run import RunConfig
from genkit.errors import UsageError
from genkit.io.progress import new_reporter
from genkit.io.run_records import ProgressState
from genkit.registry.catalogue import load_registry
from genkit.specs import Config
from genkit.training import train as training
from genkit.version import __version__

MODELS = ("dcgan", "gan", "vae", "pixelcnn", "pixelrnn", "flow", "diffusion", "meanflow")

# ---- without torch

LIGHT = {
    "--help": 0,
    "--version": 0,
    "list": 0,
    "list --json -": 0,
    "plugins": 0,
    "train --help": 0,
    "train dcgan --help": 0,
    "train --help vae": 0,
    "train dcgam": 2,
    "train --budget 5s dcgam": 2,
    "train --budget 5s": 2,
    "train vae --latnt 3": 2,
    "train vae --latent 0": 2,
    "train vae --budget soon": 2,
    "train vae --preset quik": 2,
    "train vae --config nowhere.toml": 2,
    "compare dcgan vea": 2,
    "compare": 2,
    "compare vae --rank-by is": 2,
    "compare vae --seeds 0": 2,
    "evaluate --help": 0,
    "report nowhere": 2,
    "info kid": 0,
    "resume nowhere": 2,
    "resume nowhere --budget 0s": 2,
    "sample nowhere": 2,
    "trian": 2,
    "info vea": 2,
    "list --json nowhere/list.json": 2,
}
COMPLETED = {
    "genkit ": {"train", "compare", "list", "info", "sample", "resume", "evaluate", "report"},
    "genkit tr": {"train"},
    "genkit train ": set(MODELS),
    "genkit train d": {"dcgan", "diffusion"},
    "genkit train dcgan --lat": {"--latent"},
    "genkit train vae --precision ": {"auto", "fp32", "bf16"},
    "genkit train --budget 5s d": {"dcgan", "diffusion"},
    "genkit compare v": {"vae"},
    "genkit compare dcgan p": {"pixelcnn", "pixelrnn"},
}


@pytest.fixture(scope="module")
def light(command_lines: CommandLines) -> dict[str, Answer]:
    """Answers of command lines that need no torch, and of the shell's requests to complete."""
    variables: list[dict[str, str]] = [{} for _ in LIGHT]
    for words in COMPLETED:
        place = str(len(words.split()) - (not words.endswith(" ")))
        request = {"_GENKIT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}
        variables.append(request)
    lines = [*LIGHT, *["" for _ in COMPLETED]]
    answers = command_lines(*lines, variables=variables)
    return dict(zip([*LIGHT, *COMPLETED], answers, strict=True))


@pytest.mark.parametrize("line", LIGHT)
def test_light_command_answers_without_torch(line: str, light: dict[str, Answer]) -> None:
    answer = light[line]
    assert answer.code == LIGHT[line], answer.err
    assert answer.heavy == []
    assert "Traceback" not in answer.out + answer.err
    assert bool(answer.err) == (answer.code != 0)


@pytest.mark.parametrize("words", COMPLETED)
def test_shell_completes_without_torch(words: str, light: dict[str, Answer]) -> None:
    answer = light[words]
    assert (answer.code, answer.err, answer.heavy) == (0, "", [])
    found = set(answer.out.split())
    assert found >= COMPLETED[words]
    assert words == "genkit " or found == COMPLETED[words]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train dcgam", "No such command 'dcgam'. Did you mean 'dcgan'?"),
        ("train --budget 5s dcgam", "No such command 'dcgam'. Did you mean 'dcgan'?"),
        (
            "train --budget 5s",
            "Name the model to train; there are: dcgan, diffusion, flow, meanflow, gan, pixelcnn, "
            "pixelrnn, vae.",
        ),
        ("train vae --latnt 3", "No such option: --latnt"),
        ("compare dcgan vea", "there is no model named 'vea'. Did you mean 'vae'?"),
        ("trian", "No such command 'trian'. Did you mean 'train'?"),
        ("info vea", "there is nothing named 'vea'. Did you mean 'vae'?"),
        ("train vae --preset quik", "vae has no preset 'quik'; it has full, quick. Did you mean"),
        ("train vae --config nowhere.toml", "nowhere.toml cannot be read: No such file"),
        ("resume nowhere", "nowhere does not exist; give the path of a run"),
        ("sample nowhere", "nowhere does not exist; give the path of a run"),
        ("resume nowhere --budget 0s", "'--budget': '0s' is not a budget"),
        (
            "compare vae --rank-by is",
            "--rank-by 'is' is not a score that ranks; there are: fid_corrected",
        ),
        ("report nowhere", "nowhere is neither a run nor a folder of a comparison"),
        ("list --json nowhere/list.json", "is not a file in an existing folder"),
    ],
)
def test_mistyped_word_gets_the_closest_one(
    line: str, words: str, light: dict[str, Answer]
) -> None:
    assert words in light[line].err


def test_info_of_a_metric_says_what_ranks_and_how_it_is_defined(light: dict[str, Answer]) -> None:
    text = light["info kid"].out
    assert "Kernel distance between the features" in " ".join(text.split())
    assert "kid: lower is better, ranks models, unbiased" in text
    assert "cubic kernel, all pairs" in text


def test_help_of_a_model_shows_its_own_options(light: dict[str, Answer]) -> None:
    text = light["train dcgan --help"].out
    assert light["train --help vae"].out != text
    panels = [line for line in text.splitlines() if line.startswith("╭─")]
    titles = [line.strip("╭─╮ ") for line in panels]
    assert {"Run", "Network", "Optimisation"} <= set(titles)

    def shown(option: str) -> str:
        """The lines of an option: its own and those that go on with its description."""
        lines = text.splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith(f"│ {option} "))
        last = first + 1
        while lines[last].startswith("│  "):
            last += 1
        return " ".join(" ".join(line.strip("│") for line in lines[first:last]).split())

    assert "<int range> [1<=x<=4096] dimensions of the noise z" in shown("--latent")
    assert "[default: 100]" in shown("--latent")
    assert "<non-saturating|minimax|" in shown("--loss")
    assert "below 1" in shown("--dropout") and "[x>=0]" in shown("--dropout")
    assert "above 0" in shown("--generator-rate") and "[x<=1]" in shown("--generator-rate")
    assert "[default: 10m]" in shown("--budget")
    registry = load_registry()
    for name in (*RunConfig.model_fields, *registry.trainers.find("dcgan").config.model_fields):
        shown("--from" if name == "from_run" else f"--{name.replace('_', '-')}")


def test_list_and_version_say_what_there_is(light: dict[str, Answer]) -> None:
    assert light["--version"].out == f"genkit {__version__}\n"
    listed = json.loads(light["list --json -"].out)
    assert set(listed["trainers"]) == set(MODELS)
    for kind in listed.values():
        for name in kind:
            assert name in light["list"].out


def test_output_survives_a_terminal_without_the_signs_it_needs() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "genkit", "list"]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Fr?chet" in done.stdout


# ---- input that cannot be used


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, which must hold no run afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    yield tmp_path
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "new-run").exists()


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a training with these words says on stderr; it must be refused as a usage error."""
    code = main(["train", *words, "--run-dir", "new-run", "--progress", "none"])
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.out == ""
    return error_of(captured)


def next_number(bound: float, way: int, kind: type) -> float:
    """The number of a kind beside a bound, below it if `way` is -1, above it if 1."""
    return bound + way if kind is int else math.nextafter(bound, way * math.inf)


def bad_values(config: type[Config]) -> Iterator[tuple[str, str]]:
    """For each number and choice among the fields: values out of range and of another type."""
    for name, field in config.model_fields.items():
        option = f"--{name.replace('_', '-')}"
        if get_origin(field.annotation) is Literal:
            yield option, "nosuch"
            yield option, "1"
        if field.annotation not in (int, float):
            continue
        for bound in field.metadata:
            if hasattr(bound, "ge"):
                yield option, str(next_number(bound.ge, -1, field.annotation))
            if hasattr(bound, "gt"):
                yield option, str(bound.gt)
            if hasattr(bound, "le"):
                yield option, str(next_number(bound.le, 1, field.annotation))
            if hasattr(bound, "lt"):
                yield option, str(bound.lt)
        for value in ("nan", "inf", "-inf", "abc", "", "1,5", "true"):
            if (name, value) != ("ema_half_life", "1,5"):  # two half-lives
                yield option, value
        if field.annotation is int:
            yield option, "2.5"


CONFIGS = {
    "run": ("vae", RunConfig),
    **{name: (name, load_registry().trainers.find(name).config) for name in MODELS},
}
BAD_VALUES = [
    pytest.param(model, option, value, id=f"{label}{option}={value}")
    for label, (model, config) in CONFIGS.items()
    for option, value in bad_values(config)
]


def test_every_number_has_a_lower_bound() -> None:
    for _, config in CONFIGS.values():
        for name, field in config.model_fields.items():
            if field.annotation in (int, float):
                bounds = [m for m in field.metadata if hasattr(m, "ge") or hasattr(m, "gt")]
                assert bounds, f"{config.__name__}.{name}"


@pytest.mark.parametrize(("model", "option", "value"), BAD_VALUES)
def test_bad_value_is_refused_by_the_name_of_its_option(
    model: str,
    option: str,
    value: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("it was taken"))
    assert option in refused(capsys, model, f"{option}={value}")


@pytest.mark.parametrize(
    "budget", ["0s", "abc", "-5s", "1e3s", "5 steps", "1.5steps", "", "9" * 400 + "steps"]
)
def test_bad_budget_is_refused_with_examples(
    budget: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, "vae", "--budget", budget)
    assert error.startswith(f"Error: --budget: {budget!r} is not a budget;")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--latnt", "3"], "No such option: --latnt"),
        (["--preset", "quik"], "vae has no preset 'quik'; it has full, quick. Did you mean"),
        (["dcgan"], "Got unexpected extra argument(s) (dcgan)"),
        (["--data-option", "size"], "--data-option: 'size' is not an option of a data set"),
        (["--data-option", "size=8"], "mnist-mini has no data option 'size'"),
        (["--data", "mnist-min"], "no data set named 'mnist-min'. Did you mean 'mnist-mini'?"),
        (["--data", ""], "names no data set"),
        (["--data", "mnist-mini:x"], "mnist-mini takes nothing after its name"),
        (["--data", "folder:"], "folder needs a path: --data folder:PATH"),
        (["--data", "folder:missing"], "missing does not exist"),
        (["--data", "folder:junk"], "junk holds no image"),
        (["--data", "folder:empty"], "empty holds no image"),
        (["--data", "./junk"], "is a path; write --data folder:./junk"),
        (["--data", "npz:missing.npz"], "missing.npz"),
        (["--data", "npz:junk/notes.txt"], "notes.txt"),
        (["--device", "gpu"], "--device 'gpu' is not a device; write auto, cpu, cuda"),
        (["--device", "cuda:99"], "--device cuda:99: this machine has"),
        (["--config", "missing.toml"], "--config missing.toml cannot be read: No such file"),
        (["--config", "junk"], "--config junk cannot be read"),
    ],
)
def test_bad_word_is_refused_in_one_sentence(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    (folder / "junk").mkdir()
    (folder / "junk" / "notes.txt").write_text("no image", encoding="utf-8")
    (folder / "junk" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    assert message in refused(capsys, "vae", *words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[options]\nbatch_size = true\n", "options.batch_size: input should be a valid integer"),
        ('[options]\nbatch_size = "3"\n', "options.batch_size: input should be a valid integer"),
        ("[options]\nbatch_size = 3.0\n", "options.batch_size: input should be a valid integer"),
        ("[options]\nbatch_sise = 3\n", "has no 'batch_sise'. Did you mean 'batch_size'?"),
        ("[run]\nseed = -1\n", "run.seed: input should be greater than or equal to 0 (got -1)"),
        ("batch_size = 3\n", "unknown key 'batch_size'"),
        ('model = "dcgan"\n', "is for 'dcgan', not 'vae'"),
        ("batch size = 3\n", "is not valid TOML"),
    ],
)
def test_bad_config_file_is_refused_with_file_and_key(
    text: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "options.toml").write_text(text, encoding="utf-8")
    error = refused(capsys, "vae", "--config", "options.toml")
    assert message in error
    assert "options.toml" in error


def test_occupied_run_directory_is_left_as_it_was(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "config.json").write_text("precious", encoding="utf-8")
    code = main(["train", "vae", "--budget", "1steps", "--run-dir", "old"])
    assert code == 2
    error = error_of(capsys.readouterr())
    assert "run directory old exists and is not empty; choose another --run-dir" in error
    assert [p.name for p in (folder / "old").iterdir()] == ["config.json"]
    assert (folder / "old" / "config.json").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("command", ["resume", "sample", "evaluate"])
@pytest.mark.parametrize("path", ["missing", "empty", "file", "broken", "foreign"])
def test_path_that_is_no_run_is_refused_by_name(
    command: str, path: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("empty", "broken", "foreign"):
        (folder / name).mkdir()
    (folder / "file").write_text("x", encoding="utf-8")
    (folder / "broken" / "config.json").write_text('{"model": "va', encoding="utf-8")
    shape = {"channels": 1, "height": 8, "width": 8}
    foreign = {"model": "diffusion-9000", "run": {}, "options": {}, "image_shape": shape}
    (folder / "foreign" / "config.json").write_text(json.dumps(foreign), encoding="utf-8")
    before = sorted(folder.rglob("*"))
    assert main([command, path]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    error = error_of(captured)
    assert ("diffusion-9000" if path == "foreign" else path) in error
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluate real --data-option size", "'size' is not an option of a data set"),
        ("evaluate real --data mnist-min", "Did you mean 'mnist-mini'?"),
        ("evaluate real -n 3", "'--samples'"),
        ("evaluate real --threads 99999999999", "'--threads'"),
        ("evaluate real --features digit", "Did you mean 'digits'?"),
        ("evaluate real --json missing/rows.json", "is not a file in an existing folder"),
        ("compare vae -n 3", "'--samples'"),
        ("compare vae --budget soon", "--budget: 'soon' is not a budget"),
        ("compare vae vae", "'vae' is named twice"),
        ("compare vae --json missing/rows.json", "is not a file in an existing folder"),
    ],
)
def test_scoring_refuses_bad_words_before_any_work(
    line: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert message in error_of(capsys.readouterr())
    assert list(folder.iterdir()) == []


# ---- progress


def test_unknown_kind_of_progress_is_refused_by_name() -> None:
    with pytest.raises(
        UsageError, match="'bars' is not known; choose auto, bar, lines, json, none"
    ):
        new_reporter("bars")


def test_progress_in_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = new_reporter("json")
    reporter.start("vae")
    reporter.update(ProgressState(fraction=0.5, values={"elbo/loss": 1.5}))
    reporter.say("two\nlines")
    reporter.stop()
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events == [
        {"event": "start", "title": "vae"},
        {"event": "update", "fraction": 0.5, "values": {"elbo/loss": 1.5}},
        {"event": "message", "message": "two\nlines"},
    ]


def test_plain_progress_says_little_and_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = new_reporter("auto")  # pytest's stderr is no terminal
    reporter.start("vae")
    for share in (0.1, 0.2, 0.3):  # at once: only the first is due
        values = {"loss": 1.23}
        reporter.update(ProgressState(fraction=share, images_per_second=950.4, values=values))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "vae: 10%  950 img/s  loss 1.23\n"


@pytest.mark.parametrize("kind", ["lines", "json", "none"])
def test_progress_that_nobody_can_read_ends_no_work(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull, "w", encoding="utf-8") as closed:
        pass
    monkeypatch.setattr(sys, "stdout", closed)
    monkeypatch.setattr(sys, "stderr", closed)
    reporter = new_reporter(kind)
    reporter.start("vae")
    reporter.update(ProgressState(fraction=0.5))
    reporter.say("a word")
    reporter.stop()


# ---- trainings


def values_of(run: Path) -> dict[str, Any]:
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    return {key: config[key] for key in ("run", "options")}


def train(*words: str) -> dict[str, Any]:
    """Train for one step with these words; returns the values that the run recorded."""
    before = set(Path("runs").glob("*")) if Path("runs").exists() else set()
    assert main(["train", *words]) == 0
    (run,) = set(Path("runs").glob("*")) - before
    return values_of(run)


def test_options_count_alike_in_any_order_and_before_the_models_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--latent", "3", "--width", "4", "--hidden", "8", "--batch-size=4"]
    rest = ["--grids", "0", "--progress", "none", "--seed", "5", "--budget", "1steps"]
    first = train("vae", *small, *rest)
    assert first["options"]["latent"] == 3 and first["run"]["seed"] == 5
    assert train("vae", *rest, *small) == first
    assert train(*rest, "vae", *small) == first
    assert train(*small, *rest, "vae") == first
    assert train("--budget=1steps", *rest[:6], "vae", *small) == first
    out = capsys.readouterr().out.splitlines()
    assert out[0] == str(Path("runs/vae-mnist-mini-s5"))  # the run's path comes last
    again = train("vae", "--config", f"{out[0]}/config.json", "--progress", "none")
    assert again == first  # a run's own record reproduces it


def test_some_options_may_stand_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = [
        "--generator-width",
        "4",
        "--discriminator-width",
        "4",
        "--batch-size",
        "4",
        "--grids",
        "0",
        "--watch",
        "0",
    ]
    rest = ["--budget", "1steps", "--progress", "none"]
    for place, words in enumerate(
        ([*small, *rest, "--augment"], ["--augment", *small, *rest], [*small, *rest])
    ):
        options = train("dcgan", *words)["options"]
        assert options["augment"] == ("none" if place == 2 else "colour,translation,cutout")
    assert train("dcgan", *small, *rest, "--augment", "flip")["options"]["augment"] == "flip"


def test_an_option_that_may_not_stand_alone_needs_a_value(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "dcgan", "--latent"]) == 2
    assert "--latent" in capsys.readouterr().err


def test_name_of_a_model_as_a_value_is_not_taken_for_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--run-dir", "dcgan", "--budget", "soon", "vae", "--hidden", "8"]) == 2
    assert "'soon' is not a budget" in capsys.readouterr().err  # --hidden is an option of vae alone


def test_folder_of_images_trains_and_its_options_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats").mkdir()
    generator = np.random.default_rng(0)
    for i in range(8):
        pixels = generator.integers(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cats" / f"{i}.png")
    values = train(
        *["vae", "--data", "folder:cats", "--data-option", "size=8", "--budget", "1steps"],
        *["--width", "4", "--hidden", "8", "--batch-size", "2", "--grids", "0"],
        *["--progress", "none"],
    )
    assert values["run"]["data_option"] == ["size=8"]
