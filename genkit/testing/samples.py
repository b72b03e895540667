"""The contracts of a trained model: seeded samples, exact resuming, likelihoods."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from genkit.contracts.contract import (
    CLASSES,
    Violations,
    difference,
    drawn_from,
    random_states,
    seed_random,
    unsaved,
)
from genkit.contracts.images import (
    REMEDIES,
    REMEDY,
    SLACK,
    image_violations,
    unit_range_violations,
)
from genkit.evaluation.likelihood import measure_likelihood
from genkit.model import LogLikelihood
from genkit.runs import checkpoint
from genkit.sampling.completion import known_half
from genkit.sampling.draw import draw
from genkit.testing.fixture import LEARNING_STEPS, ModelFixture, reread, run

__tracebackhide__ = True

DRAWS = 3  # log-weights per image


def samples_are_images(fixture: ModelFixture) -> Violations:
    """Samples must be finite floats in [-1, 1], (n, C, H, W), for any n and without labels."""
    for n in (1, 5):
        yield from image_violations(fixture.sample(n), n, fixture.shape, f"sample({n})")


def black_is_minus_one(fixture: ModelFixture) -> Violations:
    """Black must be -1 in samples, not 0: where most of the training images is black, some of a
    sample must be below 0.
    """
    yield from unit_range_violations(fixture.sample(8), fixture.split)


def samples_follow_from_the_generator(fixture: ModelFixture) -> Violations:
    """Equal generators must give equal samples, whatever the global ones of torch, numpy and
    Python do, which sampling must leave alone.
    """
    seed_random(0)
    before = random_states()
    first = fixture.sample(4, seed=0, others=0)
    if whose := drawn_from(before):
        yield f"sampling drew from {whose}'s global generator{REMEDIES.get(whose, REMEDY)}"
    if differs := difference(fixture.sample(4, seed=0, others=0), first, "a second sample"):
        yield f"{differs}{REMEDY}"
    if differs := difference(
        fixture.sample(4, seed=0, others=1), first, "under other global seeds it"
    ):
        yield differs


def other_seeds_give_other_samples(fixture: ModelFixture) -> Violations:
    """Other generators must give other samples."""
    if torch.equal(fixture.sample(8, seed=0), fixture.sample(8, seed=1)):
        yield "8 samples of seed 1 are those of seed 0"


def sample_i_is_the_same_at_any_n(fixture: ModelFixture) -> Violations:
    """Sample i must be the same whatever n is."""
    more = draw(fixture.trained.average, 8, seed=0)
    for i, (one, other) in enumerate(zip(fixture.drawn, more, strict=False)):
        if differs := difference(one, other, f"image {i} of 5"):
            yield f"{differs} levels from image {i} of 8"


def labels_are_optional(fixture: ModelFixture) -> Violations:
    """Labelled and unlabelled data must both work: losses with labels or None, samples with or
    without.
    """
    loop = run(fixture.loop(labelled=True), 2)
    model = loop.average
    for labels in (None, torch.arange(len(CLASSES))):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            images = model.sample(len(CLASSES), labels, generator=generator)
        given = "None" if labels is None else "0 to 3"
        yield from image_violations(
            images, len(CLASSES), fixture.shape, f"with labels {given}, sample()"
        )


def training_follows_from_the_seed(fixture: ModelFixture) -> Violations:
    """Two trainings of one seed must give the same weights to the last bit."""
    again = run(fixture.loop(), sum(fixture.before_and_after))
    if differs := difference(again.state_dict(), fixture.uninterrupted):
        yield differs


def sampling_leaves_training_as_it_was(fixture: ModelFixture) -> Violations:
    """Sampling, reconstructing, completing and likelihoods between iterations must not change
    training.
    """
    before, after = fixture.before_and_after
    loop = run(fixture.loop(), before)
    draw(loop.model, 1, seed=0)
    measure_likelihood(loop.model, torch.from_numpy(fixture.split.images[:2]), draws=1)
    model, generator = loop.model.eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.reconstruct(fixture.images(2))
        known = known_half(fixture.shape).expand(2, -1, -1, -1)
        model.complete(fixture.images(2), known, generator=generator)
    model.train()
    run(loop, after)
    if differs := difference(loop.state_dict(), fixture.uninterrupted):
        yield differs


def resuming_is_exact(fixture: ModelFixture) -> Violations:
    """A resumed training must equal an uninterrupted one to the last bit."""
    before, after = fixture.before_and_after
    state = reread(run(fixture.loop(), before).state_dict())
    loop = fixture.loop(seed=1)
    loop.load_state_dict(state)
    run(loop, after)
    if differs := difference(loop.state_dict(), fixture.uninterrupted):
        hint = unsaved(loop.model, fixture.build())
        yield f"{after} iterations later, {differs}{hint}"


def file_of_weights_is_enough_to_sample(fixture: ModelFixture) -> Violations:
    """A new model with the averaged weights of a file must draw the same samples."""
    copy = fixture.build(seed=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        checkpoint.save_weights(path, fixture.trained.average, {})
        checkpoint.load_weights(path, copy)
    if differs := difference(draw(copy, 5, seed=0), fixture.drawn, "a sample"):
        yield f"{differs} levels{unsaved(fixture.trained.average, copy)}"


def bf16_is_finite(fixture: ModelFixture) -> Violations:
    """Losses must stay finite under bf16 autocast."""
    run(fixture.loop(precision="bf16"), 3)
    yield from ()


def likelihoods_are_consistent(fixture: ModelFixture) -> Violations:
    """The log_likelihood must be a finite value per image, the same for the same seed, and if it is
    exact, whatever images are beside it.
    """
    model = fixture.trained.average.eval()
    images = fixture.images(6)
    answers = [_ask(model.log_likelihood, images) for _ in range(2)]
    if answers[0] is None:
        return
    yield from _likelihood_violations(answers[0], (6,))
    if differs := difference(answers[1].nats, answers[0].nats, "a second answer"):
        yield differs
    if answers[0].kind == "exact":
        parts = (_ask(model.log_likelihood, part) for part in (images[:2], images[2:]))
        alone = torch.cat([part.nats for part in parts])
        if not torch.allclose(alone, answers[0].nats, rtol=1e-4, atol=1e-3):
            gap = (alone - answers[0].nats).abs().max().item()
            yield f"in batches of 2 and 4 it differs by up to {gap:.2g} nats from one of 6"
    if (most := answers[0].nats.max().item()) > SLACK:
        yield f"{most:.4g} nats are a probability above 1; it is ln p(image), in nats per image"


def training_raises_the_likelihood(fixture: ModelFixture) -> Violations:
    """Training on easy images must raise their likelihood, where there is one and one loss."""
    images, nats = fixture.images(16), []
    for model in (fixture.build().eval(), fixture.trained.average.eval()):
        answer = _ask(model.log_weights, images, DRAWS) or _ask(model.log_likelihood, images)
        if answer is None or len(fixture.trained.phases) > 1:
            return
        nats.append(answer.nats.mean().item())
    if not nats[1] > nats[0]:
        yield f"from {nats[0]:.5g} nats it went to {nats[1]:.5g} in {LEARNING_STEPS} iterations"


def log_weights_are_consistent(fixture: ModelFixture) -> Violations:
    """The log_weights must be a finite value per draw and image, the same for the same seed."""
    model = fixture.trained.average.eval()
    images = fixture.images(6)
    answers = [_ask(model.log_weights, images, DRAWS) for _ in range(2)]
    if answers[0] is None:
        return
    yield from _likelihood_violations(answers[0], (DRAWS, 6))
    if differs := difference(answers[1].nats, answers[0].nats, "a second answer"):
        yield differs


def reconstructions_are_images(fixture: ModelFixture) -> Violations:
    """What reconstruct() gives must be images in [-1, 1] of the shape of those it got."""
    with torch.no_grad():
        again = fixture.trained.average.eval().reconstruct(fixture.images(5))
    if again is not None:
        yield from image_violations(again, 5, fixture.shape, "reconstruct()")


def _likelihood_violations(answer: Any, shape: tuple[int, ...]) -> Violations:
    """Why an answer is not a LogLikelihood with `nats` of that shape."""
    if not isinstance(answer, LogLikelihood):
        yield f"it gave {type(answer).__name__}, not LogLikelihood"
    if tuple(answer.nats.shape) != shape:
        yield f"nats are {tuple(answer.nats.shape)}, not {shape}"
    if not answer.nats.isfinite().all():
        yield "nats are not finite"
    if answer.kind not in ("exact", "bound"):
        yield f"its kind is {answer.kind!r}, not 'exact' or 'bound'"
    if not isinstance(answer.of, str) or not answer.of:
        yield f"`of` does not name what was measured: {answer.of!r}"


@torch.no_grad()
def _ask(method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method that may draw from the global generators, always seeded alike."""
    seed_random(0)
    return method(*arguments)


SAMPLE_CONTRACTS = (
    samples_are_images,
    black_is_minus_one,
    samples_follow_from_the_generator,
    other_seeds_give_other_samples,
    sample_i_is_the_same_at_any_n,
    labels_are_optional,
    training_follows_from_the_seed,
    resuming_is_exact,
    file_of_weights_is_enough_to_sample,
    bf16_is_finite,
    likelihoods_are_consistent,
    log_weights_are_consistent,
    training_raises_the_likelihood,
    reconstructions_are_images,
    sampling_leaves_training_as_it_was,
)
