"""Draws of one value after another, on distributions of a few levels."""

from __future__ import annotations

import pytest
import torch

from genkit.autoregressive import Guidance, choose

torch.set_num_threads(1)
SHARES = torch.tensor([0.5, 0.3, 0.2])


def test_levels_are_the_inverse_of_the_distribution_function() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(5, 3)
    uniforms = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71])
    assert choose(logits, uniforms).tolist() == [0, 0, 1, 1, 2]


def test_one_logit_is_that_of_the_upper_of_two_levels() -> None:
    logit = torch.logit(torch.tensor(0.25)).expand(3, 1)
    assert choose(logit, torch.tensor([0.0, 0.24, 0.26])).tolist() == [True, True, False]


@pytest.mark.parametrize("strength", [0.0, 1.0, 3.0])
def test_guidance_weighs_a_value_by_what_it_says_of_the_label(strength: float) -> None:
    """Two values in a row, by Bayes' rule; images of labels 2 and 0."""
    torch.manual_seed(0)
    labels = torch.tensor([2, 0])
    guidance = Guidance(labels, SHARES.log(), strength)
    joint = SHARES.repeat(2, 1)  # p(k, past)
    for drawn in (torch.tensor([1, 3]), torch.tensor([0, 2])):
        each = torch.randn(2, 3, 4).softmax(2)  # p(v | past, k)
        own = each[torch.arange(2), labels]
        mixed = (joint[:, :, None] * each).sum(1) / joint.sum(1, keepdim=True)
        expected = own**strength * mixed ** (1 - strength)
        found = guidance.logits(each.log().flatten(0, 1)).softmax(1)
        torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True))
        guidance.see(drawn)
        joint = joint * each[torch.arange(2), :, drawn]
