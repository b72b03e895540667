"""Classes that are combinations of attributes: from arrays to models and samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import images, open_named
from toys import random_images, registry, train_tiny

from genkit.cli.sample import read_labels
from genkit.data import Splits, combine
from genkit.data.splits import check_splits
from genkit.errors import PluginError, UsageError
from genkit.io.run_directory import RunDir
from genkit.runs.run import load_run
from genkit.specs import Attributes

VALUES = np.array([[2, 0.5], [0, 0.5], [2, 1], [2, 0.5]])


def test_each_combination_that_occurs_is_a_class_and_says_what_it_is_made_of() -> None:
    labels, classes, attributes = combine(VALUES, ["colour", "size"])
    assert labels.dtype == np.int64 and labels.tolist() == [1, 0, 2, 1]
    assert classes == ("colour=0 size=0.5", "colour=2 size=0.5", "colour=2 size=1")
    table = np.array(attributes.values)
    assert np.array_equal(table[labels], VALUES)
    assert attributes.having("colour", 2) == [1, 2] and attributes.having("size", 3) == []


def test_attributes_that_are_there_or_not_are_named_by_those_that_are() -> None:
    _, classes, _ = combine([[1, 1], [0, 1], [0, 0]], ["hat", "glasses"])
    assert classes == ("none", "glasses", "hat glasses")


@pytest.mark.parametrize(
    "values, message",
    [
        (np.zeros((4, 3)), r"\(4, 3\); expected are .* 2 values: colour, size"),
        (np.zeros(4), r"\(4,\); expected"),
        (np.array([["a", "b"]]), "<U1"),
        (np.array([[0, np.nan]]), "not finite"),
        (np.arange(40_000).reshape(-1, 2), "20,000 different combinations, .* 10,000: round them"),
    ],
)
def test_what_are_no_attributes_is_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        combine(values, ["colour", "size"])


def test_a_loader_whose_attributes_do_not_fit_its_classes_is_named() -> None:
    from genkit.data import Split

    part = Split(images(4), np.array([0, 1, 0, 1]))
    wrong = Splits(part, classes=("a", "b"), attributes=Attributes(("size",), ((1.0,),)))
    with pytest.raises(PluginError, match="'mine' gave attributes that are not 2 rows of 1"):
        check_splits(wrong, "mine", "mine")


def test_an_npz_file_may_hold_attributes_of_each_image(tmp_path: Path) -> None:
    names = np.array(["colour", "size"])
    np.savez(
        tmp_path / "a.npz",
        train_images=images(4),
        train_labels=VALUES,
        test_images=images(2),
        test_labels=VALUES[2:],
        attribute_names=names,
    )
    data = open_named(f"npz:{tmp_path / 'a.npz'}")
    assert data.attributes and data.attributes.names == ("colour", "size")
    table = np.array(data.attributes.values)
    assert data.train.labels is not None and data.test.labels is not None
    assert np.array_equal(table[data.train.labels], VALUES)
    assert np.array_equal(table[data.test.labels], VALUES[2:])
    assert not data.notes


@pytest.mark.parametrize(
    "more, message",
    [
        ({"labels": np.zeros((3, 2))}, r"'labels' .* \(3, 2\); expected are 4 integers"),
        (
            {"labels": VALUES, "attribute_names": np.array(["a", "a"])},
            "expected are 2 different texts",
        ),
        ({"labels": VALUES, "attribute_names": np.array([1, 2])}, "int64.*2 different texts"),
    ],
)
def test_an_npz_file_with_wrong_attributes_is_refused(
    tmp_path: Path, more: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "a.npz", images=images(4), **more)
    with pytest.raises(UsageError, match=message):
        open_named(f"npz:{tmp_path / 'a.npz'}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model by class of images with three attributes, without names."""
    folder = tmp_path_factory.mktemp("attributes")
    bits = np.arange(120)[:, None] // [1, 2, 4] % 2 * [1, 1, 3]  # 8 combinations
    np.savez(folder / "a.npz", images=random_images(120), labels=bits)
    data = f"npz:{folder / 'a.npz'}"
    return train_tiny("vae", data, folder / "run", budget="2steps", conditional=True).path


def test_a_model_knows_the_attributes_of_its_classes_without_the_data(run: Path) -> None:
    loaded = load_run(run, registry(), "cpu")
    attributes = loaded.model.image_shape.attributes
    assert attributes and attributes.names == ("a0", "a1", "a2")
    table = torch.tensor(attributes.values)
    assert table.shape == (8, 3) and table[:, 2].unique().tolist() == [0, 3]
    assert torch.equal(loaded.sample(4, labels=5), loaded.sample(4, labels="a0=1 a1=0 a2=3"))


def test_samples_are_asked_for_by_an_attribute(run: Path) -> None:
    record = RunDir.open(run).record()
    attributes = record.model_shape().attributes
    assert attributes is not None
    assert read_labels("a2=3", record) == attributes.having("a2", 3) == [1, 3, 5, 7]
    assert read_labels("a0=1 a1=0 a2=3,a0=0", record) == [5, 0, 1, 2, 3]
    for word in ("a2=2", "a3=1", "a2=x", "a2="):
        with pytest.raises(UsageError, match=f"there is no class '{word}'"):
            read_labels(word, record)


def test_a_run_whose_attributes_do_not_fit_is_damaged(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["data"]["attributes"]["values"].pop()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="attributes do not fit 8 classes"):
        RunDir.open(tmp_path).record()
