"""The contract that a run can be resumed, by the very way that `genkit resume` does."""

import torch
from broken import SHAPE, Toy, spec_of

from genkit.contracts.contract import white_squares
from genkit.specs import ImageShape, TrainerConfig
from genkit.testing.fixture import ModelFixture
from genkit.testing.runs import runs_can_be_resumed
from genkit.training.loop import Loop

torch.set_num_threads(1)


def seen(toy=Toy):
    shape, config = ImageShape(*SHAPE), TrainerConfig(batch_size=16)
    fixture = ModelFixture(spec_of(toy), config, shape, white_squares(64, shape))
    return list(runs_can_be_resumed(fixture))


def test_run_of_an_honest_model_ends_with_the_same_bits():
    assert seen() == []


class Annealed(Toy):
    """Its noise depends on the share of the budget that is used."""

    def loss(self, batch):
        loss, extras = super().loss(batch)
        return loss * (1 - batch.progress), extras


def test_model_that_depends_on_the_share_of_the_budget_is_honest():
    assert seen(Annealed) == []


def test_what_resuming_loses_is_named(monkeypatch):
    plain = Loop.load_state_dict

    def forget(self, state):
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        plain(self, {**state, "optimizers": optimizers})

    monkeypatch.setattr(Loop, "load_state_dict", forget)
    (found,) = seen()
    assert found.startswith("3 iterations later, ") and "differs by up to" in found
