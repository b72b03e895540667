"""Iterations that are replayed equal those that run as they are, and give way where they cannot."""

import copy
import math

import pytest
import torch
from recorders import OperationRecorder
from toys import SHAPE, TINY, Denoiser, TinyGAN, make_loop, random_images, registry, same_bits

from genkit.config.resolve import resolve
from genkit.errors import TrainingError
from genkit.model import Phase
from genkit.phases.replay import WARM, Replays
from genkit.runs.build import build_model
from genkit.specs import ImageShape

IMAGES = random_images(20)


class Both:
    """A model trained twice from the same weights: step by step, and by replays."""

    def __init__(self, model, recorder=None, **options):
        self.said = []
        self.recorder = recorder or OperationRecorder()
        self.replays = Replays(self.recorder, self.said.append)
        other = copy.deepcopy(model)
        self.eager = make_loop(model, IMAGES, **options)
        self.replayed = make_loop(other, IMAGES, replays=self.replays, **options)
        self.replayed.waits = False  # as on a GPU

    def train(self, steps, total=1000):
        for _ in range(steps):
            for loop in (self.eager, self.replayed):
                loop.iterate(loop.step / total)
            assert self.eager.take_logs() == self.replayed.take_logs()
        self.replayed.check_weights()
        assert same_bits(self.eager.state_dict(), self.replayed.state_dict())
        assert same_bits(self.eager.average.state_dict(), self.replayed.average.state_dict())
        return self


def built_in(name, **options):
    spec = registry().trainers.find(name)
    resolved = resolve(spec, given={**TINY[name], **options})
    return build_model(spec, resolved.options, ImageShape(*SHAPE), 0)


def fused(parameters, **options):
    return torch.optim.Adam(parameters, 1e-2, fused=True, **options)


def denoiser(**phase):
    torch.manual_seed(1)
    return Denoiser(fused, **phase)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("dcgan", {}, 3),  # all after the first, which is compared
        ("dcgan", {"dropout": 0.3}, 3),
        ("gan", {"penalty_every": 4}, 1),  # of 7 steps, 2 have the penalty
        ("vae", {"decay_after": 2}, 3),
        ("pixelcnn", {}, 3),
        ("pixelrnn", {}, 3),
        ("flow", {}, 3),
        ("diffusion", {}, 3),
        ("meanflow", {}, 3),
    ],
)
def test_built_in_models_are_replayed_bit_for_bit(name, options, count):
    both = Both(built_in(name, **options), ema_half_life=100, averages=[50]).train(WARM + 4)
    assert both.said == []
    assert both.replays.count == count


def test_replays_are_compared_at_their_first_and_tenth_time():
    both = Both(denoiser())
    replayed = []
    for step in range(1, WARM + 13):
        before = both.replays.count
        both.train(1)
        if both.replays.count > before:
            replayed.append(step)
    compared = (WARM + 1, WARM + 10)
    assert replayed == [step for step in range(WARM + 1, WARM + 13) if step not in compared]
    assert both.recorder.replays == 12


def test_a_replay_runs_no_python():
    calls = []
    model = denoiser()
    both = Both(model).train(WARM + 1)
    loss = both.replayed.phases[0].loss
    both.replayed.phases[0].loss = lambda batch: calls.append(1) or loss(batch)
    both.train(5)
    assert calls == []


def test_clip_labels_and_several_batches_are_replayed():
    def plan(m, g, d):
        g, d = fused(m.generator.parameters()), fused(m.discriminator.parameters())
        return [
            Phase(name="d", loss=m.discriminator_loss, optimizer=d, repeats=3, clip=0.1),
            Phase(name="g", loss=m.generator_loss, optimizer=g),
        ]

    torch.manual_seed(1)
    model = TinyGAN(plan)
    model.seen = Forgetful()
    both = Both(model).train(WARM + 6)
    assert both.said == [] and both.replays.count == 5


class Forgetful(list):
    """A list that keeps nothing."""

    def append(self, value):
        pass


def test_iterations_with_other_phases_are_recorded_apart():
    def plan(m, g, d):
        g, d = fused(m.generator.parameters()), fused(m.discriminator.parameters())
        return [
            Phase(name="d", loss=m.discriminator_loss, optimizer=d),
            Phase(name="r1", loss=m.r1_loss, optimizer=d, every=2),
            Phase(name="g", loss=m.generator_loss, optimizer=g, active=(0.012, 1.0)),
        ]

    torch.manual_seed(1)
    model = TinyGAN(plan)
    model.seen = Forgetful()
    both = Both(model).train(24)
    # Up to step 12 there is no g: 6 iterations with r1 and 6 without; then 6 and 6 with g.
    assert both.said == [] and both.replays.count == 4 * (6 - WARM - 1)


@pytest.mark.parametrize("fall", [lambda step: 1 / (1 + step), lambda step, progress: 1 - progress])
def test_scheduled_rates_are_those_of_each_step(fall):
    both = Both(denoiser(schedule=fall)).train(WARM + 8)
    assert both.said == [] and both.replays.count == 7


def test_the_cooldown_reaches_replayed_steps():
    both = Both(denoiser(), cooldown=0.5).train(20, total=20)
    assert both.said == [] and both.replays.count > 10


# ---- what cannot be replayed


class Odd(Denoiser):
    """A denoiser with something that no recording can repeat."""

    def __init__(self, oddity):
        torch.manual_seed(1)
        super().__init__(fused)
        self.oddity = oddity
        self.calls = 0

    def loss(self, batch):
        loss, extras = super().loss(batch)
        return loss * self.oddity(self, batch, loss), extras


def count_up(model, batch, loss):
    model.calls += 1
    return 1 + model.calls % 3


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: Odd(lambda m, b, loss: 2.0 if loss.item() > 0 else 1.0), "a value is read"),
        (lambda: Odd(lambda m, b, loss: 1 + b.progress), "a loss reads batch.progress"),
        (lambda: Odd(lambda m, b, loss: 1 + b.step % 2), "a loss reads batch.step"),
        (lambda: Odd(count_up), "Odd.calls changes in a step"),
        (lambda: Denoiser(torch.optim.Adam), "a value is read"),
        (lambda: denoiser(skip_above=1e9), "Error"),
        (
            lambda: denoiser(schedule=lambda step: {"weight_decay": 0.1 / (1 + step)}),
            "a schedule changes other options than the learning rate",
        ),
    ],
)
def test_what_cannot_be_replayed_runs_as_it_is_and_one_line_says_why(model, reason):
    torch.manual_seed(1)
    both = Both(model(), ema_half_life=100).train(WARM + 8)
    (note,) = both.said
    assert "not replayed" in note and reason in note


def test_one_optimizer_with_two_rates_in_an_iteration_is_not_replayed():
    def plan(m, g, d):
        d = fused(m.discriminator.parameters())
        return [
            Phase(name="a", loss=m.discriminator_loss, optimizer=d, schedule=lambda step: 1.0),
            Phase(name="b", loss=m.discriminator_loss, optimizer=d, schedule=lambda step: 0.5),
            Phase(name="g", loss=m.generator_loss, optimizer=fused(m.generator.parameters())),
        ]

    torch.manual_seed(1)
    model = TinyGAN(plan)
    model.seen = Forgetful()
    both = Both(model).train(WARM + 4)
    assert len(both.said) == 1 and "different learning rates" in both.said[0]


class Apart(torch.optim.Optimizer):
    """An optimizer whose state is that of another one inside, where nobody looks."""

    def __init__(self, parameters):
        self.inner = fused(parameters)
        super().__init__(self.inner.param_groups[0]["params"], {"lr": 1e-2})
        self.param_groups = self.inner.param_groups

    def step(self, closure=None):
        self.inner.step()

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)
        self.param_groups = self.inner.param_groups


def test_an_optimizer_that_keeps_its_state_elsewhere_is_not_replayed():
    torch.manual_seed(1)
    both = Both(Denoiser(Apart, schedule=lambda step: 1 / (1 + step))).train(WARM + 4)
    assert len(both.said) == 1 and "has its own state_dict" in both.said[0]


class Counting(torch.optim.Optimizer):
    """Sign descent whose rate falls with a number of steps that it keeps in Python."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 1e-2})

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["steps"] = state.get("steps", 0) + 1
            parameter.sub_(parameter.grad.sign() * (1e-2 / state["steps"]))


def test_an_optimizer_that_counts_in_python_is_not_replayed():
    torch.manual_seed(1)
    both = Both(Denoiser(Counting)).train(WARM + 4)
    assert len(both.said) == 1 and "a number in an optimizer's state changes" in both.said[0]


class Wrong(OperationRecorder):
    """Replays that are right `good` times, and then do nothing."""

    def __init__(self, good):
        super().__init__()
        self.good = good

    def record(self, work):
        recording = super().record(work)
        replay = recording.replay
        recording.replay = lambda: replay() if self.replays < self.good else None
        return recording


def test_a_replay_that_differs_is_never_trusted():
    both = Both(denoiser(), Wrong(good=0)).train(WARM + 6)
    assert len(both.said) == 1 and "a replay changes what a step changes by" in both.said[0]
    assert both.replays.count == 0


def test_replays_that_go_wrong_later_are_found_at_the_tenth():
    both = Both(denoiser(), Wrong(good=9))
    both.train(WARM + 9)
    both.train(5)
    assert len(both.said) == 1 and both.replays.count == 8


# ---- states


@pytest.mark.parametrize("name", ["dcgan", "vae"])
def test_a_run_resumes_in_the_middle_of_its_replays(name):
    both = Both(built_in(name), ema_half_life=100).train(WARM + 3)
    state = copy.deepcopy(both.replayed.state_dict())
    both.train(WARM + 6)
    again = Both(built_in(name), ema_half_life=100)
    again.eager.load_state_dict(copy.deepcopy(state))
    again.replayed.load_state_dict(state)
    again.train(WARM + 6)
    assert again.replays.count == 5 and again.said == []
    assert same_bits(again.replayed.state_dict(), both.replayed.state_dict())


def test_a_loop_takes_other_weights_in_the_middle_of_its_replays():
    both = Both(denoiser(schedule=lambda step: 1 / (1 + step)))
    start = copy.deepcopy(both.eager.state_dict())
    both.train(WARM + 3)
    both.eager.load_state_dict(copy.deepcopy(start))
    both.replayed.load_state_dict(start)
    both.train(WARM + 3)
    assert both.replays.count == 4 and both.said == []


def test_a_saved_state_holds_rates_as_numbers():
    both = Both(denoiser(schedule=lambda step: 1 / (1 + step))).train(WARM + 3)
    (group,) = both.replayed.state_dict()["optimizers"][0]["param_groups"]
    assert isinstance(both.replayed.optimizers[0].param_groups[0]["lr"], torch.Tensor)
    assert group["lr"] == 1e-2 * (1 / (WARM + 3))


def test_a_loss_that_is_not_finite_in_a_replay_names_its_phase_and_step():
    both = Both(denoiser()).train(WARM + 2)
    with torch.no_grad():
        both.replayed.model.layers[0].weight.fill_(math.inf)
    both.replayed.iterate()
    both.replayed.iterate()
    with pytest.raises(TrainingError, match=r"phase 'denoise'"):
        both.replayed.check_finite()
