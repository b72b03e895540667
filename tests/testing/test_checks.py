"""The test kit: what is built in passes it, and broken specs are reported."""

import os
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from broken import Toy, assert_reported, recorder  # noqa: F401 (Toy is a target)
from command_lines import install_plugin, trainer_source
from pydantic import Field, field_validator
from toys import TINY, bright_squares

from genkit.contracts.contract import (
    PromiseBroken,
    check,
    difference,
    drawn_from,
    frames_of_plugin,
    noisy_squares,
    random_states,
    statement,
    white_squares,
)
from genkit.errors import UsageError
from genkit.registry.catalogue import load_registry
from genkit.specs import ImageShape, TrainerConfig, TrainerSpec
from genkit.testing import (
    capabilities,
    check_dataset,
    check_features,
    check_metric,
    check_plugin,
    check_trainer,
    choices,
    datasets,
    exactness,
    features,
    metrics,
    models,
    runs,
    samples,
)
from genkit.testing.specs import PLUGIN_CONTRACTS, SPEC_CONTRACTS

torch.set_num_threads(1)
BUILT_IN = load_registry()


def sparing(name):
    """Of models that share a network, the suite sees one, and the others are thorough."""
    others = name in ("diffusion", "meanflow")
    return pytest.param(name, marks=pytest.mark.thorough if others else ())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*map(sparing, TINY)])
def test_built_in_model_keeps_its_contract(name):
    unet = name in ("diffusion", "flow", "meanflow")  # slow: of other shapes, and fewer
    shapes = {"shapes": ((1, 8, 8), (4, 9, 16))} if unet else {}
    check_trainer(name, options=TINY[name], **shapes)


@pytest.mark.parametrize("name", ["mnist-mini", "mnist-mini-binary"])
def test_built_in_data_set_keeps_its_contract(name):
    check_dataset(name)


@pytest.mark.parametrize("name", BUILT_IN.metrics)
def test_built_in_metric_keeps_its_contract(name):
    check_metric(name)


def test_data_sets_of_files_keep_their_contract(tmp_path):
    from PIL import Image

    images = noisy_squares(30, ImageShape(3, 16, 16), seed=0).images
    np.savez(tmp_path / "all.npz", images=images)
    for i, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{i}.png")
    check_dataset("npz", str(tmp_path / "all.npz"))
    check_dataset("folder", str(tmp_path), {"size": 16})


def test_shipped_features_keep_their_contract():
    check_features("digits", (1, 28, 28))


@pytest.mark.slow
def test_trained_features_keep_their_contract_and_leave_the_cache_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path))
    check_features("classifier", (3, 16, 16))
    assert os.environ["GENKIT_CACHE"] == str(tmp_path) and not list(tmp_path.iterdir())


def test_checks_leave_random_numbers_threads_and_data_as_they_were():
    torch.set_num_threads(2)
    before, images = random_states(), bright_squares(40, (1, 8, 8))
    copy = images.copy()
    check_trainer("vae", options=TINY["vae"], images=images)
    check_metric("classes")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert drawn_from(before) is None and threads == 2 and (images == copy).all()


def test_each_global_generator_is_watched():
    for name, draw in (
        ("torch", lambda: torch.rand(1)),
        ("numpy", np.random.rand),
        ("Python", random.random),
    ):
        before = random_states()
        draw()
        assert drawn_from(before) == name


def test_difference_says_where_and_by_how_much():
    one = {"a": [torch.zeros(2), 1], "b": None}
    assert difference(one, {"a": [torch.zeros(2), 1], "b": None}) is None
    assert (
        difference(one, {"a": [torch.full((2,), 0.5), 1], "b": None}) == "a.0 differs by up to 0.5"
    )
    assert difference(one, {"a": [torch.zeros(2), 2], "b": None}) == "a.1 is 1, not 2"
    assert difference(one, {"a": [torch.zeros(3), 1], "b": None}).startswith("a.0 is torch.float32")
    assert difference(one, {"a": [], "b": None}) == "a has 2 parts, not 0"
    assert difference(one, {"a": []}) == "it holds ['a', 'b'], not ['a']"


def test_squares_are_white_in_the_quarter_that_their_label_says():
    split = white_squares(6, ImageShape(1, 3, 4))
    assert split.labels.tolist() == [0, 1, 2, 3, 0, 1]
    assert (split.images[1, 0] // 255).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]
    noisy = noisy_squares(8, ImageShape(1, 3, 4), seed=0).images
    assert len({image.tobytes() for image in noisy}) == 8
    assert ((noisy > 128) == (white_squares(8, ImageShape(1, 3, 4)).images > 0)).all()


def test_unknown_name_is_a_mistake_of_the_caller():
    with pytest.raises(UsageError, match=r"no model named 'vea'.*Did you mean 'vae'"):
        check_trainer("vea")
    with pytest.raises(UsageError, match="options for vae: latents is not an option here"):
        check_trainer("vae", options={"latents": 3})
    with pytest.raises(UsageError, match="options for folder: sizes is not an option here"):
        check_dataset("folder", "nowhere", {"sizes": 3})
    with pytest.raises(UsageError, match=r"no plugin named 'dcgam'.* Did you mean 'dcgan'?"):
        check_plugin("dcgam")


def test_name_of_a_plugin_that_failed_comes_with_the_reason(monkeypatch, tmp_path):
    (tmp_path / "stranger.py").write_text("raise RuntimeError('half finished')\n")
    (tmp_path / "stranger-0.1.dist-info").mkdir()
    (tmp_path / "stranger-0.1.dist-info" / "METADATA").write_text("Name: stranger\nVersion: 0.1\n")
    (tmp_path / "stranger-0.1.dist-info" / "entry_points.txt").write_text(
        "[genkit.v1]\nstranger = stranger\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"offers 'odd', and some failed: stranger: .*half fini"):
        check_trainer("odd")


class Mute(TrainerConfig):
    width: int = 8


class Doubling(TrainerConfig):
    width: int = Field(8, description="hidden units")

    @field_validator("width")
    @classmethod
    def _double(cls, width):
        return 2 * width


class Clashing(TrainerConfig):
    budget: int = Field(8, description="hidden units")


TOY = TrainerSpec(name="toy", summary="A toy.", target=f"{__name__}:Toy")
BROKEN_SPECS = [
    ({"summary": "Two\nlines."}, "registry takes; the summary of 'toy' must be one line"),
    ({"config": Mute}, "default and a description; 'width' has no description"),
    ({"config": Doubling}, r"as in a run's config\.json, and from TOML; after JSON, width is 3"),
    ({"config": Clashing}, "beside a run's own; config field 'budget' of 'toy' is an option of"),
    ({"target": "broken:Nothing"}, "as \"package.module:Name\" says; 'toy' could not be loaded"),
    ({"target": "broken:SHAPE"}, "says; broken:SHAPE cannot be called"),
    ({"presets": {"quick": {"batch_size": 0}}}, "that the config takes; preset quick of toy"),
]


@pytest.mark.parametrize(
    "change, report", BROKEN_SPECS, ids=[case[1][-20:] for case in BROKEN_SPECS]
)
def test_broken_spec_is_reported(change, report):
    with pytest.raises(PromiseBroken, match=f"^toy: .*{report}"):
        check_trainer(replace(TOY, **change))


def test_entry_module_that_imports_torch_is_reported(monkeypatch, tmp_path):
    (tmp_path / "heavy_entry.py").write_text(
        "import torch\nfrom genkit.specs import TrainerConfig\nclass C(TrainerConfig): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import heavy_entry

    with pytest.raises(PromiseBroken, match=r"must not import torch.*; heavy_entry: imports"):
        check_trainer(replace(TOY, config=heavy_entry.C))


def test_plugin_that_fails_or_imports_torch_is_reported(monkeypatch, tmp_path):
    install_plugin(tmp_path, "heavy", "import torch\n" + trainer_source("odd"))
    install_plugin(tmp_path, "misspelt", trainer_source("even").replace("_trainers", "_trainer"))
    monkeypatch.syspath_prepend(tmp_path)
    check_plugin("dcgan")
    with pytest.raises(PromiseBroken, match=r"^heavy: .*must not import torch.*stranger_heavy: im"):
        check_plugin("heavy")
    with pytest.raises(PromiseBroken, match=r"^misspelt: the plugin must load, .* hook named"):
        check_plugin("misspelt")


def test_frames_of_a_plugin_are_those_of_the_first_error_and_neither_genkits_nor_pythons():
    def fails(config, samples, reference):
        return float("a number")

    with pytest.raises(PromiseBroken) as caught:
        check("toy", (lambda _: iter(map(fails, [1], [2], [3])),), None)
    lines = frames_of_plugin(caught.value).splitlines()
    assert lines[0].endswith("in fails") and __file__ in lines[0] and len(lines) in (2, 3)
    assert frames_of_plugin(PromiseBroken("nothing behind it")) == ""


def test_every_contract_of_specs_and_options_is_broken_above():
    assert len(models.OPTION_CONTRACTS) == 1 + len(SPEC_CONTRACTS) == 5
    assert len(models.CONFIG_CONTRACTS) == 2


def test_every_contract_stands_in_the_documentation():
    page = Path(__file__).parents[2] / "docs" / "testing.md"
    rows = re.findall(r"^\| (.*?)\. \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    contracts = [
        PLUGIN_CONTRACTS[0],
        *models.OPTION_CONTRACTS,
        *models.CONFIG_CONTRACTS,
        *models.TRAINING_CONTRACTS,
        models.odd_shapes_are_refused_or_work,
        *samples.SAMPLE_CONTRACTS,
        *capabilities.CAPABILITY_CONTRACTS,
        *datasets.DATASET_CONTRACTS,
        *metrics.METRIC_CONTRACTS,
        *features.FEATURE_CONTRACTS,
        *choices.CHOICE_CONTRACTS,
        *exactness.LIKELIHOOD_CONTRACTS,
        runs.runs_can_be_resumed,
    ]
    assert sorted(row[0].lower() + row[1:] for row in rows) == sorted(map(statement, contracts))
