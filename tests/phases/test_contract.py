"""What the loop refuses of a model's phases, and what it says of their failures."""

import math

import pytest
import torch
from toys import Denoiser, TinyGAN, make_loop

from genkit.errors import PluginError, TrainingError
from genkit.model import Phase

adam = torch.optim.Adam


def gan_of(generator_parameters, discriminator_parameters, **more):
    """A GAN whose two optimizers hold what is given."""
    return TinyGAN(
        lambda m, g, d: [
            Phase(
                name="d",
                loss=m.discriminator_loss,
                optimizer=adam(discriminator_parameters(m)),
                **more.get("d", {}),
            ),
            Phase(
                name="g",
                loss=m.generator_loss,
                optimizer=adam(generator_parameters(m)),
                **more.get("g", {}),
            ),
        ]
    )


def everything(model):
    return model.parameters()


def generator(model):
    return model.generator.parameters()


def discriminator(model):
    return model.discriminator.parameters()


# ---- what optimizers hold


def test_a_parameter_in_the_optimizers_of_two_phases_is_refused():
    with pytest.raises(
        PluginError, match=r"'discriminator.0.weight' is in the optimizers of .*'d' and 'g'"
    ):
        make_loop(gan_of(everything, discriminator))


def test_two_stages_may_train_the_same_parameters():
    stages = {"d": {"active": (0.0, 0.5)}, "g": {"active": (0.5, 1.0)}}
    loop = make_loop(gan_of(everything, discriminator, **stages))
    assert "g/loss" not in loop.iterate(0.0) and "g/loss" in loop.iterate(0.5)


def test_trainable_parameters_in_no_optimizer_are_refused_by_name():
    sentence = (
        "no phase's optimizer holds 'generator.0.bias', 'generator.1.weight', 'generator.1.bias': "
        r"give them to one, or freeze what is not to be trained by requires_grad_\(False\)"
    )
    with pytest.raises(PluginError, match=sentence):
        make_loop(gan_of(lambda m: [m.generator[0].weight], discriminator))


def test_frozen_parameters_need_no_optimizer():
    model = gan_of(lambda m: [m.generator[0].weight], discriminator)
    model.generator[0].bias.requires_grad_(False)
    model.generator[1].requires_grad_(False)
    make_loop(model).iterate()


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"active": (0.5, 0.5)}, "two rising shares"),
        ({"active": (0.0, 1.5)}, "two rising shares"),
        ({"active": (0.25, 1.0)}, "no phase is active from 0 to 0.25 of the budget"),
        ({"active": (0.0, 0.4)}, "no phase is active from 0.4 to 1 of the budget"),
        ({"precision": "fp16"}, "precision is fp32, bf16 or None"),
    ],
)
def test_options_that_the_loop_cannot_follow_are_refused(options, complaint):
    with pytest.raises(PluginError, match=complaint):
        make_loop(Denoiser(**options))


# ---- what a loss returns


@pytest.mark.parametrize(
    "answer, complaint",
    [
        (lambda loss: loss, r"must return \(loss, values to log\), not a Tensor"),
        (lambda loss: (loss, loss), "must be a mapping, not a Tensor"),
        (lambda loss: (loss, {"a": 1.0}), "'a' must be a scalar tensor, not a float"),
        (lambda loss: (loss, {"a": torch.zeros(2)}), r"'a' is not a scalar: \(2,\)"),
        (lambda loss: (loss.expand(3), {}), r"'loss' is not a scalar: \(3,\)"),
        (lambda loss: (loss.detach(), {}), "no gradient .* an earlier phase left in batch.shared"),
    ],
)
def test_a_loss_that_returns_something_else_is_named_with_its_line(answer, complaint):
    model = Denoiser()
    loss = model.loss
    model.phase["loss"] = lambda batch: answer(loss(batch)[0])
    line = model.phase["loss"].__code__.co_firstlineno
    with pytest.raises(PluginError, match=complaint) as caught:
        make_loop(model).iterate()
    assert f"(phases/test_contract.py:{line})" in str(caught.value)


# ---- what is not finite


class BadGradient(torch.autograd.Function):
    """Its value is its input, its gradient NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


def test_a_gradient_that_is_not_finite_names_the_phase_that_it_belongs_to():
    model = gan_of(generator, discriminator)
    plain = model.discriminator_loss
    model.discriminator_loss = lambda batch: (BadGradient.apply(plain(batch)[0]), {})
    with pytest.raises(TrainingError) as caught:
        make_loop(model).iterate()
    assert str(caught.value).startswith(
        "'discriminator.0.weight' of phase 'd' is no longer finite, and then the loss of phase "
        "'g' became nan in step 1; try a smaller learning rate"
    )
