"""Values that no option takes: refused alike on the command line and in a file, by their names."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from command_lines import error_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from toys import bright_squares, registry, train_tiny, write_npz

from genkit.cli import main
from genkit.config.resolve import resolve
from genkit.config.run import RunConfig
from genkit.config.validation import to_json
from genkit.errors import GenkitError, UsageError
from genkit.io.run_directory import RunDir
from genkit.io.run_records import MOST_PIXELS
from genkit.runs.build import read_values
from genkit.runs.run import load_run
from genkit.specs import Config
from genkit.training import train as training

torch.set_num_threads(1)
MODELS = ("dcgan", "vae", "pixelcnn", "pixelrnn", "flow", "diffusion", "meanflow")
HUGE = 10**400
NOT_NUMBERS = ["abc", "1,5", "①", "\0", "\x1b[31m", "0x10", "9" * 5000 + "x"]


TRAIN = training.train


class Accepted(Exception):
    """An option passed; nothing is trained."""


@pytest.fixture(autouse=True, scope="module")
def untrained() -> Iterator[None]:
    """The command stops where it would start to train."""

    def stop(*arguments: Any, **options: Any) -> None:
        raise Accepted

    patch = pytest.MonkeyPatch()
    patch.setattr(training, "train", stop)
    patch.setenv("COLUMNS", "2000")
    yield
    patch.undo()


def fields() -> Iterator[tuple[str, str, str]]:
    """Model, table and name of each option; those of every run once."""
    for name in RunConfig.model_fields:
        yield "vae", "run", name
    for model in MODELS:
        for name in registry().trainers.find(model).config.model_fields:
            yield model, "options", name


def config_of(model: str, table: str) -> type[Config]:
    return RunConfig if table == "run" else registry().trainers.find(model).config


def kind_of(config: type[Config], name: str) -> Any:
    annotation = config.model_fields[name].annotation
    return Literal if get_origin(annotation) is Literal else annotation


def bounds(config: type[Config], name: str) -> tuple[float | None, float | None]:
    """The lowest and the highest value that a number may not reach, or None."""
    low: list[float] = []
    high: list[float] = []
    for mark in config.model_fields[name].metadata:
        low += [mark.ge - 1] if hasattr(mark, "ge") else []
        low += [mark.gt] if hasattr(mark, "gt") else []
        high += [mark.le + 1] if hasattr(mark, "le") else []
        high += [mark.lt] if hasattr(mark, "lt") else []
    return (max(low) if low else None, min(high) if high else None)


def bad_values(config: type[Config], name: str) -> list[tuple[str, Any]]:
    """What a field does not take: as typed, and as in a file; the same value both times."""
    kind, (low, high) = kind_of(config, name), bounds(config, name)
    if kind not in (int, float):
        return []
    odd = [NOT_NUMBERS[(len(name) + place) % len(NOT_NUMBERS)] for place in (0, 3)]
    values: list[tuple[str, Any]] = [
        *((str(each), each) for each in (low, high) if each is not None),
        *((text, text) for text in ("", *odd)),
        ("nan", math.nan),
        ("-inf", -math.inf),
        ("1e400", math.inf),
        ("true", True),
        ("None", "None"),
    ]
    if kind is int:
        values += [("2.5", 2.5), ("3.0", 3.0)]
    if high is not None or kind is float:
        values.append((str(HUGE), HUGE))
    return values


CASES = [
    (*place, text) for place in fields() for text, _ in bad_values(config_of(*place[:2]), place[2])
]


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, float):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def write(folder: Path, table: str, text: str) -> Path:
    path = folder / "options.toml"
    path.write_text(f"[{table}]\n{text}\n", encoding="utf-8")
    return path


def shown(text: str, error: str) -> bool:
    """Whether a message holds a value, in one of the forms that it may take."""
    forms = {text[:60], text.title(), repr(text), repr(text)[:60]}
    try:
        forms.add(repr(float(text)))
    except ValueError:
        pass
    return any(form in error for form in forms if form.strip("'"))


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--from" if name == "from_run" else f"--{name.replace('_', '-')}"


@pytest.mark.parametrize(("model", "table", "name"), list(fields()), ids=lambda part: part)
def test_command_line_and_file_refuse_the_same_values_by_name_and_value(
    model: str, table: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(model, table)
    option = flag(name)
    for text, value in bad_values(config, name):
        assert main(["train", model, f"{option}={text}"]) == 2, (option, text)
        error = error_of(capsys.readouterr())
        assert option in error and (not text or shown(text, error)), (text, error)
        assert len(error) < 500 and error.isprintable()
        path = write(tmp_path, table, f"{name} = {toml(value)}")
        with pytest.raises(UsageError) as caught:
            resolve(registry().trainers.find(model), file=path)
        error = str(caught.value)
        assert f"{table}.{name}" in error and (not text or shown(text, error)), (value, error)
        assert len(error) < 500 and error.isprintable()


def test_enough_values_were_tried() -> None:
    numbers = [place for place in fields() if bad_values(config_of(*place[:2]), place[2])]
    assert len(numbers) > 25 and len(CASES) > 10 * len(numbers)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    TEXTS,
    st.lists(st.integers() | TEXTS, max_size=3),
    st.dictionaries(TEXTS, st.integers(), max_size=2),
)


@settings(max_examples=600, deadline=None, database=None, derandomize=True)
@given(place=st.sampled_from(list(fields())), value=JUNK)
def test_whatever_a_run_was_given_is_taken_as_it_is_or_refused_in_a_sentence(
    place: tuple[str, str, str], value: Any
) -> None:
    """In Python, as `genkit.train(...)` takes options."""
    model, table, name = place
    spec = registry().trainers.find(model)
    try:
        found = resolve(spec, given={name: value})
    except UsageError as error:
        assert name.replace("_", "-") in str(error) and len(str(error)) < 1500
    else:
        taken = getattr(found.run if table == "run" else found.options, name)
        again = config_of(model, table).model_validate({name: taken})
        assert getattr(again, name) == taken
        json.dumps(to_json(found.run) | to_json(found.options), allow_nan=False)


WORDS = st.text(string.printable.replace("\x0b", "").replace("\x0c", ""), max_size=12) | TEXTS


@settings(
    max_examples=80,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.sampled_from(list(fields())), text=WORDS | st.integers().map(str))
def test_what_the_command_line_accepts_a_file_accepts_and_the_other_way_round(
    place: tuple[str, str, str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, table, name = place
    kind = kind_of(config_of(model, table), name)
    value: Any = text
    if kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            value = text
    elif get_origin(kind) is tuple:
        value = [text]

    def outcome(*words: str) -> int | str:
        try:
            code = main(["train", model, *words])
        except Accepted:
            code = 0
        error_of(capsys.readouterr())
        return code

    typed = outcome(f"{flag(name)}={text}")
    assert typed in (0, 2)
    path = write(tmp_path, table, f"{name} = {toml(value)}")
    assert outcome("--config", str(path)) == typed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run]\nseeed = 1", "run has no 'seeed'. Did you mean 'seed'?"),
        ("[options]\nlatnt = 1", "options has no 'latnt'. Did you mean 'latent'?"),
        ("[run]\nseed = 1\nseed = 2", "not valid TOML"),
        ("[run]\nseed = null", "not valid TOML"),
        ("[run]\nseed = 0x" + "f" * 5000, "too large"),
        ("[run]\nseed = " + "9" * 5000, "not valid TOML"),
        ("[options]\nlatent = " + "[" * 500 + "]" * 500, "options"),
        ("[options]\nlatent = " + "[" * 5000, "not valid TOML"),
        ("[run]\ndata = ''", None),
        ('[run]\ndata = "\\u0000"', "holds a NUL"),
        ('[run]\ndata_root = "a\\u0000b"', "holds a NUL"),
        ('[run]\ndevice = "\\u0000"', "holds a NUL"),
        ("[run]\nseed = 1979-05-27", "run.seed"),
        ("[run]\nbudget = 90", "run.budget"),
        ('[run]\nbudget = "' + "9" * 3000 + 's"', "run.budget"),
        ("[run]\ndata_option = [1]", "run.data_option"),
        ("run = 3", "'run' must be a table, not 3"),
        ("run = [" + "7," * 5000 + "]", "'run' must be a table"),
        ("\x00", "not valid TOML"),
        ("\ufeff[run]\nseed = true", "run.seed"),
        ("model = 3", "is for 3, not 'vae'"),
        ("schema = 1", None),
        ("[other]", "unknown key 'other'"),
    ],
)
def test_odd_files_are_refused_in_one_sentence(
    text: str, words: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "options.toml"
    path.write_text(text, encoding="utf-8")
    if words is None:
        with pytest.raises(Accepted):
            main(["train", "vae", "--config", str(path)])
        return
    assert main(["train", "vae", "--config", str(path)]) == 2
    error = error_of(capsys.readouterr())
    assert words in error and len(error) < 1500


@pytest.mark.parametrize("kind", ["datasets", "features", "metrics"])
def test_configs_of_other_plugins_refuse_what_they_do_not_take(kind: str) -> None:
    tried = 0
    for name, entry in getattr(registry(), kind).items():
        for field in entry.spec.config.model_fields:
            choices = get_args(entry.spec.config.model_fields[field].annotation)
            for value in (math.nan, math.inf, HUGE, -1, 7.5, {}, [], "nosuch", "\0", b"\xff"):
                if str in choices and isinstance(value, str):
                    continue
                tried += 1
                with pytest.raises(ValidationError):
                    entry.spec.config.model_validate({field: value})
        with pytest.raises(ValidationError):
            entry.spec.config.model_validate({f"{name}_": 1})
    assert tried or kind == "metrics"


@pytest.mark.parametrize(
    "words", ["size=7", "size=257", "size=nan", "size=1e400", "size=", "channels=5", "colour=1"]
)
def test_options_of_data_sets_are_refused_by_name_and_value(words: str) -> None:
    from genkit.data.datasets import open_data

    spec = registry().datasets.find("folder")
    name, value = words.split("=")
    with pytest.raises(UsageError) as error:
        open_data(spec, "folder:x", "x", {name: value})
    assert name in str(error.value) and (value in str(error.value) or name == "colour")


# ---- config.json of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("run")
    data = write_npz(folder / "data.npz", bright_squares(20))
    run = RunDir(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", TRAIN)
        train_tiny("vae", data, run.path, budget="2steps")
    return run


@pytest.fixture
def config(run: RunDir) -> Iterator[dict[str, Any]]:
    """The run's config.json, put back afterwards."""
    whole = run.config_path.read_bytes()
    yield json.loads(whole)
    run.config_path.write_bytes(whole)


ODD = [None, True, -1, 0, 1.5, 10**30, HUGE, "", "x", "os:system", "../x", [], [1], {}, {"a": 1}]
PLACES = ["schema", "model", "run", "options", "image_shape", "data", "precision", "device"]
PLACES += [f"image_shape.{name}" for name in ("channels", "height", "width", "classes", "depth")]
PLACES += ["run.seed", "run.budget", "run.data", "run.data_option", "run.threads", "run.nosuch"]
PLACES += ["options.latent", "options.width", "options.hidden", "options.nosuch", "sources"]
PLACES += ["provenance", "parameters"]


@pytest.mark.parametrize("place", PLACES)
def test_odd_values_in_a_runs_config_are_used_or_refused_in_a_sentence(
    run: RunDir, config: dict[str, Any], place: str
) -> None:
    *tables, key = place.split(".")
    refusals = 0
    for value in ODD:
        changed = json.loads(json.dumps(config))
        table = changed[tables[0]] if tables else changed
        table[key] = value
        run.config_path.write_text(json.dumps(changed), encoding="utf-8")
        try:
            load_run(run.path, registry(), "cpu")
            read_values(RunConfig, run.record().run, run)
        except GenkitError as error:
            refusals += 1
            assert str(error).isprintable() and 0 < len(str(error)) < 700, value
    unused = ("precision", "device", "data", "sources", "provenance", "parameters")
    assert refusals > (0 if place in unused else 6)


TEXTS_OF_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be read"),
    "not UTF-8": (b'{"model": "\xff"}', "cannot be read"),
    "BOM": (b"\xef\xbb\xbf{}", "cannot be read"),
    "NaN": (b'{"model": NaN}', "NaN is not a number"),
    "1e400": (b'{"model": 1e400}', "1e400 is not a number"),
    "5000 digits": (b'{"model": ' + b"9" * 5000 + b"}", "cannot be read"),
    "deep": (b'{"model": ' + b"[" * 10**5, "nested too deeply"),
    "a key twice": (b'{"model": "vae", "model": "dcgan"}', "'model' is there twice"),
    "a list": (b"[1]", "it is not a table"),
    "text": (b'"x"', "it is not a table"),
    "NUL": (b"\0\0\0", "cannot be read"),
}


@pytest.mark.parametrize("kind", TEXTS_OF_FILES)
@pytest.mark.parametrize("command", ["sample", "resume", "evaluate"])
def test_damaged_config_json_is_one_sentence_for_every_command(
    run: RunDir,
    config: dict[str, Any],
    kind: str,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    content, words = TEXTS_OF_FILES[kind]
    run.config_path.write_bytes(content)
    assert main([command, str(run.path)]) == 2
    error = error_of(capsys.readouterr())
    assert error.startswith("Error: ") and words in error and "config.json" in error


def test_an_image_shape_is_bounded(run: RunDir, config: dict[str, Any]) -> None:
    """No terabytes are asked for, nor the gigabytes that the bound would allow: a model that is
    not the one whose weights are there is never built."""
    for size in (10**9, MOST_PIXELS + 1, MOST_PIXELS, 128):
        config["image_shape"] |= {"height": size, "width": size, "channels": 3}
        config["options"] |= {"hidden": 65536, "width": 1024, "latent": 4096}
        run.config_path.write_text(json.dumps(config), encoding="utf-8")
        with pytest.raises(GenkitError, match=r"image_shape\.height|has shape|8 to 128"):
            load_run(run.path, registry(), "cpu")


def test_a_newer_schema_says_to_update(run: RunDir, config: dict[str, Any]) -> None:
    run.config_path.write_text(json.dumps({**config, "schema": 2}), encoding="utf-8")
    with pytest.raises(UsageError, match="a newer genkit wrote it, this one knows schema 1"):
        load_run(run.path, registry(), "cpu")


def test_other_options_than_the_weights_are_told_by_the_first_tensor_that_differs(
    run: RunDir, config: dict[str, Any]
) -> None:
    config["options"]["latent"] += 1
    run.config_path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(GenkitError, match=r"has shape .*, the model"):
        load_run(run.path, registry(), "cpu")


@pytest.mark.parametrize(
    "line",
    [
        *(b"{", b"[1]", b"1", b"\xff", b'{"step": "x"}', b'{"step": NaN}', b'{"step": 1e999}'),
        *(b"\0", b'{"step": 1, "step": 2}', b"[" * 10**5, b'{"step": true}', b'{"step": null}'),
    ],
)
def test_a_damaged_line_of_metrics_is_left_out_and_those_after_it_stay(
    tmp_path: Path, line: bytes
) -> None:
    run = RunDir(tmp_path)
    run.metrics_path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]
    run.cut_metrics(1)
    assert run.read_metrics() == [{"step": 1}]
