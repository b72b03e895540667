"""Models that break one contract each of those on phases, losses and training.

The decorator of each class says which, and what stands in the message.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch
from broken import SHAPE, Toy, assert_model_reported, recorder, spec_of
from torch import nn

from genkit.contracts import model as new
from genkit.errors import UsageError
from genkit.model import Phase
from genkit.testing import PromiseBroken, check_trainer, models

torch.set_num_threads(1)
CASES = []
breaks = recorder(CASES)


@breaks(models.shape_is_refused_or_built, "ValueError: no grey images")
class CrashesOnShape(Toy):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        if image_shape.channels == 1:
            raise ValueError("no grey images")


@breaks(models.shape_is_refused_or_built, "before Module.__init__() call")
class ForgetsSuper(Toy):
    def __init__(self, config, image_shape):
        self.layer = nn.Linear(2, 2)


@breaks(models.odd_shapes_are_refused_or_work, "1 x 9 x 13 was built, and then came")
class NeedsEvenSides(Toy):
    def loss(self, batch):
        batch.images.unflatten(2, (-1, 2))
        return super().loss(batch)


@breaks(models.odd_shapes_are_refused_or_work, "1 x 9 x 13 was neither refused nor built")
class AssertsEvenSides(Toy):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        assert image_shape.height % 2 == 0


@breaks(new.layers_are_registered, "'layers' holds a Linear that training never sees")
class LayersInAList(Toy):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.layers = [nn.Identity(), nn.Linear(2, 2)]


@breaks(new.layers_are_registered, "'scales' holds a Parameter that training never sees")
class ParametersInADict(Toy):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.scales = {"of one": nn.Parameter(torch.ones(2))}


@breaks(new.parameters_are_float32, "'prior' is torch.float64; call float()")
class ParameterFromNumpy(Toy):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.prior = nn.Parameter(torch.from_numpy(np.zeros(image_shape.dimensions)))


@breaks(new.phases_are_well_formed, "their names are ['same', 'same']")
class TwoPhasesOfOneName(Toy):
    names = ("same", "same")


@breaks(new.phases_are_well_formed, "not a list of Phase")
class NoPhase(Toy):
    def phases(self):
        return torch.optim.Adam(self.parameters())


@breaks(new.phases_are_well_formed, "'denoise' has repeats 0, every 1")
class NeverRuns(Toy):
    def phases(self):
        return [
            Phase(
                name="denoise", loss=self.loss, optimizer=super().phases()[0].optimizer, repeats=0
            )
        ]


@breaks(new.phases_are_well_formed, "'denoise' holds a (3,) that is not the model's")
class TrainsAStranger(Toy):
    def phases(self):
        (phase,) = super().phases()
        phase.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
        return [phase]


@breaks(new.phases_are_well_formed, "'forgotten' is in none")
class ForgetsAParameter(Toy):
    def phases(self):
        phases = super().phases()
        self.forgotten = nn.Parameter(torch.ones(3))
        return phases


@breaks(models.schedules_are_factors, "the schedule of 'denoise' gives -9.0 at step 1000")
class NegativeRate(Toy):
    def phases(self):
        (phase,) = super().phases()
        phase.schedule = lambda step: 1 - step / 100
        return [phase]


@breaks(new.losses_are_scalars, "'loss' of 'denoise' is (16,), not a scalar tensor")
class LossPerPixel(Toy):
    def loss(self, batch):
        x = batch.images.flatten(1)
        return (self.layer(x) - x).square().mean(0), {}


@breaks(new.losses_are_scalars, "'loss' of 'denoise' is ndarray, not a scalar tensor")
class LossInNumPy(Toy):
    def loss(self, batch):
        return super().loss(batch)[0].detach().numpy(), {}


@breaks(new.losses_are_finite, "'loss' of 'denoise' is inf")
class InfiniteLoss(Toy):
    def loss(self, batch):
        return super().loss(batch)[0] / 0, {}


@breaks(new.losses_are_scalars, "'accuracy' of 'denoise' is float, not a scalar tensor")
class LogsAFloat(Toy):
    def loss(self, batch):
        return super().loss(batch)[0], {"accuracy": 0.5}


@breaks(new.losses_are_scalars, "'denoise' returned Tensor, not (loss, extras)")
class NoExtras(Toy):
    def loss(self, batch):
        return super().loss(batch)[0]


@breaks(new.losses_are_scalars, "returned extras of type list, not a mapping")
class ExtrasInAList(Toy):
    def loss(self, batch):
        return super().loss(batch)[0], []


@breaks(new.losses_are_scalars, "the loss of 'denoise' has no gradient")
class DetachedLoss(Toy):
    def loss(self, batch):
        return super().loss(batch)[0].detach(), {}


@breaks(new.losses_are_scalars, "'denoise' calls backward(), which the loop does")
class StepsItself(Toy):
    def loss(self, batch):
        super().loss(batch)[0].backward()
        return super().loss(batch)


@breaks(new.losses_are_scalars, "'denoise' changed the images in place")
class NoiseInPlace(Toy):
    def loss(self, batch):
        batch.images.add_(0.1)
        return super().loss(batch)


@breaks(new.losses_are_scalars, "left in batch.shared ('fakes') has none for what 'g' trains")
class UsesDetachedFakes(Toy):
    """The generator's phase takes the fakes that the critic's phase has left."""

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.critic = nn.Linear(image_shape.dimensions, 1)

    def phases(self):
        adam = torch.optim.Adam
        return [
            Phase(name="d", loss=self.critic_loss, optimizer=adam(self.critic.parameters())),
            Phase(name="g", loss=self.generator_loss, optimizer=adam(self.layer.parameters())),
        ]

    def critic_loss(self, batch):
        real = batch.images.flatten(1)
        batch.shared["fakes"] = self.layer(torch.randn_like(real)).detach()
        return (self.critic(batch.shared["fakes"]) - self.critic(real)).mean(), {}

    def generator_loss(self, batch):
        return -self.critic(batch.shared["fakes"]).mean(), {}


@breaks(new.phases_are_well_formed, "'critic.weight' is in the optimizers of both 'd' and 'g'")
class OptimizerOverAll(UsesDetachedFakes):
    def phases(self):
        critic, generator = super().phases()
        generator.optimizer = torch.optim.Adam(self.parameters())
        return [critic, generator]


@breaks(new.weights_follow_from_the_seed, "it seeds the generator with 0, so that every --seed")
class GlobalSeedInInit(Toy):
    def __init__(self, config, image_shape):
        torch.manual_seed(0)
        super().__init__(config, image_shape)


@breaks(new.noise_follows_from_the_step, "the loss of 'denoise' seeds the generator with 0")
class GlobalSeedInLoss(Toy):
    def loss(self, batch):
        torch.manual_seed(0)
        return super().loss(batch)


@breaks(new.losses_are_finite, "its gradient is not finite")
class RootOfZero(Toy):
    def loss(self, batch):
        loss, extras = super().loss(batch)
        return loss + (0 * self.layer.bias.sum()).sqrt(), extras


@breaks(models.labels_may_be_none, "labels were None, and the loss of 'denoise' failed with Type")
class LabelsRequired(Toy):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.classes = nn.Embedding(max(image_shape.classes, 1), 1)

    def loss(self, batch):
        return super().loss(batch)[0] + self.classes(batch.labels).square().mean(), {}


class Pair(Toy):
    """Two phases, each with a layer of its own."""

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.other = nn.Linear(2, 1)

    def phases(self):
        adam = torch.optim.Adam
        return [
            Phase(name="first", loss=self.loss, optimizer=adam(self.layer.parameters())),
            Phase(name="second", loss=self.second, optimizer=adam(self.other.parameters())),
        ]

    def second(self, batch):
        return self.other.weight.square().sum() + self.other.bias.square().sum(), {}


@breaks(models.phases_change_only_their_own, "'second' changed 'layer.bias', which is not in its")
class Meddles(Pair):
    def second(self, batch):
        with torch.no_grad():
            self.layer.bias += 0.1
        return super().second(batch)


@breaks(models.phases_change_only_their_own, "'second' changed nothing in 3 iterations")
class Idle(Pair):
    def second(self, batch):
        return 0 * super().second(batch)[0], {}


@breaks(models.training_lowers_the_loss, "the loss of phase 'second' became nan in step 7")
class FailsLater(Pair):
    def second(self, batch):
        self.offset += 1
        loss, extras = super().second(batch)
        return (loss * torch.nan if self.offset > 6 else loss), extras


@breaks(new.train_and_eval_return_the_model, "train(False) returned NoneType")
class TrainReturnsNone(Toy):
    def train(self, mode=True):
        super().train(mode)


@breaks(models.training_lowers_the_loss, "in 40 iterations")
class ClimbsUp(Toy):
    def phases(self):
        (phase,) = super().phases()
        for group in phase.optimizer.param_groups:
            group["maximize"] = True
        return [phase]


@breaks(models.trouble_is_one_line, "of 100 values of each name it answers ['it rises']")
class ListsItsTroubles(Toy):
    def trouble(self, history):
        return ["it rises"] if any(len(values) > 9 for values in history.values()) else None


@breaks(models.state_is_plain, "param_groups.0.share is a Fraction")
class KeepsAFraction(Toy):
    def phases(self):
        (phase,) = super().phases()
        phase.optimizer.param_groups[0]["share"] = Fraction(1, 2)
        return [phase]


class FixedProjection(Toy):
    """Draws a fixed matrix, and gives torch's generator back as it was."""

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.register_buffer("projection", torch.randn(image_shape.dimensions, 3))


class PrivateNoise(Toy):
    """Draws the noise of a loss from a generator of its own, seeded by the global one."""

    def loss(self, batch):
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        x = batch.images.flatten(1)
        noise = torch.randn(x.shape, generator=generator)
        return (self.layer(x + noise).float() - x).square().mean(), {}


class RefusesAll(Toy):
    def __init__(self, config, image_shape):
        raise UsageError("it takes nothing")


class HiddenTeacher(Toy):
    """A frozen network that is not to be in checkpoints, and a list of registered layers."""

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.teacher = [nn.Linear(2, 2).requires_grad_(False)]
        self.again = [self.layer]


def test_model_that_keeps_every_contract_passes():
    check_trainer(spec_of(HiddenTeacher), shapes=[SHAPE])
    check_trainer(spec_of(Toy), options={"batch_size": 16}, shapes=[SHAPE, (3, 5, 4)])
    check_trainer(spec_of(Pair), shapes=[SHAPE])


@pytest.mark.parametrize("toy, contract, seen", CASES)
def test_broken_contract_is_named_with_what_was_seen(toy, contract, seen):
    assert_model_reported(toy, contract, seen)


def test_every_contract_on_training_is_broken_by_some_toy():
    known = {*models.TRAINING_CONTRACTS, models.odd_shapes_are_refused_or_work}
    known -= {new.other_runs_are_no_layers}  # it needs a run: tests/runs/test_frozen.py
    assert {case.values[1] for case in CASES} == known


@pytest.mark.parametrize("toy", [PrivateNoise, FixedProjection])
def test_generators_of_its_own_are_no_fixed_seed(toy):
    check_trainer(spec_of(toy), options={"batch_size": 16}, shapes=[SHAPE])


def test_model_that_refuses_every_shape_is_no_pass():
    with pytest.raises(PromiseBroken, match="refuses all of 1 x 4 x 4, 3 x 8 x 8; give shapes"):
        check_trainer(spec_of(RefusesAll), shapes=[SHAPE, (3, 8, 8)])
