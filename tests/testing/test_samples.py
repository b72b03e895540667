"""Models that break one contract each of those on samples, resuming and likelihoods.

The decorator of each class says which, and what stands in the message.
"""

import random
from functools import cache

import numpy as np
import pytest
import torch
from broken import SHAPE, Toy, assert_model_reported, recorder, spec_of

from genkit.model import LogLikelihood
from genkit.testing import PromiseBroken, check_trainer, samples

torch.set_num_threads(1)
CASES = []
breaks = recorder(CASES)


@breaks(samples.samples_are_images, "sample(1) gave (4, 4), not (1, 1, 4, 4)")
class SqueezesOne(Toy):
    def sample(self, n, labels=None, *, generator):
        return super().sample(n, generator=generator).squeeze()


@breaks(samples.samples_are_images, "sample(1) gave (1, 4, 4, 1), not (1, 1, 4, 4)")
class SamplesChannelsLast(Toy):
    def sample(self, n, labels=None, *, generator):
        return super().sample(n, generator=generator).permute(0, 2, 3, 1)


@breaks(samples.samples_are_images, "sample(1) gave ndarray")
class SamplesArrays(Toy):
    def sample(self, n, labels=None, *, generator):
        return super().sample(n, generator=generator).numpy()


@breaks(samples.samples_are_images, "got an unexpected keyword argument 'generator'")
class TakesNoGenerator(Toy):
    def sample(self, n, labels=None):
        return self.images_of(torch.randn(n, self.image_shape.dimensions))


@breaks(samples.samples_are_images, "sample(1) gave values from ")
class SamplesPixelValues(Toy):
    def sample(self, n, labels=None, *, generator):
        return 127.5 * (super().sample(n, generator=generator) + 1)


@breaks(samples.samples_are_images, "sample(1) gave torch.uint8")
class SamplesBytes(Toy):
    def sample(self, n, labels=None, *, generator):
        return super().sample(n, generator=generator).mul(100).to(torch.uint8)


@breaks(samples.samples_are_images, "sample(1) gave values from -")
class SamplesTooFar(Toy):
    def sample(self, n, labels=None, *, generator):
        return 3 * super().sample(n, generator=generator)


@breaks(samples.samples_are_images, "sample(1) gave values that are not finite")
class SamplesNaN(Toy):
    def sample(self, n, labels=None, *, generator):
        return super().sample(n, generator=generator) * torch.nan


@breaks(samples.black_is_minus_one, "8 samples go from 0")
class SamplesFromZero(Toy):
    def sample(self, n, labels=None, *, generator):
        return super().sample(n, generator=generator).relu()


@breaks(samples.samples_follow_from_the_generator, "torch's global generator: give generator=gen")
class DrawsFromTorch(Toy):
    def sample(self, n, labels=None, *, generator):
        return self.images_of(torch.randn(n, self.image_shape.dimensions))


@breaks(samples.samples_follow_from_the_generator, "Python's global generator: draw all noise by")
class DrawsFromPython(Toy):
    def sample(self, n, labels=None, *, generator):
        return super().sample(n, generator=generator) * random.random()


@breaks(samples.samples_follow_from_the_generator, "numpy's global generator: draw all noise")
class DrawsFromNumPy(Toy):
    def sample(self, n, labels=None, *, generator):
        noise = np.random.randn(n, self.image_shape.dimensions)
        return self.images_of(torch.from_numpy(noise).float())


@breaks(samples.samples_follow_from_the_generator, "a second sample differs by up to")
class DrawsFromAGeneratorOfItsOwn(Toy):
    def sample(self, n, labels=None, *, generator):
        noise = np.random.default_rng().standard_normal((n, self.image_shape.dimensions))
        return self.images_of(torch.from_numpy(noise).float())


@breaks(samples.samples_follow_from_the_generator, "a second sample differs by up to")
class Remembers(Toy):
    def sample(self, n, labels=None, *, generator):
        self.calls += 1
        return super().sample(n, generator=generator) / self.calls


@breaks(samples.samples_follow_from_the_generator, "under other global seeds it differs by up to")
class PeeksAtTheSeed(Toy):
    def sample(self, n, labels=None, *, generator):
        return super().sample(n, generator=generator) / (1 + torch.initial_seed() % 7)


@breaks(samples.other_seeds_give_other_samples, "8 samples of seed 1 are those of seed 0")
class IgnoresTheGenerator(Toy):
    def sample(self, n, labels=None, *, generator):
        fixed = torch.Generator().manual_seed(0)
        return super().sample(n, generator=fixed)


@breaks(samples.sample_i_is_the_same_at_any_n, "image 0 of 5 differs by up to")
class DirtyCacheOfLargeBatches(Toy):
    def sample(self, n, labels=None, *, generator):
        self.calls += n >= 64
        return super().sample(n, generator=generator) / max(1, self.calls)


@breaks(samples.labels_are_optional, "labels")
class InsistsOnLabels(Toy):
    def sample(self, n, labels=None, *, generator):
        if self.image_shape.classes and labels is None:
            raise TypeError("which labels?")
        return super().sample(n, generator=generator)


@breaks(samples.labels_are_optional, "with labels 0 to 3, sample() gave (5, 1, 4, 4)")
class OneTooMany(Toy):
    def sample(self, n, labels=None, *, generator):
        return super().sample(n + (labels is not None), generator=generator)


@cache
def _shared():
    return random.Random(0)


@breaks(samples.training_follows_from_the_seed, "model.layer.weight differs by up to")
class NoiseOfItsOwn(Toy):
    def loss(self, batch):
        loss, extras = super().loss(batch)
        return loss * (0.9 + 0.2 * _shared().random()), extras


@breaks(samples.resuming_is_exact, "; 'calls' went from 0 to 3: keep it in a buffer")
class CountsBesideTheState(Toy):
    def loss(self, batch):
        self.calls += 1
        loss, extras = super().loss(batch)
        return loss / self.calls**2, extras


@breaks(samples.resuming_is_exact, "; 'replay' holds a tensor that is not a buffer")
class ReplaysOldImages(Toy):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.replay = []

    def loss(self, batch):
        loss, extras = super().loss(batch)
        self.replay.append(batch.images.flatten(1))
        old = self.replay[0]
        return loss + (self.layer(old).float() - old).square().mean(), extras


@breaks(samples.file_of_weights_is_enough_to_sample, "; 'tilt' holds a tensor that is not a buffer")
class TensorThatIsNoBuffer(Toy):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.tilt = torch.rand(())

    def sample(self, n, labels=None, *, generator):
        return super().sample(n, generator=generator) * self.tilt


@breaks(samples.file_of_weights_is_enough_to_sample, "a sample differs by up to")
class ClosureOverItself(Toy):
    def __init__(self, config, image_shape):
        super().__init__(config, image_shape)
        self.draw = lambda noise: self.images_of(noise)  # the average's draws from the model

    def sample(self, n, labels=None, *, generator):
        return self.draw(torch.randn(n, self.image_shape.dimensions, generator=generator))


@breaks(samples.sampling_leaves_training_as_it_was, "model.offset differs by up to 1")
class CountsSamples(Toy):
    def sample(self, n, labels=None, *, generator):
        self.offset += 1
        return super().sample(n, generator=generator)


@breaks(samples.bf16_is_finite, "the loss of phase 'denoise' became inf in step 1")
class CancelsInBf16(Toy):
    def loss(self, batch):
        loss, extras = super().loss(batch)
        one = self.layer(batch.images.flatten(1)).mean() * 0 + 1
        return loss / ((one + 1e-3) - one), extras


@breaks(samples.likelihoods_are_consistent, "nats are (), not (6,)")
class MeanLikelihood(Toy):
    def log_likelihood(self, images):
        return LogLikelihood(super().log_likelihood(images).nats.mean(), "exact", "toys")


@breaks(samples.likelihoods_are_consistent, "its kind is 'precise', not 'exact' or 'bound'")
class UnknownKind(Toy):
    def log_likelihood(self, images):
        return LogLikelihood(super().log_likelihood(images).nats, "precise", "toys")


@breaks(samples.likelihoods_are_consistent, "a second answer differs by up to 1")
class LikelihoodRemembers(Toy):
    def log_likelihood(self, images):
        self.calls += 1
        return LogLikelihood(images.sum((1, 2, 3)) * 0 - self.calls, "bound", "toys")


@breaks(samples.likelihoods_are_consistent, "nats are a probability above 1")
class LossAsLikelihood(Toy):
    def log_likelihood(self, images):
        return LogLikelihood(-super().log_likelihood(images).nats, "bound", "toys")


@breaks(samples.training_raises_the_likelihood, "nats it went to -")
class LikelihoodThatFalls(Toy):
    def log_likelihood(self, images):
        nats = -1 / super().log_likelihood(images).nats.abs()
        return LogLikelihood(nats, "exact", "toys")

    def log_weights(self, images, draws):
        return None


@breaks(samples.likelihoods_are_consistent, "in batches of 2 and 4 it differs by up to")
class LikelihoodOfTheBatch(Toy):
    def log_likelihood(self, images):
        nats = super().log_likelihood(images).nats
        return LogLikelihood(nats - nats.mean(), "exact", "toys")


@breaks(samples.log_weights_are_consistent, "nats are (6, 3), not (3, 6)")
class WeightsTheOtherWayRound(Toy):
    def log_weights(self, images, draws):
        return LogLikelihood(torch.zeros(len(images), draws), "bound", "toys")


@breaks(samples.reconstructions_are_images, "reconstruct() gave (5, 16), not (5, 1, 4, 4)")
class FlatReconstructions(Toy):
    def reconstruct(self, images):
        return super().reconstruct(images).flatten(1)


@breaks(samples.sampling_leaves_training_as_it_was, "model.offset differs by up to 1")
class CountsCompletions(Toy):
    def complete(self, images, known, *, generator):
        self.offset += 1
        return super().complete(images, known, generator=generator)


@pytest.mark.parametrize("toy, contract, seen", CASES)
def test_broken_contract_is_named_with_what_was_seen(toy, contract, seen):
    assert_model_reported(toy, contract, seen)


def test_every_contract_on_samples_is_broken_by_some_toy():
    assert {case.values[1] for case in CASES} == set(samples.SAMPLE_CONTRACTS)


def test_message_is_one_sentence_on_what_must_hold_and_what_was_seen():
    with pytest.raises(PromiseBroken) as caught:
        check_trainer(spec_of(IgnoresTheGenerator), shapes=[SHAPE])
    assert str(caught.value) == (
        "toy (1 x 4 x 4): other generators must give other samples; "
        "8 samples of seed 1 are those of seed 0"
    )
