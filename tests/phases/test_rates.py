"""Schedules of any form set an optimizer's options; hooks, precision and skipped updates."""

import functools
import math

import pytest
import torch
from toys import Denoiser, TinyGAN, make_loop, same_bits, snapshot

from genkit.errors import PluginError
from genkit.model import Phase
from genkit.phases.rates import Rates, schedule_of


def phase_with(schedule, rates=(0.1, 0.4), name="p"):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return Phase(name=name, loss=None, optimizer=torch.optim.Adam(groups), schedule=schedule)


def options_of(phase, key="lr"):
    return [group[key] for group in phase.optimizer.param_groups]


class Annealing:
    def one(self, step):
        return step

    def two(self, step, progress):
        return (step, progress)

    def __call__(self, step, progress):
        return (step, progress)


@pytest.mark.parametrize(
    "schedule, answer",
    [
        (lambda step: step, 3),
        (lambda step, warmup=100: (step, warmup), (3, 100)),
        (lambda step, *rest: (step, rest), (3, ())),
        (lambda step, progress: (step, progress), (3, 0.5)),
        (lambda a, b: (a, b), (3, 0.5)),
        (lambda step, *, progress=0.0: (step, progress), (3, 0.5)),
        (functools.partial(lambda rate, step, progress: (rate, step, progress), 7), (7, 3, 0.5)),
        (Annealing().one, 3),
        (Annealing().two, (3, 0.5)),
        (Annealing(), (3, 0.5)),
        (math.sqrt, math.sqrt(3)),
    ],
)
def test_schedules_are_given_what_they_take(schedule, answer):
    assert schedule_of(phase_with(schedule))(3, 0.5) == answer


def test_a_factor_applies_to_each_groups_first_rate():
    phase = phase_with(lambda step, progress: 1 - progress)
    rates = Rates([phase])
    for _ in range(2):  # not to the rate before
        logged = rates.set(phase, 0, 0.25)
        assert options_of(phase) == pytest.approx([0.075, 0.3])
    assert logged == pytest.approx({"p/learning_rate": 0.075, "p/learning_rate_2": 0.3})


def test_a_mapping_replaces_options_of_all_groups():
    phase = phase_with(lambda step: {"betas": (0.5, 0.9), "weight_decay": 0.1 * step})
    Rates([phase]).set(phase, 2, 0.0)
    assert options_of(phase, "betas") == [(0.5, 0.9)] * 2
    assert options_of(phase, "weight_decay") == [0.2] * 2
    assert options_of(phase) == [0.1, 0.4]


def test_cooldown_multiplies_what_a_schedule_says():
    for schedule, expected in (
        (None, [0.05, 0.2]),
        (lambda step: 0.5, [0.025, 0.1]),
        (lambda step: {"lr": 1.0}, [0.5, 0.5]),
        (lambda step: {"betas": (0.5, 0.9)}, [0.05, 0.2]),
    ):
        phase = phase_with(schedule)
        rates = Rates([phase], cooldown=0.2)
        rates.set(phase, 0, 0.9)
        assert options_of(phase) == pytest.approx(expected)


def test_of_two_phases_on_one_optimizer_the_one_without_a_schedule_takes_the_others_rate():
    first = phase_with(lambda step: 0.5, name="first")
    second = Phase(name="second", loss=None, optimizer=first.optimizer)
    rates = Rates([first, second], cooldown=0.2)
    rates.set(first, 0, 0.9)
    assert rates.set(second, 0, 0.9) == {}
    assert options_of(first) == pytest.approx([0.025, 0.1])


def test_an_option_that_an_optimizer_lacks_is_refused():
    model = Denoiser(schedule=lambda step: {"momentum": 0.9})
    with pytest.raises(PluginError, match=r"sets 'momentum', .* not one of its options"):
        make_loop(model).iterate()


# ---- what phases do beside their losses


@pytest.mark.parametrize("accumulate", [1, 3])
def test_after_is_called_once_per_update_with_the_whole_batch(accumulate):
    """Weights are clipped, as in the first WGAN (Arjovsky et al. 2017, algorithm 1)."""
    calls = []

    def plan(m, g, d):
        def bound(batch):
            calls.append((len(batch.images), batch.step, batch.images_seen, batch.progress))
            assert not torch.is_grad_enabled()
            for weight in m.discriminator.parameters():
                weight.clamp_(-0.01, 0.01)

        critic = Phase(name="d", loss=m.discriminator_loss, optimizer=d, repeats=2, after=bound)
        return [critic, Phase(name="g", loss=m.generator_loss, optimizer=g)]

    model = TinyGAN(plan)
    loop = make_loop(model, accumulate=accumulate)
    for step in range(3):
        loop.iterate(step / 3)
    assert calls == [(8, step, 16 * step, step / 3) for step in (0, 0, 1, 1, 2, 2)]
    assert max(w.abs().max() for w in model.discriminator.parameters()) <= 0.01


@pytest.mark.parametrize("accumulate", [1, 3])
def test_numbers_of_a_batch_are_the_same_throughout_an_iteration(accumulate):
    seen = []

    def plan(m, g, d):
        def noting(loss):
            def noted(batch):
                seen.append((batch.step, batch.images_seen, batch.progress))
                return loss(batch)

            return noted

        critic = Phase(name="d", loss=noting(m.discriminator_loss), optimizer=d, repeats=5)
        return [critic, Phase(name="g", loss=noting(m.generator_loss), optimizer=g)]

    loop = make_loop(TinyGAN(plan), accumulate=accumulate)
    for step in range(2):
        loop.iterate(step / 2)
    assert seen == [(0, 0, 0.0)] * 6 * accumulate + [(1, 40, 0.5)] * 6 * accumulate


@pytest.mark.parametrize(
    "run, phase, expected",
    [
        ("fp32", None, torch.float32),
        ("bf16", None, torch.bfloat16),
        ("bf16", "fp32", torch.float32),
        ("fp32", "bf16", torch.bfloat16),
    ],
)
def test_a_phase_may_have_a_precision_of_its_own(run, phase, expected):
    model = Denoiser(precision=phase)
    kinds = []
    model.layers.register_forward_hook(lambda *call: kinds.append(call[2].dtype))
    make_loop(model, precision=run).iterate()
    assert kinds == [expected]


def test_only_phases_that_allow_it_are_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda loss, **options: compiled.append(loss) or loss)

    def plan(m, g, d):
        critic = Phase(name="d", loss=m.r1_loss, optimizer=d, compile=False)
        return [critic, Phase(name="g", loss=m.generator_loss, optimizer=g)]

    model = TinyGAN(plan)
    make_loop(model, compile=True).iterate()
    assert compiled == [model.generator_loss]


@pytest.mark.parametrize("bad", [1e6, math.nan, math.inf])
def test_updates_with_a_large_gradient_are_left_out_and_counted(bad):
    factor = [1.0]

    class Spiky(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * factor[0]

    model = Denoiser(skip_above=100.0)
    plain = model.loss
    model.loss = lambda batch: (Spiky.apply(plain(batch)[0]), {})
    loop = make_loop(model)
    skipped = []
    for step in range(6):
        factor[0] = bad if step in (2, 4) else 1.0
        before = snapshot(model)
        skipped.append(loop.iterate()["denoise/skipped"])
        assert same_bits(model.state_dict(), before) == (step in (2, 4))
    assert skipped == [0, 0, 1, 1, 2, 2]
    again = make_loop(Denoiser(skip_above=100.0))
    again.load_state_dict(loop.state_dict())
    assert again.iterate()["denoise/skipped"] == 2


def test_clip_and_skip_above_look_at_the_same_norm():
    free, both = Denoiser(), Denoiser(clip=0.01, skip_above=1e9)
    both.load_state_dict(free.state_dict())
    clipped = Denoiser(clip=0.01)
    clipped.load_state_dict(free.state_dict())
    logs = [make_loop(model).iterate() for model in (both, clipped)]
    assert logs[0]["denoise/gradient_norm"] == logs[1]["denoise/gradient_norm"] > 0.01
    assert same_bits(both.state_dict(), clipped.state_dict())
