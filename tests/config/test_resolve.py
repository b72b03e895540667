"""Options: budgets, types on the command line, files, presets and where each value comes from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field

from genkit.config.options import check_trainer_options, escape, option_parameters
from genkit.config.resolve import fit, read_config_file, resolve
from genkit.config.run import Budget, RunConfig
from genkit.config.validation import suggest, to_json
from genkit.errors import PluginError, UsageError
from genkit.registry.catalogue import load_registry
from genkit.specs import Config, ImageFacts, ImageShape, TrainerConfig, TrainerSpec


class ToyOptions(TrainerConfig):
    """One option of each kind."""

    layers: int = Field(3, ge=1, le=9, description="how deep")
    rate: float = Field(1e-3, gt=0, le=1, description="how fast")
    kind: Literal["plain", "gated"] = Field("plain", description="which")
    bias: bool = Field(True, description="whether")
    widths: tuple[int, ...] = Field((8, 16), description="how wide, one by one")
    start: Path | None = Field(None, description="where from")


TOY = TrainerSpec(
    name="toy",
    summary="A toy.",
    target="nowhere:Toy",
    config=ToyOptions,
    presets={"quick": {"layers": 2, "rate": 0.5, "batch_size": 8}},
)


def toml(folder: Path, text: str) -> Path:
    path = folder / "options.toml"
    path.write_text(text, encoding="utf-8")
    return path


# ---- budgets


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("90s", 90, "seconds"),
        ("10m", 600, "seconds"),
        ("2h", 7200, "seconds"),
        ("1.5h", 5400, "seconds"),
        ("200kimg", 200_000, "images"),
        ("0.5kimg", 500, "images"),
        ("5000steps", 5000, "steps"),
        ("20epochs", 20, "epochs"),
        (" 20EPOCHS ", 20, "epochs"),
        ("0.5tflop", 5e11, "flop"),
    ],
)
def test_budget_is_read(text: str, amount: float, unit: str) -> None:
    assert Budget.parse(text) == Budget(amount, unit)


@pytest.mark.parametrize(
    "text",
    [
        *["", "0s", "0.0s", "abc", "10", "s", "-5s", "+5s", "1e3s", "5 steps", "1.5steps"],
        *["5stepss", "infs", "nans", "1,000steps", ".5s", "5s5s", "9" * 400 + "s"],
        "9" * 400 + "steps",
    ],
)
def test_bad_budget_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(ValueError, match="is not a budget") as caught:
        Budget.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "share"), [("100s", 0.25), ("50steps", 0.2), ("1kimg", 0.64), ("4epochs", 0.8)]
)
def test_spent_is_the_share_of_the_budgets_own_unit(text: str, share: float) -> None:
    spent = Budget.parse(text).spent(step=10, images=640, seconds=25.0, images_per_epoch=200)
    assert spent == pytest.approx(share, rel=1e-12)


def test_floating_point_operations_become_images_and_nothing_else_does() -> None:
    assert Budget.parse("3tflop").in_images(2e9) == Budget(1500, "images")
    assert Budget.parse("3steps").in_images(2e9) == Budget(3, "steps")
    assert Budget.parse("3steps").in_images(None) == Budget(3, "steps")


def test_spent_passes_one_when_the_budget_is_exceeded() -> None:
    budget = Budget.parse("5steps")
    assert budget.spent(step=5, images=0, seconds=0, images_per_epoch=1) == 1
    assert budget.spent(step=6, images=0, seconds=0, images_per_epoch=1) > 1


# ---- precedence and sources


def test_default_yields_to_preset_to_file_to_given(tmp_path: Path) -> None:
    file = toml(tmp_path, "[run]\nseed = 5\nthreads = 2\n[options]\nrate = 0.25\nlayers = 7\n")
    found = resolve(TOY, preset="quick", file=file, given={"layers": 9, "threads": 3})
    assert found.options == ToyOptions(layers=9, rate=0.25, batch_size=8)
    assert found.run == RunConfig(seed=5, threads=3)
    assert {key: found.sources[key] for key in ("options.layers", "run.threads")} == {
        "options.layers": "given",
        "run.threads": "given",
    }
    assert found.sources["options.rate"] == found.sources["run.seed"] == f"file {file}"
    assert found.sources["options.batch_size"] == "preset quick"
    assert found.sources["options.kind"] == found.sources["run.budget"] == "default"
    assert found.sources["preset"] == "quick"


def test_every_value_has_a_source() -> None:
    found = resolve(TOY)
    values = {f"run.{key}" for key in to_json(found.run)}
    values |= {f"options.{key}" for key in to_json(found.options)}
    assert set(found.sources) == values | {"preset"}


def test_full_preset_is_always_there_and_may_be_given_values() -> None:
    assert resolve(TOY, preset="full").options == ToyOptions()
    spec = TrainerSpec(
        name="toy", summary="", target="a:B", config=ToyOptions, presets={"full": {"layers": 4}}
    )
    assert resolve(spec).options.layers == 4


@pytest.mark.parametrize(
    "name", ["dcgan", "vae", "pixelcnn", "pixelrnn", "flow", "diffusion", "meanflow"]
)
def test_a_runs_config_file_reproduces_its_run_and_options(name: str, tmp_path: Path) -> None:
    spec = load_registry().trainers.find(name)
    given = {"seed": 7, "data_option": ["size=16", "channels=1"], "checkpoint_seconds": 0.1 + 0.2}
    first = resolve(spec, preset="quick", given={**given, "ema_half_life": 123})
    config = {"schema": 1, "model": name, "run": to_json(first.run), "data": {}}
    config["options"] = to_json(first.options)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    again = resolve(spec, file=path)
    assert (again.run, again.options) == (first.run, first.options)


def test_options_of_every_kind_come_from_a_file(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        '\ufeffmodel = "toy"\n[options]\nlayers = 2\nrate = 1\nkind = "gated"\nbias = false\n'
        'widths = [1, 2, 3]\nstart = "here"\n[run]\ndata_option = ["size=64"]\n',
    )
    found = resolve(TOY, file=file)
    assert found.options == ToyOptions(
        layers=2, rate=1.0, kind="gated", bias=False, widths=(1, 2, 3), start=Path("here")
    )
    assert found.run.data_options == {"size": "64"}


# ---- files that cannot be used


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[options]\nlayers = true\n", "options.layers: input should be a valid integer (got True"),
        ('[options]\nlayers = "3"\n', "options.layers: input should be a valid integer (got '3'"),
        ("[options]\nlayers = 3.0\n", "options.layers: input should be a valid integer (got 3.0"),
        ("[options]\nlayers = 1979-05-27\n", "options.layers: input should be a valid integer"),
        ("[options]\nlayers = 0\n", "options.layers: input should be greater than or equal to 1"),
        ("[options]\nrate = nan\n", "options.rate: input should be a finite number"),
        ("[options]\nrate = inf\n", "options.rate: input should be a finite number"),
        ("[options]\nbias = 1\n", "options.bias: input should be a valid boolean (got 1)"),
        ('[options]\nkind = "gatet"\n', "options.kind: input should be 'plain' or 'gated'"),
        ("[options]\nwidths = 3\n", "options.widths: input should be a valid"),
        ("[options]\nlayer = 3\n", "options has no 'layer'. Did you mean 'layers'?"),
        ("[run]\nsede = 3\n", "run has no 'sede'. Did you mean 'seed'?"),
        ('[run]\nbudget = "soon"\n', "run.budget: 'soon' is not a budget"),
        ('[run]\ndata_option = ["size"]\n', "run.data_option: 'size' is not an option"),
        ("[option]\nlayers = 3\n", "unknown key 'option'; write 'model' and the tables [run] and"),
        ("layers = 3\n", "unknown key 'layers'"),
        ("options = 3\n", "'options' must be a table, not 3"),
        ('model = "vae"\n', "is for 'vae', not 'toy'"),
        ("[options\nlayers = 3\n", "is not valid TOML: Expected ']'"),
        ("layers == 3\n", "at line 1"),
    ],
)
def test_bad_file_is_refused_with_file_and_key(text: str, words: str, tmp_path: Path) -> None:
    file = toml(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        resolve(TOY, file=file)
    assert str(file) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b"{", "is not valid JSON"),
        ("a.json", b"[1, 2]", "a table was expected, not list"),
        ("a.json", b'{"optons": {}}', "unknown key 'optons'"),
        ("a.json", b'{"schema": 1, "model": "vae", "run": {}, "options": {}}', "is for 'vae'"),
        ("a.json", b"[" * 100_000, "is not valid JSON"),
        ("a.toml", b"\xff\xfe\x00", "is not valid TOML"),
    ],
)
def test_damaged_file_is_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        resolve(TOY, file=tmp_path / name)
    assert words in str(caught.value)


def test_missing_file_and_folder_in_place_of_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml cannot be read: No such file"):
        read_config_file(tmp_path / "nowhere.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_config_file(tmp_path)


# ---- values given in Python, and presets


def test_unknown_option_and_preset_are_refused_with_the_closest_name() -> None:
    with pytest.raises(UsageError, match=r"toy has no option 'layer'\. Did you mean 'layers'\?"):
        resolve(TOY, given={"layer": 3})
    with pytest.raises(UsageError, match=r"no preset 'quik'; it has full, quick\. Did you mean"):
        resolve(TOY, preset="quik")


def test_preset_out_of_range_is_the_plugins_fault() -> None:
    spec = TrainerSpec(
        name="toy", summary="", target="a:B", config=ToyOptions, presets={"deep": {"layers": 99}}
    )
    with pytest.raises(PluginError, match="preset deep of toy: layers: input should be less"):
        resolve(spec, preset="deep")


def test_suggestion_is_the_closest_word_or_nothing() -> None:
    assert suggest("dcgam", ["vae", "dcgan"]) == " Did you mean 'dcgan'?"
    assert suggest("zzz", ["vae", "dcgan"]) == ""


def test_data_option_needs_a_key_and_a_value() -> None:
    for pair in ("size", "=64", " =64", ""):
        with pytest.raises(ValueError, match="write KEY=VALUE"):
            RunConfig(data_option=(pair,))
    assert RunConfig(data_option=("a=b=c", "d=")).data_options == {"a": "b=c", "d": ""}


# ---- options from config classes


def test_option_parameters_carry_type_range_and_default() -> None:
    found = {p.name: p for p in option_parameters(ToyOptions, "Toy")}
    assert list(found) == list(ToyOptions.model_fields)
    kinds = {name: parameter.annotation.__origin__ for name, parameter in found.items()}
    assert kinds["layers"] is int
    assert kinds["widths"] == list[int]
    assert kinds["start"] == Path | None
    assert found["widths"].default == [8, 16]
    (layers,) = found["layers"].annotation.__metadata__
    assert (layers.min, layers.max, layers.help) == (1, 9, "how deep")
    (rate,) = found["rate"].annotation.__metadata__
    assert (rate.min, rate.max, rate.help) == (None, 1, "how fast; above 0")


@pytest.mark.parametrize(
    "annotation",
    [
        *[dict[str, int], int | str, Config, tuple[int, str], list[bool], Literal[1, 2], bytes],
        *[Any, list[int | None], tuple[()], list],
    ],
)
def test_type_that_cannot_be_an_option_is_refused_by_field(annotation: Any) -> None:
    fields = {"__annotations__": {"odd": annotation}, "odd": Field(None, description="x")}
    odd = type("Odd", (TrainerConfig,), {"__module__": __name__, **fields})
    spec = TrainerSpec(name="toy", summary="", target="a:B", config=odd)
    with pytest.raises(PluginError, match=r"config field 'odd': type .* cannot be a command-line"):
        check_trainer_options(spec)


def test_field_without_a_default_is_refused() -> None:
    class Bare(TrainerConfig):
        width: int

    spec = TrainerSpec(name="toy", summary="", target="a:B", config=Bare)
    with pytest.raises(PluginError, match="config field 'width' needs a default"):
        check_trainer_options(spec)


@pytest.mark.parametrize(
    "name", [*RunConfig.model_fields, "model", "preset", "config", "run_dir", "help", "context"]
)
def test_field_that_collides_with_a_runs_option_is_refused(name: str) -> None:
    fields = {"__annotations__": {name: int}, name: Field(1, description="x")}
    odd = type("Odd", (TrainerConfig,), {"__module__": __name__, **fields})
    spec = TrainerSpec(name="toy", summary="", target="a:B", config=odd)
    with pytest.raises(PluginError, match=f"config field '{name}' of 'toy' is an option of every"):
        check_trainer_options(spec)


def test_preset_with_an_unknown_field_is_refused() -> None:
    spec = TrainerSpec(
        name="toy", summary="", target="a:B", config=ToyOptions, presets={"quick": {"depth": 1}}
    )
    with pytest.raises(PluginError, match="preset 'quick' of 'toy' sets unknown 'depth'"):
        check_trainer_options(spec)


DIGITS = ImageFacts(ImageShape(1, 28, 28), 1000, 0.09)
GREY = ImageFacts(ImageShape(1, 28, 28), 1000, 0.45)
COLOUR = ImageFacts(ImageShape(3, 32, 32), 1000, 0.8)


def fit_toy(facts: ImageFacts, preset: str) -> dict[str, Any]:
    return {"layers": 9, "rate": 0.25} if facts.kind == "grey" and preset == "quick" else {}


def test_a_preset_is_fitted_to_the_images_and_given_options_win(tmp_path: Path) -> None:
    spec = replace(TOY, fit=fit_toy)
    fitted, line = fit(spec, resolve(spec, preset="quick", given={"rate": "0.1"}), GREY)
    assert (fitted.options.layers, fitted.options.rate) == (9, 0.1)
    assert fitted.sources["options.layers"] == "data: grey images"
    assert fitted.sources["options.rate"] == "given"
    assert line and "layers 9" in line and "rate" not in line and "45%" in line
    (tmp_path / "file.toml").write_text("[options]\nlayers = 4\nrate = 0.2\n")
    from_file = resolve(spec, preset="quick", file=tmp_path / "file.toml")
    assert fit(spec, from_file, GREY) == (from_file, None)
    for preset, facts in (("full", GREY), ("quick", DIGITS), ("quick", COLOUR)):
        as_before = resolve(spec, preset=preset)
        assert fit(spec, as_before, facts) == (as_before, None)


def test_a_fit_that_cannot_be_used_is_the_plugins_fault() -> None:
    for wrong in ({"layers": 99}, {"unknown": 1}):
        spec = replace(TOY, fit=lambda facts, preset, wrong=wrong: wrong)
        with pytest.raises(PluginError, match="toy"):
            fit(spec, resolve(spec), GREY)


def test_no_built_in_model_throws_away_grey_or_colour() -> None:
    registry = load_registry()
    for facts in (GREY, COLOUR):
        for preset in ("quick", "full"):
            for name, option, least in (("pixelcnn", "levels", 32), ("vae", "likelihood", None)):
                spec = registry.trainers.find(name)
                fitted, _ = fit(spec, resolve(spec, preset=preset), facts)
                value = getattr(fitted.options, option)
                assert value == "logistic" if least is None else value >= least
    for name in registry.trainers:  # those of digits stay
        spec = registry.trainers.find(name)
        as_before = resolve(spec, preset="quick")
        assert fit(spec, as_before, DIGITS) == (as_before, None)


def test_dcgan_takes_more_steps_for_transparent_images_alone() -> None:
    spec = load_registry().trainers.find("dcgan")
    for channels, preset, size in ((4, "quick", 16), (3, "quick", 32), (4, "full", 64)):
        facts = replace(COLOUR, shape=ImageShape(channels, 32, 32))
        assert fit(spec, resolve(spec, preset=preset), facts)[0].options.batch_size == size


def test_square_brackets_of_a_plugin_are_shown_as_they_are() -> None:
    from rich.text import Text

    for words in ("in [-1, 1]", "a [bold]word", "[/b] alone", "[a] \\[b]", "plain"):
        assert Text.from_markup(escape(words)).plain == words


@pytest.mark.parametrize(
    "name", ["dcgan", "vae", "pixelcnn", "pixelrnn", "flow", "diffusion", "meanflow"]
)
def test_built_in_options_are_described_in_range_and_in_presets(name: str) -> None:
    spec = load_registry().trainers.find(name)
    assert set(spec.presets) >= {"quick"}
    for preset in spec.presets:
        resolve(spec, preset=preset)
    for field in spec.config.model_fields.values():
        assert field.description and not field.description.endswith(".")
