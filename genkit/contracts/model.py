"""The contracts of a new model that take no training: weights, phases, losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from genkit.compute.seeds import seed_generators
from genkit.contracts.contract import Violations, inside, seed_random
from genkit.errors import plugin_code
from genkit.model import Batch, GenerativeModel, Phase
from genkit.runs.build import FrozenRuns, make_model
from genkit.specs import ImageShape, TrainerConfig, TrainerSpec

__tracebackhide__ = True

SEED = 987654321  # one that no model gives to the generators by itself


class Subject(Protocol):
    """A model that can be made, and a batch that it can be tried on."""

    @property
    def spec(self) -> TrainerSpec: ...

    @property
    def config(self) -> TrainerConfig: ...

    @property
    def shape(self) -> ImageShape: ...

    def build(self, seed: int = 0) -> GenerativeModel:
        """A model as a run makes it."""

    def planned(self) -> tuple[GenerativeModel, list[Phase]]:
        """Such a model and its phases."""

    def batch(self) -> Batch:
        """The first training images."""


def train_and_eval_return_the_model(subject: Subject) -> Violations:
    """The model must change between train() and eval() and return itself."""
    model = subject.build()
    for mode in (False, True):
        answer = model.train(mode)
        if answer is not model or model.training != mode:
            yield f"train({mode}) returned {type(answer).__name__}, training is {model.training}"


def layers_are_registered(subject: Subject) -> Violations:
    """Layers and parameters must be registered: in an nn.ModuleList, say, not in a list."""
    model = subject.build()
    known = {id(parameter) for parameter in model.parameters()}
    for module in model.modules():
        for name, value in vars(module).items():
            for part in inside(value):
                held = part.parameters() if isinstance(part, nn.Module) else [part]
                for found in held:  # frozen ones need no checkpoint
                    trainable = isinstance(found, nn.Parameter) and found.requires_grad
                    if trainable and id(found) not in known:
                        yield f"{name!r} holds a {type(part).__name__} that training never sees"


def other_runs_are_no_layers(subject: Subject) -> Violations:
    """A run that frozen() opens must not be made a layer: it would be averaged and saved, too."""
    model = subject.build()
    opened = model.frozen_runs.opened if isinstance(model.frozen_runs, FrozenRuns) else {}
    for name, layer in model.named_modules():
        if any(layer is other for other in opened.values()):
            yield f"{name!r} is one: call frozen() where it is used"


def parameters_are_float32(subject: Subject) -> Violations:
    """Parameters must be float32: bf16 comes by autocast, and some devices take no float64."""
    for name, parameter in subject.build().named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            yield f"{name!r} is {parameter.dtype}; call float() on what comes from numpy"


def weights_follow_from_the_seed(subject: Subject) -> Violations:
    """The first weights must follow from the run's seed: building a model must not seed torch's
    global generator.
    """
    seed_random(SEED)
    make_model(subject.spec, subject.config, subject.shape)
    if torch.initial_seed() != SEED:
        yield (
            f"it seeds the generator with {torch.initial_seed()}, so that every --seed begins with "
            "the same weights: leave torch.manual_seed() out"
        )


def phases_are_well_formed(subject: Subject) -> Violations:
    """The phases must have names of their own and optimizers that hold all of the model's
    trainable parameters and nothing else.
    """
    model, phases = subject.planned()
    if not isinstance(phases, list) or not all(isinstance(phase, Phase) for phase in phases):
        yield f"phases() returned {phases!r:.80}, not a list of Phase"
    names = [phase.name for phase in phases]
    if not phases or len(set(names)) != len(names):
        yield f"their names are {names}"
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    owners: dict[int, Phase] = {}
    for phase in phases:
        if phase.repeats < 1 or phase.every < 1:
            yield f"{phase.name!r} has repeats {phase.repeats}, every {phase.every}: at least 1"
        for parameter in parameters_of(phase):
            if id(parameter) not in own:
                yield f"{phase.name!r} holds a {tuple(parameter.shape)} that is not the model's"
            owner = owners.setdefault(id(parameter), phase)
            if owner.optimizer is not phase.optimizer:
                yield (
                    f"{own[id(parameter)]!r} is in the optimizers of both {owner.name!r} and "
                    f"{phase.name!r}: give each the parameters that it alone is to train"
                )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in owners:
            yield f"{name!r} is in none; if nothing trains it, set its requires_grad to False"


def losses_are_scalars(subject: Subject) -> Violations:
    """A loss must return a scalar with a gradient, and scalar tensors to log, and must leave the
    batch's images and all gradients as they are.
    """
    model, phases = subject.planned()
    batch = subject.batch()
    before = batch.images.clone()
    for phase in phases:
        with others_frozen(model, phase), plugin_code(f"the loss of phase {phase.name!r}"):
            answer = phase.loss(batch)
        if not isinstance(answer, tuple) or len(answer) != 2:
            yield f"{phase.name!r} returned {type(answer).__name__}, not (loss, extras)"
        loss, extras = answer
        if not isinstance(extras, Mapping):
            yield f"{phase.name!r} returned extras of type {type(extras).__name__}, not a mapping"
        for name, value in {"loss": loss, **extras}.items():
            if not isinstance(value, Tensor) or value.ndim:
                what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                yield f"{name!r} of {phase.name!r} is {what}, not a scalar tensor"
        if not loss.requires_grad:
            yield f"the loss of {phase.name!r} has no gradient{_why_none(phases, phase, batch)}"
        if not torch.equal(batch.images, before):
            yield f"{phase.name!r} changed the images in place"
        if any(parameter.grad is not None for parameter in model.parameters()):
            yield f"{phase.name!r} calls backward(), which the loop does, as it steps optimizers"


def losses_are_finite(subject: Subject) -> Violations:
    """A loss, its gradient and what it logs must be finite."""
    model, phases = subject.planned()
    batch = subject.batch()
    for phase in phases:
        with others_frozen(model, phase):
            loss, extras = phase.loss(batch)
        for name, value in {"loss": loss, **extras}.items():
            if not value.isfinite():
                yield f"{name!r} of {phase.name!r} is {value.item()}"
        own = [parameter for parameter in parameters_of(phase) if parameter.requires_grad]
        for gradient in torch.autograd.grad(loss, own, allow_unused=True):
            if gradient is not None and not gradient.isfinite().all():
                yield f"the loss of {phase.name!r} is {loss.item():.4g}, its gradient is not finite"


def noise_follows_from_the_step(subject: Subject) -> Violations:
    """The noise of a loss must follow from the run's seed and the step: a loss must not seed
    torch's global generator.
    """
    model, phases = subject.planned()
    batch = subject.batch()
    for phase in phases:
        seed_generators(batch.images.device, SEED)
        with others_frozen(model, phase):
            phase.loss(batch)
        if torch.initial_seed() != SEED:
            yield (
                f"the loss of {phase.name!r} seeds the generator with {torch.initial_seed()}, so "
                "that its noise is the same in every step: leave torch.manual_seed() out"
            )


def parameters_of(phase: Phase) -> list[Tensor]:
    """The parameters of a phase's optimizer."""
    return [p for group in phase.optimizer.param_groups for p in group["params"]]


@contextmanager
def others_frozen(model: GenerativeModel, phase: Phase) -> Iterator[None]:
    """Freeze the parameters that are not the phase's own, as the loop does."""
    own = {id(parameter) for parameter in parameters_of(phase)}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _why_none(phases: Sequence[Phase], phase: Phase, batch: Batch) -> str:
    """A hint at why a loss has no gradient: it may use what an earlier phase left in the batch."""
    left = [name for name, value in batch.shared.items() if isinstance(value, Tensor)]
    if phases.index(phase) == 0 or not left:
        return ": nothing that its optimizer holds is in it"
    return (
        f": what an earlier phase left in batch.shared ({', '.join(map(repr, left))}) has none for "
        f"what {phase.name!r} trains; compute it again in this loss"
    )


BUILDING_CONTRACTS = (
    train_and_eval_return_the_model,
    layers_are_registered,
    other_runs_are_no_layers,
    parameters_are_float32,
    weights_follow_from_the_seed,
    phases_are_well_formed,
)
LOSS_CONTRACTS = (losses_are_scalars, noise_follows_from_the_step)
