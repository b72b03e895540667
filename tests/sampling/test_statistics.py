"""BatchNorm statistics of averaged weights, against those of the samples' own activations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from toys import SHAPE, make_loop, same_bits, snapshot

from genkit.model import Batch, GenerativeModel, Phase
from genkit.sampling import statistics
from genkit.sampling.draw import CHUNK, chunk_generator, draw
from genkit.sampling.statistics import recompute_statistics
from genkit.specs import ImageShape, TrainerConfig


class Normed(GenerativeModel):
    """A linear generator with a BatchNorm, and one in a critic that no sample passes."""

    def __init__(self) -> None:
        super().__init__(TrainerConfig(), ImageShape(*SHAPE))
        self.layer, self.norm = nn.Linear(3, 64), nn.BatchNorm1d(64, momentum=0.3)
        self.critic = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 1))

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, 3, generator=generator)

    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator) -> Tensor:
        values = self.norm(self.layer(self.noise(n, generator)))
        return torch.tanh(values).view(n, *SHAPE)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        fakes = self.sample(len(batch.images), generator=torch.Generator().manual_seed(1))
        return (self.critic(fakes) - self.critic(batch.images)).mean() + fakes.square().mean(), {}

    def phases(self) -> list[Phase]:
        optimizer = torch.optim.SGD(self.parameters(), 0.5)
        return [Phase(name="all", loss=self.loss, optimizer=optimizer)]


@pytest.fixture
def model() -> Normed:
    torch.manual_seed(0)
    return Normed().train()


def test_statistics_are_the_means_over_batches_of_samples(model: Normed) -> None:
    batches = [
        model.layer(model.noise(CHUNK, chunk_generator(model, 5, i))).detach()
        for i in range(statistics.BATCHES)
    ]
    recompute_statistics(model, seed=5)
    means = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    variances = torch.stack([batch.var(0) for batch in batches]).mean(0)
    torch.testing.assert_close(model.norm.running_mean, means)
    torch.testing.assert_close(model.norm.running_var, variances)


def test_all_else_stays_as_it_was(model: Normed) -> None:
    model.critic(torch.randn(8, *SHAPE))
    model.norm.num_batches_tracked += 7
    before, random = snapshot(model), torch.get_rng_state()
    recompute_statistics(model)
    after = model.state_dict()
    changed = {name for name in after if not same_bits(after[name], before[name])}
    assert changed == {"norm.running_mean", "norm.running_var"}
    assert model.norm.momentum == 0.3 and all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_model_that_samples_image_by_image_keeps_what_it_has(
    model: Normed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(n: int, labels: Tensor | None = None, *, generator: torch.Generator) -> Tensor:
        return torch.cat([Normed.sample(model, 1, generator=generator) for _ in range(n)])

    monkeypatch.setattr(model, "sample", sample)
    before = snapshot(model)
    recompute_statistics(model)
    assert same_bits(model.state_dict(), before) and model.norm.momentum == 0.3


def test_the_average_of_a_loop_has_them_and_looking_changes_no_training(model: Normed) -> None:
    loop = make_loop(model, ema_half_life=50)
    looked_at = make_loop(Normed(), ema_half_life=50)
    looked_at.load_state_dict(loop.state_dict())
    for _ in range(12):
        loop.iterate()
        looked_at.iterate()
        draw(looked_at.average, 3, seed=0)
    by_hand = loop.average
    recompute_statistics(by_hand)
    assert same_bits(by_hand.state_dict(), looked_at.average.state_dict())
    assert same_bits(loop.state_dict(), looked_at.state_dict())
    assert not torch.equal(loop.average.norm.running_mean, model.norm.running_mean)
    resumed = make_loop(Normed(), ema_half_life=50)
    resumed.load_state_dict(loop.state_dict())
    assert same_bits(resumed.average.state_dict(), loop.average.state_dict())
