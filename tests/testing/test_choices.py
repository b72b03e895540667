"""The contracts on classes and on options of the sampler: each is broken by a toy, and named."""

import pytest
import torch
from broken import SHAPE, Toy, recorder
from torch import nn

from genkit.contracts.contract import white_squares
from genkit.errors import UsageError
from genkit.specs import ImageShape, SamplerConfig, TrainerConfig, TrainerSpec, option
from genkit.testing import choices
from genkit.testing.fixture import ModelFixture

torch.set_num_threads(1)
CASES = []
breaks = recorder(CASES)


class Options(TrainerConfig):
    conditional: bool = option(False, "by class")


class Sampler(SamplerConfig):
    spread: float = option(1.0, "of the noise", gt=0)


class ByClass(Toy):
    """Keeps every contract: a bias of the class is added to what is drawn."""

    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.conditional = config.conditional
        if config.conditional and not image_shape.classes:
            raise UsageError("--conditional needs data with labels; leave it out")
        self.bias = nn.Embedding(max(image_shape.classes, 1), image_shape.dimensions)
        if not config.conditional:
            self.bias.requires_grad_(False)

    def phases(self):
        for phase in (found := super().phases()):
            held = [p for p in self.parameters() if p.requires_grad]
            phase.optimizer = torch.optim.Adam(held, 1e-2)
        return found

    def loss(self, batch):
        loss, extras = super().loss(batch)
        if self.conditional:
            loss = loss + (self.bias(batch.labels) - batch.images.flatten(1)).square().mean()
        return loss, extras

    def decode_latents(self, latents, labels=None):
        labels = self.choose_labels(labels, len(latents))
        shift = 0 if labels is None else self.bias(labels)
        spread = getattr(self.sampler, "spread", 1.0)
        return self.images_of(latents * spread) * 0.1 + self.images_of(latents * 0 + shift) * 0.9


@breaks(choices.models_by_class_need_classes, "self.conditional is False")
class SaysNothing(ByClass):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.conditional = False


@breaks(choices.models_by_class_need_classes, "a model of images without classes was built")
class NeedsNoClasses(ByClass):
    def __init__(self, config, image_shape):
        Toy.__init__(self, config, image_shape)
        self.conditional = config.conditional


@breaks(choices.samples_follow_labels, "samples of class 1 are those of class 0")
class IgnoresLabels(ByClass):
    def decode_latents(self, latents, labels=None):
        return self.images_of(latents)


@breaks(choices.samples_follow_labels, "512 samples of class 1 differ from those of class 0 only")
class MovesTheNoise(ByClass):
    """Each class has its own noise, and all have one distribution."""

    def decode_latents(self, latents, labels=None):
        labels = self.choose_labels(labels, len(latents))
        if labels is None:
            return self.images_of(latents)
        rolled = [row.roll(int(k)) for row, k in zip(latents, labels, strict=True)]
        return (torch.stack(rolled) / 3).tanh().view(-1, *SHAPE)


@breaks(choices.samples_follow_labels, "sample(3) without labels gave (1, 1, 4, 4)")
class DropsThemWithoutLabels(ByClass):
    def decode_latents(self, latents, labels=None):
        images = super().decode_latents(latents, labels)
        return images[:1] if labels is None else images


@breaks(choices.wrong_labels_are_refused, "with labels up to 4 of 4 classes raised IndexError")
class LooksThemUpAtOnce(ByClass):
    def choose_labels(self, labels, n):
        return super().choose_labels(None, n) if labels is None else labels


@breaks(choices.wrong_labels_are_refused, "sample(3) took labels from -1")
class CountsFromTheEnd(ByClass):
    def decode_latents(self, latents, labels=None):
        if labels is not None and (labels < 0).any():
            labels = labels % self.image_shape.classes
        return super().decode_latents(latents, labels)


@breaks(choices.wrong_labels_are_refused, "sample(3) took labels of 1 image")
class SpreadsOneLabel(ByClass):
    def decode_latents(self, latents, labels=None):
        if labels is not None and len(labels) == 1:
            labels = labels.expand(len(latents))
        return super().decode_latents(latents, labels)


@breaks(choices.wrong_labels_are_refused, "sample(3) took labels of 4 images")
class TakesWhatItNeeds(ByClass):
    def decode_latents(self, latents, labels=None):
        return super().decode_latents(latents, None if labels is None else labels[: len(latents)])


@breaks(choices.wrong_labels_are_refused, "sample(3) took labels on another device")
class ForgetsThemElsewhere(ByClass):
    def decode_latents(self, latents, labels=None):
        if labels is not None and labels.device != latents.device:
            labels = None
        return super().decode_latents(latents, labels)


@breaks(choices.labels_change_training, "other labels gave the same weights")
class TrainsWithoutLabels(ByClass):
    def loss(self, batch):
        return Toy.loss(self, batch)

    def phases(self):
        self.bias.requires_grad_(False)
        return super().phases()


@breaks(choices.training_by_class_is_exact, "3 iterations after resuming, ")
class CountsClasses(ByClass):
    def loss(self, batch):
        loss, extras = super().loss(batch)
        if self.conditional:
            self.calls += 1
            loss = loss * (1 + self.calls / 10)
        return loss, extras


@breaks(choices.sampler_changes_no_training, "with spread 0.5, model.layer.weight differs")
class TrainsByTheSampler(ByClass):
    def loss(self, batch):
        loss, extras = super().loss(batch)
        return loss * self.sampler.spread, extras


def found(toy, contract):
    """What a contract sees in a toy."""
    target = f"{toy.__module__}:{toy.__name__}"
    spec = TrainerSpec(name="t", summary="A.", target=target, config=Options, sampler=Sampler)
    shape = ImageShape(*SHAPE)
    return list(
        contract(ModelFixture(spec, Options(batch_size=16), shape, white_squares(64, shape)))
    )


@pytest.mark.parametrize("contract", choices.CHOICE_CONTRACTS, ids=lambda c: c.__name__)
def test_model_by_class_that_keeps_the_contracts_passes(contract):
    assert found(ByClass, contract) == []


class FaintOverflowing(ByClass):
    """Its labels show at no strength of random weights but 0.3, and it overflows at 5."""

    def sample(self, n, labels=None, *, generator):
        size = self.layer.weight.std()
        images = super().sample(n, labels if size < 0.3 else None, generator=generator)
        return images * (torch.inf if size > 1.5 else 1)


def test_model_that_overflows_with_large_weights_is_tried_with_smaller_ones():
    assert found(FaintOverflowing, choices.samples_follow_labels) == []


@pytest.mark.parametrize(("toy", "contract", "seen"), CASES)
def test_broken_contract_is_named_with_what_was_seen(toy, contract, seen):
    first, *_ = found(toy, contract)
    assert seen in first


def test_every_contract_on_choices_is_broken_by_some_toy():
    assert {case.values[1] for case in CASES} == set(choices.CHOICE_CONTRACTS)
