"""Data sets: names and options, what a loader may return, what is held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import SPECS, all_images, images, open_named, open_splits

from genkit.data import Split, Splits
from genkit.data.datasets import data_root, parse_data_name
from genkit.data.splits import Augmentation
from genkit.errors import PluginError, UsageError
from genkit.specs import DatasetSpec, ImageShape


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mnist-mini", ("mnist-mini", None)),
        ("folder:sprites/small", ("folder", "sprites/small")),
        ("folder:C:\\sprites", ("folder", "C:\\sprites")),
        ("folder:", ("folder", None)),
    ],
)
def test_data_name_splits_at_first_colon(text: str, expected: tuple[str, str | None]) -> None:
    assert parse_data_name(text) == expected


@pytest.mark.parametrize("text", ["", ":x", "./sprites", "sprites/small", ".."])
def test_a_path_or_nothing_is_no_data_name(text: str) -> None:
    with pytest.raises(UsageError, match="write --data"):
        parse_data_name(text)


def test_data_root_is_option_then_variable_then_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("GENKIT_DATA", "/variable")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_root(Path("~/option")) == Path("/home/someone/option")
    assert data_root(None) == Path("/variable")
    monkeypatch.delenv("GENKIT_DATA")
    assert data_root(None) == Path("/cache/genkit/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert data_root(None) == Path("/home/someone/.cache/genkit/data")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root(None) == Path("/home/someone/.cache/genkit/data")


@pytest.mark.parametrize("text", ["mnist-mini", "emoji-mini", "mnist-mini-binary"])
def test_every_data_set_can_change_its_training_images_and_says_so(text: str) -> None:
    plain, changed = open_named(text), open_named(text, flip="true", shift="2")
    assert str(plain.train.augmentation) == "" and str(changed.train.augmentation) == (
        "flip=true shift=2"
    )
    assert str(changed.test.augmentation) == ""
    said = [note for note in changed.notes if "changed at random" in note]
    assert len(said) == 1 and "(flip=true shift=2)" in said[0]
    assert changed.notes[: len(plain.notes)] == plain.notes
    assert plain.fingerprint == changed.fingerprint  # the images themselves are the same
    assert np.array_equal(plain.train.images, changed.train.images)


def test_few_images_leave_the_data_as_it_is_and_are_told() -> None:
    plain, few = open_named("mnist-mini"), open_named("mnist-mini", images="100")
    assert plain.fingerprint == few.fingerprint and len(few.train.images) == 10_000
    assert str(few.train.augmentation) == "images=100"
    assert "100 of 10,000 images are learned from; scores compare with all" in few.notes
    assert len(few.notes) == len(plain.notes) + 1
    for count in ("1", "10001"):
        with pytest.raises(UsageError, match=f"images={count}: give 2 to 10,000, or 0 for all"):
            open_named("mnist-mini", images=count)


def test_rows_and_columns_of_all_images_are_exchanged() -> None:
    plain, turned = open_named("mnist-mini"), open_named("mnist-mini", transpose="true")
    for before, after in ((plain.train, turned.train), (plain.test, turned.test)):
        assert np.array_equal(before.images.transpose(0, 1, 3, 2), after.images)
        assert np.array_equal(before.labels, after.labels)
    assert plain.fingerprint != turned.fingerprint
    assert turned.train.images.flags.c_contiguous
    assert turned.reference is None and not turned.train.augmentation.moves


def test_options_come_before_the_changes_that_a_loader_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = Split(images(8), augmentation=Augmentation(flip=True, shift=1))
    assert str(open_splits(monkeypatch, Splits(train)).train.augmentation) == "flip=true shift=1"
    assert str(open_named("mnist-mini", flip=False).train.augmentation) == "shift=1"


def test_source_is_demanded_or_refused_as_the_spec_says() -> None:
    with pytest.raises(UsageError, match="folder needs a path: --data folder:PATH"):
        open_named("folder")
    with pytest.raises(UsageError, match="mnist-mini takes nothing after its name"):
        open_named("mnist-mini:x")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("folder:x", {"sise": "64"}, "no data option 'sise'.* Did you mean 'size'"),
        ("folder:x", {"size": "300"}, "size.*300.* of 8 to 256 pixels"),
        ("folder:x", {"size": "large"}, "size.*pattern.*large"),
        ("folder:x", {"channels": "5"}, "channels.*'auto', '1', '2', '3' or '4'.*5"),
        ("mnist-mini", {"size": "28"}, "mnist-mini has no data option 'size'"),
        ("mnist-mini", {"shift": "99"}, "data option of mnist-mini, shift: "),
        ("mnist-mini", {"flip": "twice"}, "data option of mnist-mini, flip: "),
    ],
)
def test_wrong_option_is_named_with_what_is_allowed(
    name: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_named(name, **options)


def test_held_out_images_and_training_images_are_a_partition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = np.arange(55, dtype=np.uint8).reshape(55, 1, 1, 1)
    labels = np.arange(55, dtype=np.int64) % 3
    splits = Splits(Split(pixels, labels), classes=("a", "b", "c"), notes=("first",))
    data = open_splits(monkeypatch, splits)
    assert data.held_out and len(data.test.images) == 5
    assert sorted(all_images(data).ravel()) == list(range(55))
    for split in (data.train, data.test):
        assert (split.labels == split.images.ravel() % 3).all()
        assert (np.diff(split.images.ravel().astype(int)) > 0).all()
    assert data.notes[0] == "first" and "held out 5 of 55" in data.notes[1]
    assert open_splits(monkeypatch, splits).fingerprint == data.fingerprint


def test_at_least_one_and_at_most_ten_thousand_images_are_held_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for count, expected in [(3, 1), (19, 1), (20, 2), (200_000, 10_000)]:
        pixels = np.zeros((count, 1, 1, 1), np.uint8)
        assert len(open_splits(monkeypatch, Splits(Split(pixels))).test.images) == expected


def test_a_test_split_that_came_along_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_splits(monkeypatch, Splits(Split(images(2)), Split(images(1, seed=1))))
    assert not data.held_out and not data.notes
    assert (data.test.images == images(1, seed=1)).all()
    assert data.shape == ImageShape(1, 4, 4, 0)


def test_arrays_are_contiguous_and_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = images(6, 3).transpose(0, 1, 3, 2)
    frozen.flags.writeable = False
    data = open_splits(monkeypatch, Splits(Split(frozen), Split(frozen)))
    assert data.train.images.flags.c_contiguous and data.train.images.flags.writeable


def test_fingerprints_are_those_recorded_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is resumed only on data of the recorded fingerprint."""
    assert open_named("mnist-mini").fingerprint.startswith("729184e96f73eb71")
    pixels = (np.arange(128) % 251).astype(np.uint8).reshape(8, 1, 4, 4)
    labels = np.arange(8) % 2
    unlabelled = Splits(Split(pixels), Split(pixels[:2]))
    labelled = Splits(Split(pixels, labels), Split(pixels[:2], labels[:2]), ("a", "b"))
    assert open_splits(monkeypatch, unlabelled).fingerprint.startswith("b17fef7cd0072d36")
    assert open_splits(monkeypatch, labelled).fingerprint.startswith("e5e09243e28cf822")


def test_fingerprint_changes_with_the_intensities(monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint(intensities: np.ndarray | None) -> str:
        train = Split(images() // 255 * 255, None, intensities)
        return open_splits(monkeypatch, Splits(train, Split(images(2)))).fingerprint

    changed = images()
    changed[3, 0, 2, 1] ^= 1
    assert len({fingerprint(None), fingerprint(images()), fingerprint(changed)}) == 3
    assert fingerprint(images()) == fingerprint(images())


def test_intensities_stay_with_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.arange(40, dtype=np.uint8)
    binary = np.where(numbers % 3, np.uint8(255), np.uint8(0))
    frozen = np.asfortranarray(numbers[:, None, None, None].repeat(6, 3))
    frozen.flags.writeable = False
    labels = (numbers % 3).astype(np.int64)
    split = Split(binary[:, None, None, None].repeat(6, 3), labels, frozen)
    data = open_splits(monkeypatch, Splits(split, classes=("a", "b", "c")))
    assert data.held_out and len(data.test.intensities) == 4
    for part in (data.train, data.test):
        assert (part.intensities % 3 == part.labels[:, None, None, None]).all()
        assert ((part.intensities % 3 > 0) * 255 == part.images).all()
        assert part.intensities.flags.c_contiguous and part.intensities.flags.writeable


def test_fingerprint_changes_with_one_pixel_one_label_or_the_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fingerprint(pixels: np.ndarray, labels: np.ndarray | None) -> str:
        classes = () if labels is None else ("a", "b")
        test = Split(pixels[:2], None if labels is None else labels[:2])
        return open_splits(monkeypatch, Splits(Split(pixels, labels), test, classes)).fingerprint

    labels = np.zeros(8, np.int64)
    changed_pixel, changed_label = images(), labels.copy()
    changed_pixel[7, 0, 3, 3] ^= 1
    changed_label[7] = 1
    seen = [
        fingerprint(images(), labels),
        fingerprint(changed_pixel, labels),
        fingerprint(images(), changed_label),
        fingerprint(images(), None),
        fingerprint(images().reshape(8, 1, 2, 8), labels),
    ]
    assert len(set(seen)) == len(seen)
    assert fingerprint(images(), labels) == seen[0] and len(seen[0]) == 64


LABELS = np.zeros(8, np.int64)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([images()], "returned list"),
        (Splits(images()), "gave ndarray as train"),
        (Splits(Split(images().tolist())), "not a numpy array"),
        (Splits(Split(images().astype(np.float32))), "float32, not uint8"),
        (Splits(Split(images()[:, 0])), r"shape \(8, 4, 4\)"),
        (Splits(Split(images(channels=5))), r"shape \(8, 5, 4, 4\)"),
        (Splits(Split(images(channels=4))), "colours are above their alpha"),
        (Splits(Split(images()), Split(images(side=5))), "different shapes"),
        (Splits(Split(images(), LABELS)), "names 0 classes, but its train split has labels"),
        (Splits(Split(images()), classes=("a",)), "train split has no labels"),
        (Splits(Split(images(), LABELS), Split(images()), ("a",)), "test split has no labels"),
        (Splits(Split(images(), LABELS.astype(np.uint8)), classes=("a",)), "uint8, not int64"),
        (Splits(Split(images(), LABELS[:7]), classes=("a",)), r"\(7,\) for 8 images"),
        (Splits(Split(images(), LABELS + 1), classes=("a",)), "from 1 to 1 for 1 classes"),
        (Splits(Split(images(), LABELS - 1), classes=("a",)), "from -1 to -1"),
        (Splits(Split(images(), None, images() / 255)), "intensities that are not a uint8 array"),
        (Splits(Split(images(), None, images(7))), r"intensities .* shape \(8, 1, 4, 4\)"),
        (Splits(Split(images(), None, [0])), "intensities that are not a uint8 array"),
        (Splits(Split(images(), None, images())), "images of other values than 0 and 255"),
    ],
)
def test_loader_that_breaks_its_contract_is_named(
    monkeypatch: pytest.MonkeyPatch, splits: object, message: str
) -> None:
    with pytest.raises(PluginError, match=f"'mnist-mini' .*{message}"):
        open_splits(monkeypatch, splits)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (Splits(Split(images(0))), "holds no train images"),
        (Splits(Split(images()), Split(images(0))), "holds no test images"),
        (Splits(Split(images(1))), "holds 1 image; the fewest .* are 3"),
        (Splits(Split(images(2))), "holds 2 images; the fewest .* are 3"),
        (Splits(Split(images(1)), Split(images(1))), "single training image"),
    ],
)
def test_too_few_images_are_the_users_to_change(
    monkeypatch: pytest.MonkeyPatch, splits: Splits, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_splits(monkeypatch, splits)


def test_all_specs_have_targets_that_load() -> None:
    assert list(SPECS) == [
        *("mnist-mini", "emoji-mini", "mnist", "mnist-mini-binary", "mnist-binary"),
        *("stacked-mnist-mini", "stacked-mnist"),
        *("fashion-mnist", "cifar10", "torchvision", "folder", "zip", "hf"),
        *("prepared", "npz"),
    ]
    for spec in SPECS.values():
        assert isinstance(spec, DatasetSpec) and callable(spec.load())


def test_a_look_at_data_sorted_by_class_shows_all_classes() -> None:
    split = Split(np.arange(100, dtype=np.uint8).repeat(64).reshape(100, 1, 8, 8))
    assert split.look(5)[:, 0, 0, 0].tolist() == [0, 20, 40, 60, 80]
    assert (split.look(500) == split.images).all()


def test_digits_are_nearly_black_and_white_and_photos_are_not() -> None:
    facts = open_named("mnist-mini").facts
    assert (facts.kind, facts.count) == ("black-and-white", 10_000) and 0.05 < facts.between < 0.15
    assert replace(facts, between=0.4).kind == "grey"
    assert replace(facts, shape=ImageShape(3, 8, 8)).kind == "colour"
