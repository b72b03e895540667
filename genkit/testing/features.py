"""The contracts of a feature extractor: vectors that follow from the images."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from genkit.contracts.contract import (
    CLASSES,
    Violations,
    difference,
    drawn_from,
    noisy_squares,
    random_states,
    seed_random,
)
from genkit.data import ImageData, Split
from genkit.errors import UsageError
from genkit.features import FeatureExtractor, extract
from genkit.specs import Config, FeaturesSpec, ImageShape

__tracebackhide__ = True

COUNT = 200  # training images
IDENTITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
TOLERANCE = 1e-4  # of the greatest value


@dataclass(frozen=True)
class Extraction:
    """A feature extractor and easy data of one shape."""

    spec: FeaturesSpec
    config: Config
    shape: ImageShape

    @cached_property
    def data(self) -> ImageData:
        train, test = (
            noisy_squares(count, self.shape, seed) for seed, count in enumerate((COUNT, 40))
        )
        return ImageData(
            name="squares",
            train=train,
            test=test,
            classes=CLASSES,
            notes=(),
            features=self.spec.name,
            reference=None,
            held_out=False,
        )

    @cached_property
    def unlabelled(self) -> ImageData:
        train, test = Split(self.data.train.images), Split(self.data.test.images)
        return replace(self.data, train=train, test=test, classes=())

    def open(self, data: ImageData) -> FeatureExtractor:
        target = self.spec.load()
        target.check(self.config, data)
        extractor: FeatureExtractor = target.open(self.config, data)
        return extractor.eval()

    @cached_property
    def extractor(self) -> FeatureExtractor:
        return self.open(self.data)

    @cached_property
    def images(self) -> Tensor:
        """(5, C, H, W) uint8."""
        return torch.from_numpy(self.data.test.images[:5])

    @cached_property
    def outputs(self) -> tuple[Tensor, Tensor | None]:
        """Features, (5, D) float32, and logits, (5, classes) float32, or None."""
        return extract(self.extractor, self.images.clone())


def extractor_opens(extraction: Extraction) -> Violations:
    """The target must be a FeatureExtractor that check() and check_shape() allow for the shape."""
    if not isinstance(extraction.extractor, FeatureExtractor):
        yield f"{extraction.spec.target} opened a {type(extraction.extractor).__name__}"
    extraction.extractor.check_shape(extraction.data.shape)


def identity_is_a_name(extraction: Extraction) -> Violations:
    """The identity must be a plain name without blanks or slashes, the same at each opening."""
    identity = getattr(extraction.extractor, "identity", None)
    if not isinstance(identity, str) or not IDENTITY.fullmatch(identity):
        yield f"it is {identity!r}"
    if (again := extraction.open(extraction.data).identity) != identity:
        yield f"it is {identity!r} and then {again!r}"


def outputs_are_features_and_logits(extraction: Extraction) -> Violations:
    """uint8 images must give finite float32 features, (N, D), and logits, (N, classes), or None."""
    features, logits = extraction.outputs
    if features.ndim != 2 or not features.isfinite().all():
        yield f"features are {tuple(features.shape)}, {int(features.isfinite().sum())} finite"
    if logits is not None and (logits.ndim != 2 or not logits.isfinite().all()):
        yield f"logits are {tuple(logits.shape)}, {int(logits.isfinite().sum())} finite"
    classes = extraction.extractor.classes
    found = 0 if logits is None else logits.shape[1]
    if classes and classes != found:
        yield f"classes is {classes}, and there are logits of {found}"


def features_tell_images_apart(extraction: Extraction) -> Violations:
    """Different images must have different features."""
    features = extraction.outputs[0]
    if torch.equal(features, features[:1].expand_as(features)):
        yield f"those of {len(features)} different images are all the same"


def features_follow_from_the_images(extraction: Extraction) -> Violations:
    """Equal images must have equal features, whatever the global generators of torch, numpy and
    Python do, and extraction must leave these and the images alone.
    """
    outputs = []
    for seed in (0, 1):
        images = extraction.images.clone()
        seed_random(seed)
        before = random_states()
        outputs.append(extract(extraction.extractor, images))
        if whose := drawn_from(before):
            yield f"extraction drew from {whose}'s global generator"
        if differs := difference(images, extraction.images, "the batch of images"):
            yield f"{differs} afterwards"
    if differs := difference(outputs[1], outputs[0], "a second extraction"):
        yield differs


def features_do_not_depend_on_the_batch(extraction: Extraction) -> Violations:
    """Features must not depend on which images are in the same batch, but for a ten-thousandth."""
    single = [extract(extraction.extractor, image[None]) for image in extraction.images]
    layers = zip(("features", "logits"), extraction.outputs, zip(*single, strict=True), strict=True)
    for layer, whole, rows in layers:
        if whole is not None:
            gap = (torch.cat(rows) - whole).abs().max().item()
            if gap > TOLERANCE * max(1, whole.abs().max().item()):
                yield f"{layer} of single images differ by up to {gap:.2g} from a batch's"


def other_shapes_are_refused_or_work(extraction: Extraction) -> Violations:
    """A shape that the extractor cannot take must be refused by check_shape() with a UsageError."""
    channels, height, width = _sides(extraction.shape)
    for sides in (
        (4 - channels, height, width),
        (channels, height + 3, max(1, width - 5)),
        (channels, 1, 1),
    ):
        shape = ImageShape(*sides)
        try:
            extraction.extractor.check_shape(shape)
        except UsageError:
            continue
        try:
            extract(extraction.extractor, torch.zeros(2, *sides, dtype=torch.uint8))
        except Exception as error:
            yield f"{shape} was not, and then came {type(error).__name__}: {error}"


def unlabelled_data_is_refused_or_works(extraction: Extraction) -> Violations:
    """Data without labels that the extractor cannot use must be refused by check() with a
    UsageError.
    """
    try:
        extraction.spec.load().check(extraction.config, extraction.unlabelled)
    except UsageError:
        return
    extractor = extraction.open(extraction.unlabelled)
    extract(extractor, extraction.images.clone())
    if extractor.classes:
        yield f"it tells {extractor.classes} classes of data that has none"


def unknown_statistics_are_none(extraction: Extraction) -> Violations:
    """Asked for statistics of images that it does not know, an extractor must answer None."""
    if (found := extraction.extractor.shipped_statistics("no such images")) is not None:
        yield f"it gave {type(found).__name__}"


@contextmanager
def own_cache() -> Iterator[None]:
    """Use a temporary cache: features of test images are of no use afterwards."""
    before = os.environ.get("GENKIT_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GENKIT_CACHE"] = folder
        try:
            yield
        finally:
            del os.environ["GENKIT_CACHE"]
            if before is not None:
                os.environ["GENKIT_CACHE"] = before


def _sides(shape: ImageShape) -> tuple[int, int, int]:
    return shape.channels, shape.height, shape.width


FEATURE_CONTRACTS = (
    extractor_opens,
    identity_is_a_name,
    outputs_are_features_and_logits,
    features_tell_images_apart,
    features_follow_from_the_images,
    features_do_not_depend_on_the_batch,
    other_shapes_are_refused_or_work,
    unlabelled_data_is_refused_or_works,
    unknown_statistics_are_none,
)
