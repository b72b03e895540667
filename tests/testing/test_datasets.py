"""Data sets that break one contract each: the test kit says which."""

import numpy as np
import pytest
from broken import assert_reported, recorder

from genkit.contracts.contract import PromiseBroken, check, noisy_squares
from genkit.data import Split, Splits
from genkit.specs import DatasetSpec, ImageShape
from genkit.testing import check_dataset, datasets

LOADERS = []
breaks = recorder(LOADERS)


def squares(count=40, seed=0):
    return noisy_squares(count, ImageShape(1, 6, 6), seed)


def load_well(config, source, root):
    return Splits(squares(), squares(seed=1), ("a", "b", "c", "d"))


@breaks(datasets.loader_keeps_its_contract, "gave train images of float64, not uint8")
def load_floats(config, source, root):
    return Splits(Split(squares().images / 255))


@breaks(datasets.loader_keeps_its_contract, "names 0 classes, but its train split has labels")
def load_labels_without_classes(config, source, root):
    return Splits(squares())


@breaks(datasets.images_are_enough, "there are 7")
def load_few(config, source, root):
    return Splits(Split(squares(8).images))


@breaks(datasets.images_span_the_levels, "the brightest of 36 images is 1; multiply by 255")
def load_ones(config, source, root):
    return Splits(Split(squares().images // 128))


@breaks(datasets.classes_have_names_of_their_own, "they are ('a', 'a', 'b', 'c')")
def load_same_names(config, source, root):
    return Splits(squares(), squares(seed=1), ("a", "a", "b", "c"))


@breaks(datasets.loads_are_equal, "the images of the train split differ")
def load_shuffled(config, source, root):
    return Splits(Split(np.random.permutation(squares().images)))


@breaks(datasets.held_out_images_are_new, "40 of 40 are in the training split, too")
def load_twice(config, source, root):
    return Splits(squares(), squares(), ("a", "b", "c", "d"))


@breaks(datasets.missing_source_is_refused, "FileNotFoundError")
def load_path(config, source, root):
    open(source).close()
    return load_well(config, source, root)


@breaks(datasets.missing_source_is_refused, "that-is-not-there was loaded")
def load_anything(config, source, root):
    return load_well(config, source, root)


def dataset(load, **more):
    return DatasetSpec(name="toy", summary="A toy.", target=f"{__name__}:{load}", **more)


def test_data_set_that_keeps_every_contract_passes():
    check_dataset(dataset("load_well"))


@pytest.mark.parametrize("load, contract, seen", LOADERS)
def test_broken_data_set_is_reported(load, contract, seen):
    source = __file__ if contract is datasets.missing_source_is_refused else None
    spec = dataset(load.__name__, source=source and "PATH")
    assert_reported(contract, seen, check_dataset, spec, source)


def test_installed_data_set_whose_features_are_not_is_reported():
    spec = dataset("load_well", features="nowhere")
    check_dataset(spec)
    opening = datasets.Opening(spec, None, {}, installed=True)
    with pytest.raises(PromiseBroken, match="there is no feature extractor named 'nowhere'"):
        check("toy", datasets.DATASET_CONTRACTS, opening)


def test_every_contract_of_a_data_set_is_broken_above():
    broken = {case.values[1] for case in LOADERS}
    assert broken | {datasets.features_are_installed} == set(datasets.DATASET_CONTRACTS)
