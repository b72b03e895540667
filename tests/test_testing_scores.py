"""Metrics and feature extractors that break one promise each: the test kit says which."""

import random

import numpy as np
import pytest
import torch
from pydantic import Field
from torch.nn import functional as F

from genkit import feature_promises, metric_promises
from genkit.errors import UsageError
from genkit.features import FeatureExtractor
from genkit.metrics import Estimate
from genkit.promises import PromiseBroken, statement
from genkit.specs import Column, Config, FeaturesSpec, MetricSpec
from genkit.testing import check_features, check_metric

torch.set_num_threads(1)
METRICS, EXTRACTORS = [], []
SHAPE = (1, 8, 8)


def recorder(cases):
    def breaks(promise, seen):
        def record(toy):
            cases.append(pytest.param(toy, promise, seen, id=toy.__name__))
            return toy

        return record

    return breaks


def assert_told(broken, promise, seen):
    told, _, found = str(broken.value).partition("; ")
    assert told == f"toy: {statement(promise)}"
    assert seen in found


def metric(score, **more):
    columns = (Column(name="gap", title="gap", better="lower"),)
    target = f"{__name__}:{score.__name__}"
    return MetricSpec(**{"columns": columns, **more}, name="toy", summary="A toy.", target=target)


def gap(samples, reference):
    return float((samples.features.mean(0) - reference.train.features.mean(0)).norm())


def score_well(config, samples, reference):
    return {"gap": Estimate(gap(samples, reference), 0.1)}


def score_plainly(config, samples, reference):
    return {"gap": gap(samples, reference)}


breaks = recorder(METRICS)


@breaks(metric_promises.columns_are_answered, "'gap' is missing, though there are features")
def score_nothing(config, samples, reference):
    return {}


@breaks(metric_promises.columns_are_answered, "'gaps' is none of them")
def score_more(config, samples, reference):
    return {"gap": 1.0, "gaps": 1.0}


@breaks(metric_promises.scores_are_finite, "'gap' of noise is inf")
def score_infinity(config, samples, reference):
    found = gap(samples, reference)
    return {"gap": found if found < 0.1 else float("inf")}


@breaks(metric_promises.scores_are_finite, "'gap' of 10 images is nan")
def score_many_only(config, samples, reference):
    return {"gap": gap(samples, reference) if len(samples) > 20 else float("nan")}


@breaks(metric_promises.scores_are_finite, "the deviation of 'gap' of training images is -0.1")
def score_negative_deviation(config, samples, reference):
    return {"gap": Estimate(gap(samples, reference), -0.1)}


@breaks(metric_promises.scores_follow_from_the_images, "drew from torch's global generator")
def score_from_torch(config, samples, reference):
    return {"gap": gap(samples, reference) + float(torch.rand(()))}


@breaks(metric_promises.scores_follow_from_the_images, "drew from numpy's global generator")
def score_from_numpy(config, samples, reference):
    return {"gap": gap(samples, reference) + np.random.rand()}


@breaks(metric_promises.scores_follow_from_the_images, "the second time, gap.value is")
def score_by_chance(config, samples, reference):
    return {"gap": gap(samples, reference) + random.SystemRandom().random()}


@breaks(metric_promises.scores_follow_from_the_images, "under other global seeds, gap.value is")
def score_by_the_seed(config, samples, reference):
    return {"gap": gap(samples, reference) + torch.initial_seed()}


@breaks(metric_promises.sets_are_left_as_they_were, "samples.features differs by up to")
def score_in_place(config, samples, reference):
    samples.features.sub_(samples.features.mean(0))
    return {"gap": 0.0}


@breaks(metric_promises.real_images_beat_noise, "for noise, where lower is better")
def score_upside_down(config, samples, reference):
    return {"gap": -gap(samples, reference)}


@breaks(metric_promises.features_without_logits_will_do, "TypeError: 'NoneType' object")
def score_logits(config, samples, reference):
    return {"gap": -float(samples.logits[:, 0].std())}


def test_metrics_that_keep_every_promise_pass():
    check_metric(metric(score_well))
    check_metric(metric(score_plainly))
    check_metric(
        metric(score_upside_down, columns=(Column(name="gap", title="", better="higher"),))
    )


@pytest.mark.parametrize("score, promise, seen", METRICS)
def test_broken_metric_is_told(score, promise, seen):
    with pytest.raises(PromiseBroken) as broken:
        check_metric(metric(score))
    assert_told(broken, promise, seen)


def test_metric_without_columns_or_with_equal_ones_is_told():
    column = Column(name="gap", title="gap", better=None)
    for columns in ((), (column, column)):
        with pytest.raises(PromiseBroken) as broken:
            check_metric(metric(score_well, columns=columns))
        names = [column.name for column in columns]
        assert_told(broken, metric_promises.columns_are_answered, f"its columns are {names}")


class Required(Config):
    power: int = Field(description="of the distance")


def test_option_without_default_is_told():
    with pytest.raises(PromiseBroken, match="a default and a description; 'power' has no default"):
        check_metric(metric(score_well, config=Required))


def test_every_promise_of_a_metric_is_broken_by_some_toy():
    assert {case.values[1] for case in METRICS} == set(metric_promises.PROMISES)


def features(extractor):
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

    def check_shape(self, shape):
        if (shape.channels, shape.height, shape.width) != SHAPE:
            raise UsageError(f"not {shape}")

    def forward(self, images):
        features, _ = super().forward(images.view(-1, *SHAPE))
        return features, features * 2


breaks = recorder(EXTRACTORS)


@breaks(feature_promises.extractor_opens, "opened a Linear")
class NoExtractor:
    check = staticmethod(lambda config, data: None)
    open = staticmethod(lambda config, data: torch.nn.Linear(2, 2))


@breaks(feature_promises.extractor_opens, "only large images")
class RefusesIt(Good):
    def check_shape(self, shape):
        raise UsageError("only large images")


@breaks(feature_promises.identity_is_a_name, "it is '/home/me/weights.pt'")
class NamedByAPath(Good):
    identity = "/home/me/weights.pt"


@breaks(feature_promises.identity_is_a_name, "it is None")
class Nameless(Good):
    identity = None


@breaks(feature_promises.identity_is_a_name, "and then 'toy-")
class NewNames(Good):
    def __init__(self, config):
        super().__init__(config)
        self.identity = f"toy-{id(self)}"


@breaks(
    feature_promises.outputs_are_features_and_logits, "features of quarters-1.0 are torch.float64"
)
class Doubles(Good):
    def forward(self, images):
        return super().forward(images)[0].double(), None


@breaks(feature_promises.outputs_are_features_and_logits, "features are (5, 4), 0 finite")
class Infinite(Good):
    def forward(self, images):
        return super().forward(images)[0] / 0, None


@breaks(feature_promises.outputs_are_features_and_logits, "classes is 3, and there are logits of 4")
class MiscountsClasses(Good):
    classes = 3

    def forward(self, images):
        features, _ = super().forward(images)
        return features, features


@breaks(feature_promises.features_tell_images_apart, "those of 5 different images are all the same")
class Constant(Good):
    def forward(self, images):
        return torch.ones(len(images), 3), None


@breaks(feature_promises.features_follow_from_the_images, "drew from torch's global generator")
class DropoutLeftOn(Good):
    def forward(self, images):
        features, _ = super().forward(images)
        return F.dropout(features, 0.5, training=True), None


@breaks(feature_promises.features_follow_from_the_images, "a second extraction.0 differs by up to")
class SeededByTheClock(Good):
    def forward(self, images):
        features, _ = super().forward(images)
        return features + random.SystemRandom().random(), None


@breaks(feature_promises.features_follow_from_the_images, "the batch of images differs by up to")
class InvertsInPlace(Good):
    def forward(self, images):
        answer = super().forward(images)
        images.bitwise_not_()
        return answer


@breaks(feature_promises.features_do_not_depend_on_the_batch, "features of single images differ by")
class NormalisesOverTheBatch(Good):
    def forward(self, images):
        features, _ = super().forward(images)
        return features - features.mean(0), None


@breaks(feature_promises.other_shapes_are_refused_or_work, "3 x 8 x 8 was not, and then came")
class GreyOnly(Good):
    def forward(self, images):
        return super().forward(images.view(-1, *SHAPE)[: len(images)].reshape(images.shape))


def test_extractors_that_keep_every_promise_pass():
    check_features(features(Good), SHAPE)
    check_features(features(Choosy), SHAPE)


@pytest.mark.parametrize("extractor, promise, seen", EXTRACTORS)
def test_broken_extractor_is_told(extractor, promise, seen):
    with pytest.raises(PromiseBroken) as broken:
        check_features(features(extractor), SHAPE)
    assert_told(broken, promise, seen)


def test_every_promise_of_an_extractor_is_broken_by_some_toy():
    assert {case.values[1] for case in EXTRACTORS} == set(feature_promises.PROMISES)
