"""The contracts of what users choose beside training: classes, and options of the sampler."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import ValidationError

from genkit.contracts.contract import CLASSES, Violations, difference
from genkit.contracts.images import image_violations
from genkit.errors import UsageError
from genkit.sampling.draw import draw
from genkit.specs import SamplerConfig
from genkit.testing.exactness import randomise
from genkit.testing.fixture import ModelFixture, reread, run

__tracebackhide__ = True

OTHER_VALUES = (0.5, 2.0, 0.0, 1.0, 3)  # that may be within the range of a sampler's option
STRENGTHS = (1.0, 0.3, 0.1)  # of random weights: strong ones may make all pixels black or white


def by_class(fixture: ModelFixture) -> ModelFixture | None:
    """The same with the option `conditional` set; None for models that have none."""
    if fixture.spec.config.model_fields.get("conditional") is None:
        return None
    config = fixture.config.model_copy(update={"conditional": True})
    return replace(fixture, config=config)


def models_by_class_need_classes(fixture: ModelFixture) -> Violations:
    """With its option `conditional` a model must set self.conditional = True, and refuse data
    without classes with a UsageError.
    """
    if not (chosen := by_class(fixture)):
        return
    if not chosen.build(classes=len(CLASSES)).conditional:
        yield "self.conditional is False"
    try:
        chosen.build()
    except UsageError:
        return
    yield "a model of images without classes was built"


def samples_follow_labels(fixture: ModelFixture) -> Violations:
    """Samples of a model by class must follow their labels: of the same noise, those of another
    class must be others. Without labels it must draw all classes in turn.
    """
    if not (chosen := by_class(fixture)):
        return
    alike = set(range(1, len(CLASSES)))
    for strength in STRENGTHS:
        model = chosen.build(classes=len(CLASSES)).eval()
        randomise(model, strength)  # many a model begins with all classes alike
        first = draw(model, 8, seed=0, labels=0)
        alike = {k for k in alike if torch.equal(first, draw(model, 8, seed=0, labels=k))}
        if not alike:
            break
    for label in sorted(alike):
        yield f"with random weights, samples of class {label} are those of class 0"
    with torch.no_grad():
        images = model.sample(3, generator=torch.Generator().manual_seed(0))
    yield from image_violations(images, 3, fixture.shape, "sample(3) without labels")


def training_by_class_is_exact(fixture: ModelFixture) -> Violations:
    """A training by class must follow from its seed, and resume, to the last bit."""
    if not (chosen := by_class(fixture)):
        return
    before, after = fixture.before_and_after
    whole = run(chosen.loop(labelled=True), before + after).state_dict()
    state = reread(run(chosen.loop(labelled=True), before).state_dict())
    resumed = chosen.loop(seed=1, labelled=True)
    resumed.load_state_dict(state)
    if differs := difference(run(resumed, after).state_dict(), whole):
        yield f"{after} iterations after resuming, {differs}"


def sampler_changes_no_training(fixture: ModelFixture) -> Violations:
    """Options of the sampler must change nothing in training."""
    for name in fixture.spec.sampler.model_fields:
        for sampler in _others(fixture, name):
            loop = fixture.loop()
            for model in {loop.model, loop.average}:
                model.sampler = sampler
            state = run(loop, sum(fixture.before_and_after)).state_dict()
            if differs := difference(state, fixture.uninterrupted):
                yield f"with {name} {getattr(sampler, name)!r}, {differs}"


def _others(fixture: ModelFixture, name: str) -> list[SamplerConfig]:
    """The sampler's options with another value for one of them, if one can be guessed."""
    plain = fixture.spec.sampler()
    values = [True, False] if isinstance(getattr(plain, name), bool) else OTHER_VALUES
    for value in values:
        try:
            found = fixture.spec.sampler.model_validate({name: value})
        except ValidationError:
            continue
        if found != plain:
            return [found]
    return []


CHOICE_CONTRACTS = (
    models_by_class_need_classes,
    samples_follow_labels,
    training_by_class_is_exact,
    sampler_changes_no_training,
)
