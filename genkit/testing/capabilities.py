"""The contracts of what a model can do beside sampling: latents, completions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genkit.contracts.contract import Violations, difference, drawn_from, random_states, seed_random
from genkit.contracts.images import REMEDIES, REMEDY, SLACK, image_violations
from genkit.sampling.completion import known_half
from genkit.testing.fixture import ModelFixture

__tracebackhide__ = True


def samples_are_decoded_latents(fixture: ModelFixture) -> Violations:
    """Where there are latents, they must be standard normal, (n, ...), and what decode_latents()
    makes of them the same generator's samples, bit for bit, whatever the global generators do.
    """
    model, n = fixture.trained.average.eval(), 256
    with torch.no_grad():
        latents = model.draw_latents(n, generator=torch.Generator().manual_seed(0))
        if latents is None:
            return
        if not isinstance(latents, Tensor) or latents.ndim < 2 or len(latents) != n:
            found = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
            yield f"draw_latents({n}) gave {found}"
        spread, slack = latents.double(), 6 / math.sqrt(latents.numel())  # six standard errors
        mean, variance = spread.mean().item(), spread.var().item()
        if abs(mean) > slack or abs(variance - 1) > slack * math.sqrt(2):
            yield f"{n} latents have mean {mean:.3g} and variance {variance:.3g}"
        seed_random(0)
        before = random_states()
        images = model.decode_latents(latents)
        if whose := drawn_from(before):
            yield f"decode_latents() drew from {whose}'s global generator"
        samples = model.sample(n, generator=torch.Generator().manual_seed(0))
    yield from image_violations(images, n, fixture.shape, "decode_latents()")
    if differs := difference(images, samples, "an image"):
        yield f"{differs} from the sample"


def completions_keep_what_is_known(fixture: ModelFixture) -> Violations:
    """What complete() gives must be images whose known pixels are as they were if these are black
    or white, and follow from the generator and from what is known alone.
    """
    model = fixture.trained.average.eval()
    images = torch.where(fixture.images(5) > 0, 1.0, -1.0)
    known = known_half(fixture.shape).expand(5, -1, -1, -1)
    hidden = [torch.where(known, images, filling) for filling in (0.0, 1.0)]
    answers: list[Tensor] = []
    for given in hidden:
        seed_random(len(answers))
        before = random_states()
        with torch.no_grad():
            answer = model.complete(given, known, generator=torch.Generator().manual_seed(0))
        if answer is None:
            return
        if whose := drawn_from(before):
            yield f"it drew from {whose}'s global generator{REMEDIES.get(whose, REMEDY)}"
        answers.append(answer)
    yield from image_violations(answers[0], 5, fixture.shape, "complete()")
    gap = ((answers[0] - images) * known).abs().max().item()
    if gap > SLACK:
        yield f"known pixels differ by up to {gap:.4g}"
    if differs := difference(
        answers[1], answers[0], "with other pixels where none are known, an image"
    ):
        yield differs


CAPABILITY_CONTRACTS = (samples_are_decoded_latents, completions_keep_what_is_known)
