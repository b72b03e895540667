"""The contracts of what users choose beside training: classes, and options of the sampler."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import torch
from pydantic import ValidationError
from torch import Tensor

from genkit.contracts.contract import CLASSES, Violations, difference
from genkit.contracts.images import image_violations
from genkit.data import Split
from genkit.errors import PluginError, UsageError
from genkit.sampling.draw import draw
from genkit.specs import SamplerConfig
from genkit.testing.exactness import randomise
from genkit.testing.fixture import ModelFixture, reread, run

__tracebackhide__ = True

OTHER_VALUES = (0.5, 2.0, 0.0, 1.0, 3)  # that may be within the range of a sampler's option
COUNTS = (64, 512)  # samples of each class; the second where the first do not tell classes apart
ERRORS = 7
STRENGTHS = (1.0, 5.0, 0.3, 0.1)  # of random weights: weak labels show at 5, where others saturate


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
    """Samples of a model by class must follow their labels: those of another class must differ in
    distribution. Without labels it must draw all classes in turn.
    """
    if not (chosen := by_class(fixture)):
        return
    alike, equal = set(range(1, len(CLASSES))), set(range(1, len(CLASSES)))
    for count, strength in product(COUNTS, STRENGTHS):
        model = chosen.build(classes=len(CLASSES)).eval()
        randomise(model, strength)  # many a model begins with all classes alike
        try:
            first, *rest = (draw(model, count, seed=0, labels=k) for k in range(len(CLASSES)))
        except PluginError:
            if strength > 1:
                continue  # many steps with large weights overflow
            raise
        for label, others in enumerate(rest, 1):
            if not torch.equal(first, others):
                equal.discard(label)
            if differ_in_distribution(first, others):
                alike.discard(label)
        if not alike:
            break
    for label in sorted(alike):
        if label in equal:
            yield f"with random weights, samples of class {label} are those of class 0"
        yield (
            f"with random weights, {COUNTS[-1]} samples of class {label} differ from those of "
            "class 0 only as samples of other seeds do"
        )
    with torch.no_grad():
        images = model.sample(3, generator=torch.Generator().manual_seed(0))
    yield from image_violations(images, 3, fixture.shape, "sample(3) without labels")


def differ_in_distribution(first: Tensor, others: Tensor) -> bool:
    """Whether the mean or the mean square of some pixel differs between two classes by more than
    `ERRORS` standard errors, in images of the same noise, uint8 (n, C, H, W) each.

    Where labels merely choose another noise, either of a pair may be the larger one, and 64 pairs
    give 7 errors about once in a billion pixels.
    """
    one, other = (images.flatten(1).double() / 127.5 - 1 for images in (first, others))
    for gaps in (one - other, one**2 - other**2):
        errors = gaps.std(0) / math.sqrt(len(gaps))
        if bool((gaps.mean(0).abs() > ERRORS * errors + 1e-9).any()):
            return True
    return False


def labels_change_training(fixture: ModelFixture) -> Violations:
    """A training by class must depend on the labels of its images."""
    if not (chosen := by_class(fixture)):
        return
    images, labels = chosen.split.images, chosen.split.labels
    assert labels is not None
    moved = replace(chosen, split=Split(images, (labels + 1) % len(CLASSES)))
    steps = sum(fixture.before_and_after)
    whole, other = (run(f.loop(labelled=True), steps).state_dict() for f in (chosen, moved))
    if difference(other, whole) is None:
        yield "other labels gave the same weights"


def wrong_labels_are_refused(fixture: ModelFixture) -> Violations:
    """A model by class must refuse labels of no class, too many or too few of them, and those on
    another device, with a UsageError, as `self.choose_labels(labels, n)` does.
    """
    if not (chosen := by_class(fixture)):
        return
    model, classes = chosen.build(classes=len(CLASSES)).eval(), len(CLASSES)
    for what, labels in (
        (f"up to {classes} of {classes} classes", torch.tensor([0, 1, classes])),
        ("from -1", torch.tensor([-1, 0, 1])),
        ("of 1 image", torch.tensor([1])),
        ("of 4 images", torch.tensor([0, 1, 2, 3])),
        ("on another device", torch.tensor([0, 1, 2], device="meta")),
    ):
        try:
            with torch.no_grad():
                model.sample(3, labels, generator=torch.Generator().manual_seed(0))
        except UsageError:
            continue
        except Exception as error:
            yield f"sample(3) with labels {what} raised {type(error).__name__}: {error}"
        yield f"sample(3) took labels {what}"


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
    wrong_labels_are_refused,
    labels_change_training,
    training_by_class_is_exact,
    sampler_changes_no_training,
)
