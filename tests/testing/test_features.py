"""Feature extractors that break one contract each: the test kit says which."""

import random
from dataclasses import replace

import pytest
import torch
from broken import assert_reported, recorder
from pydantic import Field
from torch.nn import functional as F

from genkit.contracts.contract import PromiseBroken
from genkit.errors import UsageError
from genkit.features import FeatureExtractor
from genkit.specs import Config, FeaturesSpec
from genkit.testing import check_features, features

torch.set_num_threads(1)
EXTRACTORS = []
SHAPE = (1, 8, 8)
breaks = recorder(EXTRACTORS)


def spec_of(extractor):
    target = f"{__name__}:{extractor.__name__}"
    return FeaturesSpec(name="toy", summary="A toy.", target=target)


class Good(FeatureExtractor):
    """Means of quarters, of any image."""

    identity = "quarters-1.0"

    def forward(self, images):
        return F.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1), None


class Choosy(Good):
    """Takes one shape only, and tells four classes."""

    classes = 4

    @classmethod
    def check(cls, config, data):
        if len(data.classes) != 4:
            raise UsageError(f"not {len(data.classes)} classes")

    def check_shape(self, shape):
        if (shape.channels, shape.height, shape.width) != SHAPE:
            raise UsageError(f"not {shape}")

    def forward(self, images):
        features, _ = super().forward(images.view(-1, *SHAPE))
        return features, features * 2


@breaks(features.extractor_opens, "opened a Linear")
class NoExtractor:
    check = staticmethod(lambda config, data: None)
    open = staticmethod(lambda config, data: torch.nn.Linear(2, 2))


@breaks(features.extractor_opens, "only large images")
class RefusesIt(Good):
    def check_shape(self, shape):
        raise UsageError("only large images")


@breaks(features.identity_is_a_name, "it is '/home/me/weights.pt'")
class NamedByAPath(Good):
    identity = "/home/me/weights.pt"


@breaks(features.identity_is_a_name, "it is None")
class Nameless(Good):
    identity = None


@breaks(features.identity_is_a_name, "and then 'toy-")
class NewNames(Good):
    def __init__(self, config):
        super().__init__(config)
        self.identity = f"toy-{id(self)}"


@breaks(features.outputs_are_features_and_logits, "features of quarters-1.0 are torch.float64")
class Doubles(Good):
    def forward(self, images):
        return super().forward(images)[0].double(), None


@breaks(features.outputs_are_features_and_logits, "features are (5, 4), 0 finite")
class Infinite(Good):
    def forward(self, images):
        return super().forward(images)[0] / 0, None


@breaks(features.outputs_are_features_and_logits, "classes is 3, and there are logits of 4")
class MiscountsClasses(Good):
    classes = 3

    def forward(self, images):
        features, _ = super().forward(images)
        return features, features


@breaks(features.features_tell_images_apart, "those of 5 different images are all the same")
class Constant(Good):
    def forward(self, images):
        return torch.ones(len(images), 3), None


@breaks(features.features_follow_from_the_images, "drew from torch's global generator")
class DropoutLeftOn(Good):
    def forward(self, images):
        features, _ = super().forward(images)
        return F.dropout(features, 0.5, training=True), None


@breaks(features.features_follow_from_the_images, "a second extraction.0 differs by up to")
class SeededByTheClock(Good):
    def forward(self, images):
        features, _ = super().forward(images)
        return features + random.SystemRandom().random(), None


@breaks(features.features_follow_from_the_images, "the batch of images differs by up to")
class InvertsInPlace(Good):
    def forward(self, images):
        answer = super().forward(images)
        images.bitwise_not_()
        return answer


@breaks(features.features_do_not_depend_on_the_batch, "features of single images differ by")
class NormalisesOverTheBatch(Good):
    def forward(self, images):
        features, _ = super().forward(images)
        return features - features.mean(0), None


@breaks(features.other_shapes_are_refused_or_work, "3 x 8 x 8 was not, and then came")
class GreyOnly(Good):
    def forward(self, images):
        return super().forward(images.view(-1, *SHAPE)[: len(images)].reshape(images.shape))


@breaks(features.unlabelled_data_is_refused_or_works, "ZeroDivisionError")
class NeedsClasses(Good):
    @classmethod
    def open(cls, config, data, reporter=None):
        assert 1 / len(data.classes)
        return cls(config)

    @classmethod
    def check(cls, config, data):
        pass


@breaks(features.unlabelled_data_is_refused_or_works, "4 classes of data that has none")
class AlwaysFour(Good):
    classes = 4

    def forward(self, images):
        features, _ = super().forward(images)
        return features, features


@breaks(features.unknown_statistics_are_none, "KeyError: 'no such images'")
class LooksUpStatistics(Good):
    def shipped_statistics(self, reference):
        return {}[reference]


def test_extractors_that_keep_every_contract_pass():
    check_features(spec_of(Good), SHAPE)
    check_features(spec_of(Choosy), SHAPE)


@pytest.mark.parametrize("extractor, contract, seen", EXTRACTORS)
def test_broken_extractor_is_reported(extractor, contract, seen):
    assert_reported(contract, seen, check_features, spec_of(extractor), SHAPE)


class Weights(Config):
    weights: str = Field("", description="file")


class OfWeights(Good):
    """Opens with its option only."""

    def __init__(self, config):
        super().__init__(config)
        if not config.weights:
            raise UsageError("give weights")


def test_options_of_an_extractor_are_used_and_mistakes_in_them_are_the_callers():
    spec = replace(spec_of(OfWeights), config=Weights)
    check_features(spec, SHAPE, options={"weights": "here"})
    with pytest.raises(PromiseBroken, match="give weights"):
        check_features(spec, SHAPE)
    with pytest.raises(UsageError, match="options for toy: weigths is not an option here"):
        check_features(spec, SHAPE, options={"weigths": "here"})


def test_every_contract_of_an_extractor_is_broken_by_some_toy():
    assert {case.values[1] for case in EXTRACTORS} == set(features.FEATURE_CONTRACTS)
