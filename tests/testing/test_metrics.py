"""Metrics that break one contract each: the test kit says which."""

import random

import numpy as np
import pytest
import torch
from broken import assert_reported, recorder
from pydantic import Field

from genkit.contracts.contract import PromiseBroken
from genkit.metrics import Estimate
from genkit.specs import Column, Config, MetricSpec
from genkit.testing import check_metric, metrics

torch.set_num_threads(1)
METRICS = []
breaks = recorder(METRICS)


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


@breaks(metrics.columns_are_answered, "'gap' is missing, though there are features")
def score_nothing(config, samples, reference):
    return {}


@breaks(metrics.columns_are_answered, "'gaps' is none of them")
def score_more(config, samples, reference):
    return {"gap": 1.0, "gaps": 1.0}


@breaks(metrics.scores_are_finite, "'gap' of noise is inf")
def score_infinity(config, samples, reference):
    found = gap(samples, reference)
    return {"gap": found if found < 0.1 else float("inf")}


@breaks(metrics.scores_are_finite, "'gap' of 10 images is nan")
def score_many_only(config, samples, reference):
    return {"gap": gap(samples, reference) if len(samples) > 20 else float("nan")}


@breaks(metrics.scores_are_finite, "the deviation of 'gap' of training images is -0.1")
def score_negative_deviation(config, samples, reference):
    return {"gap": Estimate(gap(samples, reference), -0.1)}


@breaks(metrics.scores_follow_from_the_images, "drew from torch's global generator")
def score_from_torch(config, samples, reference):
    return {"gap": gap(samples, reference) + float(torch.rand(()))}


@breaks(metrics.scores_follow_from_the_images, "drew from numpy's global generator")
def score_from_numpy(config, samples, reference):
    return {"gap": gap(samples, reference) + np.random.rand()}


@breaks(metrics.scores_follow_from_the_images, "the second time, gap.value is")
def score_by_chance(config, samples, reference):
    return {"gap": gap(samples, reference) + random.SystemRandom().random()}


@breaks(metrics.scores_follow_from_the_images, "under other global seeds, gap.value is")
def score_by_the_seed(config, samples, reference):
    return {"gap": gap(samples, reference) + torch.initial_seed()}


@breaks(metrics.sets_are_left_as_they_were, "samples.features differs by up to")
def score_in_place(config, samples, reference):
    samples.features.sub_(samples.features.mean(0))
    return {"gap": 0.0}


@breaks(metrics.real_images_beat_noise, "for noise, where lower is better")
def score_upside_down(config, samples, reference):
    return {"gap": -gap(samples, reference)}


@breaks(metrics.features_without_logits_will_do, "TypeError: 'NoneType' object")
def score_logits(config, samples, reference):
    return {"gap": -float(samples.logits[:, 0].std())}


def test_metrics_that_keep_every_contract_pass():
    check_metric(metric(score_well))
    check_metric(metric(score_plainly))
    check_metric(
        metric(score_upside_down, columns=(Column(name="gap", title="", better="higher"),))
    )


@pytest.mark.parametrize("score, contract, seen", METRICS)
def test_broken_metric_is_reported(score, contract, seen):
    assert_reported(contract, seen, check_metric, metric(score))


def test_metric_without_columns_or_with_equal_ones_is_reported():
    spec = metric(score_well, columns=())
    assert_reported(metrics.columns_are_answered, "its columns are []", check_metric, spec)
    column = Column(name="gap", title="gap", better=None)
    with pytest.raises(PromiseBroken, match=r"^toy: .*; .*gap"):
        check_metric(metric(score_well, columns=(column, column)))


class Required(Config):
    power: int = Field(description="of the distance")


def test_option_without_default_is_reported():
    with pytest.raises(PromiseBroken, match="a default and a description; 'power' has no default"):
        check_metric(metric(score_well, config=Required))


def test_every_contract_of_a_metric_is_broken_by_some_toy():
    assert {case.values[1] for case in METRICS} == set(metrics.METRIC_CONTRACTS)
