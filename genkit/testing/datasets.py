"""The contracts of a data set: what its loader returns, the same at each load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from genkit.contracts.contract import Violations, seed_random
from genkit.data import ImageData, Split
from genkit.data.datasets import open_data
from genkit.errors import UsageError
from genkit.registry.catalogue import load_registry
from genkit.specs import DatasetSpec

__tracebackhide__ = True

FEWEST = 10  # training images that scores need
MOST_SHARED = 0.5  # of the test images: real data has some duplicates


@dataclass(frozen=True)
class Opening:
    """A data set and how it is opened."""

    spec: DatasetSpec
    source: str | None
    options: Mapping[str, Any]
    installed: bool = False  # then the features it names must be installed, too

    def open(self, seed: int) -> ImageData:
        """Load the data again, with the global generators seeded by `seed`."""
        seed_random(seed)
        name = self.spec.name if self.source is None else f"{self.spec.name}:{self.source}"
        return open_data(self.spec, name, self.source, self.options)

    @cached_property
    def data(self) -> ImageData:
        return self.open(seed=0)


def loader_keeps_its_contract(opening: Opening) -> Violations:
    """The loader must return Splits of uint8 images, (N, 1 or 3, H, W), with int64 labels below the
    number of classes or none.
    """
    assert opening.data
    yield from ()


def images_are_enough(opening: Opening) -> Violations:
    """There must be at least 10 training images, or nothing can be scored."""
    if (count := len(opening.data.train.images)) < FEWEST:
        yield f"there are {count}"


def images_span_the_levels(opening: Opening) -> Violations:
    """Images must use the levels 0 to 255, not 0 to 1."""
    images = opening.data.train.images
    if images.max() <= 1:
        yield f"the brightest of {len(images):,} images is {images.max()}; multiply by 255"


def classes_have_names_of_their_own(opening: Opening) -> Violations:
    """Classes must be named by different strings."""
    classes = opening.data.classes
    if len(set(classes)) != len(classes) or not all(isinstance(name, str) for name in classes):
        yield f"they are {classes!r:.200}"


def loads_are_equal(opening: Opening) -> Violations:
    """Two loads must give the same images and labels, whatever the global generators do."""
    first, again = opening.data, opening.open(seed=1)
    for part in ("train", "test"):
        one, other = getattr(first, part), getattr(again, part)
        for what in ("images", "labels", "intensities"):
            if not np.array_equal(getattr(one, what), getattr(other, what)):
                yield f"the {what} of the {part} split differ"
    if first.classes != again.classes:
        yield f"the classes are {first.classes!r:.100} and {again.classes!r:.100}"
    if first.fingerprint != again.fingerprint:
        yield "their fingerprints differ"


def held_out_images_are_new(opening: Opening) -> Violations:
    """Test images must not be training images, but for a few duplicates."""
    train, test = (_hashes(split) for split in (opening.data.train, opening.data.test))
    known = set(train)
    shared = sum(image in known for image in test)
    if shared > MOST_SHARED * len(test):
        yield f"{shared:,} of {len(test):,} are in the training split, too"


def missing_source_is_refused(opening: Opening) -> Violations:
    """A path that is not there must be refused with a UsageError."""
    if opening.spec.source != "PATH":
        return
    missing = f"{opening.source}-that-is-not-there"
    try:
        Opening(opening.spec, missing, opening.options).open(seed=0)
    except UsageError:
        return
    except Exception as error:
        yield f"{missing}: {type(error).__name__}: {error}"
    yield f"{missing} was loaded"


def features_are_installed(opening: Opening) -> Violations:
    """The features that score the data by default must be installed, or be "none"."""
    if opening.installed and opening.spec.features not in (None, "none"):
        load_registry().features.find(opening.spec.features)
    yield from ()


def _hashes(split: Split) -> list[int]:
    """A hash of each image of (N, C, H, W); equal images have equal hashes in this process."""
    return [hash(image.tobytes()) for image in split.images]


DATASET_CONTRACTS = (
    loader_keeps_its_contract,
    images_are_enough,
    images_span_the_levels,
    classes_have_names_of_their_own,
    loads_are_equal,
    held_out_images_are_new,
    missing_source_is_refused,
    features_are_installed,
)
