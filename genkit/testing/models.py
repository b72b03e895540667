"""The contracts of a model in training: options, phases, losses."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from genkit.compute.seeds import seed_generators
from genkit.config.options import check_trainer_options
from genkit.config.resolve import resolve
from genkit.config.validation import to_json, validate
from genkit.contracts.contract import Violations, difference, white_squares
from genkit.contracts.model import (
    BUILDING_CONTRACTS,
    LOSS_CONTRACTS,
    losses_are_finite,
    parameters_of,
)
from genkit.errors import UsageError
from genkit.model import Batch, Phase
from genkit.phases.rates import schedule_of
from genkit.sampling.draw import draw
from genkit.specs import ImageShape
from genkit.testing.fixture import BEFORE, CPU, LEARNING_STEPS, ModelFixture, reread, run
from genkit.testing.specs import SPEC_CONTRACTS, Subject
from genkit.training.loop import Loop

__tracebackhide__ = True

ODD_SHAPES = (ImageShape(1, 9, 13), ImageShape(3, 2, 1))


def options_fit_the_command_line(subject: Subject) -> Violations:
    """Every option must be one that the command line can take, beside a run's own."""
    check_trainer_options(subject.spec)
    yield from ()


def presets_are_valid(fixture: ModelFixture) -> Violations:
    """Every preset must hold values that the config takes."""
    for preset in {"full", *fixture.spec.presets}:
        resolve(fixture.spec, preset=preset)
    yield from ()


def config_survives_files(fixture: ModelFixture) -> Violations:
    """The config must come back unchanged from JSON, as in a run's config.json, and from TOML."""
    values = to_json(fixture.config)
    table = {name: value for name, value in values.items() if value is not None}
    lines = [f"{name} = {json.dumps(v, ensure_ascii=False)}" for name, v in table.items()]
    for kind, read in (
        ("JSON", json.loads(json.dumps(values))),
        ("TOML", tomllib.loads("\n".join(lines))),
    ):
        back = to_json(validate(type(fixture.config), read, f"from {kind}: ", strict=True))
        if differs := difference(back, values):
            yield f"after {kind}, {differs}"


def odd_shapes_are_refused_or_work(fixture: ModelFixture) -> Violations:
    """A shape that was not refused with a UsageError must train and sample."""
    for shape in ODD_SHAPES:
        odd = ModelFixture(
            fixture.spec, fixture.config, shape, white_squares(len(fixture.split.images), shape)
        )
        try:
            loop = odd.loop()
        except UsageError:
            continue
        except Exception as error:
            yield f"{shape} was neither refused nor built: {type(error).__name__}: {error}"
        try:
            draw(run(loop, 1).average, 1, seed=0)
        except Exception as error:
            yield f"{shape} was built, and then came {type(error).__name__}: {error}"


def shape_is_refused_or_built(fixture: ModelFixture) -> Violations:
    """A shape that the model cannot take must be refused with a UsageError when it is built."""
    fixture.build()
    yield from ()


def schedules_are_factors(fixture: ModelFixture) -> Violations:
    """A schedule must give a finite factor of at least 0 for every step."""
    for phase in fixture.planned()[1]:
        schedule = schedule_of(phase)
        for step, progress in ((0, 0.0), (1, 0.5), (1000, 1.0)):
            factor = schedule(step, progress) if schedule else 1.0
            if not isinstance(factor, Mapping) and not 0 <= factor < math.inf:
                yield f"the schedule of {phase.name!r} gives {factor} at step {step}"


def labels_may_be_none(fixture: ModelFixture) -> Violations:
    """A loss must do without labels, which are None where the data has no classes."""
    batch = fixture.batch()
    for phase in fixture.planned()[1]:
        try:
            phase.loss(batch)
        except Exception as error:
            try:
                labelled = fixture.loop(labelled=True)
                labelled.iterate()
            except Exception:
                return  # labels are not the reason
            words = f"{type(error).__name__}: {error}"
            yield f"labels were None, and the loss of {phase.name!r} failed with {words}"


def state_is_plain(fixture: ModelFixture) -> Violations:
    """The training state must hold only tensors, and beside the model's plain values: numbers,
    text, dicts, lists.
    """
    loop = fixture.loop()
    loop.iterate()
    state = loop.state_dict()
    for name, value in state["model"].items():
        if not isinstance(value, Tensor):
            yield f"{name!r} of the model is a {type(value).__name__}"
    if differs := difference(reread(state), state):
        yield differs


def phases_change_only_their_own(fixture: ModelFixture) -> Violations:
    """A phase must change parameters of its optimizer, and none that other phases train."""
    loop = fixture.loop()
    trainable = {n: p for n, p in loop.model.named_parameters() if p.requires_grad}
    held = {phase.name: {id(p) for p in parameters_of(phase)} for phase in loop.phases}
    states: list[tuple[str, dict[str, Tensor]]] = []  # before each call of a loss, and at the end

    def look(phase: str) -> None:
        states.append((phase, {name: p.detach().clone() for name, p in trainable.items()}))

    def watch(phase: Phase) -> None:
        loss = phase.loss

        def watched(batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
            look(phase.name)
            return loss(batch)

        phase.loss = watched

    for phase in loop.phases:
        watch(phase)
    run(loop, BEFORE)
    look("")
    idle = dict.fromkeys(held, True)
    for (name, before), (_, after) in pairwise(states):
        changed = [own for own in trainable if not torch.equal(before[own], after[own])]
        for own in changed:
            if id(trainable[own]) not in held[name]:
                yield f"{name!r} changed {own!r}, which is not in its optimizer"
        idle[name] = idle[name] and not changed
    for name in idle:
        if idle[name]:
            yield f"{name!r} changed nothing in {BEFORE} iterations"


def training_lowers_the_loss(fixture: ModelFixture) -> Violations:
    """Training on easy images must lower the loss, or keep several losses finite."""
    trained, fresh = fixture.trained, fixture.loop()
    if len(trained.phases) > 1:
        return
    before, after = _mean_loss(fresh), _mean_loss(trained)
    if not after < before:
        yield f"from {before:.4g} it went to {after:.4g} in {LEARNING_STEPS} iterations"


def trouble_is_one_line(fixture: ModelFixture) -> Violations:
    """trouble(history) must answer None, or one line of text, whatever the log holds by then: none
    of a name's values, one, or many, also when training goes well.
    """
    loop = fixture.loop()
    names = list(loop.iterate())
    for count in (0, 1, 100):
        history = {name: [0.5] * count for name in names} if count else {}
        answer = loop.model.trouble(history)
        if answer is not None and (not isinstance(answer, str) or len(answer.splitlines()) != 1):
            yield f"of {count} values of each name it answers {answer!r:.80}"


def _mean_loss(loop: Loop) -> float:
    """The mean loss of the first phase over 8 batches; the noise is a function of the batch."""
    losses = []
    for number in range(8):
        seed_generators(CPU, number)
        losses.append(loop.phases[0].loss(loop.stream.batch(number))[0].item())
    return sum(losses) / len(losses)


OPTION_CONTRACTS = (options_fit_the_command_line, *SPEC_CONTRACTS)
CONFIG_CONTRACTS = (presets_are_valid, config_survives_files)
TRAINING_CONTRACTS = (
    shape_is_refused_or_built,
    *BUILDING_CONTRACTS,
    schedules_are_factors,
    labels_may_be_none,
    *LOSS_CONTRACTS,
    losses_are_finite,
    state_is_plain,
    phases_change_only_their_own,
    training_lowers_the_loss,
    trouble_is_one_line,
)
