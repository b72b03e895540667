"""Copies of what an iteration changes, and differences between two of them."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from genkit.phases.states import changed, copies, difference, facts_of, restore


def test_what_is_restored_is_what_was_copied_in_the_same_tensors():
    layer = nn.Linear(2, 2)
    groups = [list(layer.parameters()), [torch.tensor(3)]]
    kept, places = copies(groups), [t.data_ptr() for group in groups for t in group]
    expected = copies(groups)
    with torch.no_grad():
        for group in groups:
            for tensor in group:
                tensor.mul_(2)
    restore(groups, kept)
    for group, before in zip(groups, expected, strict=True):
        assert all(map(torch.equal, group, before))
    assert places == [t.data_ptr() for group in groups for t in group]


def test_a_difference_is_a_share_of_what_the_step_changed_in_the_group_where_it_is_largest():
    before = [[torch.zeros(2), torch.zeros(1)], [torch.tensor([5])]]
    after = [[torch.tensor([3.0, 0.0]), torch.tensor([4.0])], [torch.tensor([6])]]  # moves by 5; 1
    assert difference(before, copies(after), after) == 0
    near = [[torch.tensor([3.0, 0.5]), torch.tensor([4.0])], [torch.tensor([6])]]
    assert difference(before, near, after) == pytest.approx(0.1)
    late = [after[0], [torch.tensor([5])]]
    assert difference(before, late, after) == pytest.approx(1)


def test_what_moves_though_the_step_leaves_it_is_infinitely_far():
    assert difference([[torch.zeros(1)]], [[torch.ones(1)]], [[torch.zeros(1)]]) > 1e6


@pytest.mark.parametrize("state", ["not a number", "infinite"])
def test_a_difference_from_what_is_not_finite_is_never_small(state):
    bad = torch.tensor([float("nan" if state == "not a number" else "inf")])
    assert not difference([[torch.zeros(1)]], [[bad]], [[torch.ones(1)]]) <= 1


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.layer.count = 0
        self.seen = []


def facts(model):
    return facts_of(model, [], list(model.parameters()))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda model: setattr(model.layer, "count", 1), "layer.count"),
        (lambda model: model.seen.append(1), "Model.seen"),
        (lambda model: random.random(), "Python's random numbers"),
        (lambda model: np.random.rand(), "NumPy's random numbers"),
        (
            lambda model: setattr(model.layer, "weight", nn.Parameter(torch.ones(1, 1))),
            "the place of a weight or of an optimizer's state",
        ),
        (lambda model: torch.rand(1), None),  # on a CPU that is the noise of the step
        (lambda model: model.layer.weight.data.mul_(2), None),
    ],
)
def test_what_a_replay_would_not_do_is_named(change, name):
    model = Model()
    before = facts(model)
    kept = list(model.parameters())  # or their memory might be used again
    change(model)
    assert changed(before, facts(model)) == name
    assert kept
