"""Models that break one contract each of those on latents and completions.

The decorator of each class says which, and what stands in the message.
"""

import pytest
import torch
from broken import Toy, assert_model_reported, recorder

from genkit.testing import capabilities

torch.set_num_threads(1)
CASES = []
breaks = recorder(CASES)


@breaks(capabilities.samples_are_decoded_latents, "an image differs by up to")
class SamplesWithGrain(Toy):
    def sample(self, n, labels=None, *, generator):
        images = super().sample(n, generator=generator)
        return (images + torch.randn(images.shape, generator=generator) / 100).clamp(-1, 1)


@breaks(capabilities.samples_are_decoded_latents, "256 latents have mean")
class UniformLatents(Toy):
    def draw_latents(self, n, *, generator):
        return torch.rand(n, self.image_shape.dimensions, generator=generator)


@breaks(capabilities.samples_are_decoded_latents, "256 latents have mean")
class WideLatents(Toy):
    def draw_latents(self, n, *, generator):
        return 1.2 * super().draw_latents(n, generator=generator)


@breaks(capabilities.samples_are_decoded_latents, "draw_latents(256) gave (16, 256)")
class LatentsTheOtherWayRound(Toy):
    def sample(self, n, labels=None, *, generator):
        return self.images_of(super().draw_latents(n, generator=generator))

    def draw_latents(self, n, *, generator):
        return super().draw_latents(n, generator=generator).T


@breaks(
    capabilities.samples_are_decoded_latents, "decode_latents() drew from torch's global generator"
)
class DecodesAtRandom(Toy):
    def sample(self, n, labels=None, *, generator):
        return self.images_of(self.draw_latents(n, generator=generator))

    def decode_latents(self, latents, labels=None):
        return self.images_of(latents + torch.randn_like(latents))


@breaks(capabilities.samples_are_decoded_latents, "decode_latents() gave (256, 16), not")
class DecodesToFlatImages(Toy):
    def sample(self, n, labels=None, *, generator):
        return self.images_of(self.draw_latents(n, generator=generator))

    def decode_latents(self, latents, labels=None):
        return self.images_of(latents).flatten(1)


@breaks(capabilities.completions_keep_what_is_known, "known pixels differ by up to")
class ForgetsWhatIsKnown(Toy):
    def complete(self, images, known, *, generator):
        return self.sample(len(images), generator=generator)


@breaks(
    capabilities.completions_keep_what_is_known, "with other pixels where none are known, an image"
)
class PeeksAtWhatIsHidden(Toy):
    def complete(self, images, known, *, generator):
        answer = super().complete(images, known, generator=generator)
        return torch.where(known, answer, (answer + images.mean()).clamp(-1, 1))


@breaks(
    capabilities.completions_keep_what_is_known, "it drew from torch's global generator: give gen"
)
class CompletesFromTorch(Toy):
    def complete(self, images, known, *, generator):
        return torch.where(known, images, torch.rand_like(images))


@breaks(capabilities.completions_keep_what_is_known, "complete() gave (5, 16), not (5, 1, 4, 4)")
class FlatCompletions(Toy):
    def complete(self, images, known, *, generator):
        return super().complete(images, known, generator=generator).flatten(1)


@pytest.mark.parametrize("toy, contract, seen", CASES)
def test_broken_contract_is_named_with_what_was_seen(toy, contract, seen):
    assert_model_reported(toy, contract, seen)


def test_every_contract_on_capabilities_is_broken_by_some_toy():
    assert {case.values[1] for case in CASES} == set(capabilities.CAPABILITY_CONTRACTS)
