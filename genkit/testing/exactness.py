"""Contracts on likelihoods: in worlds of a few pixels all images are enumerated and weighed.

A model that claims an exact likelihood has a probability for each image, and these sum to 1. A
network in which a value sees itself or a later one has lower losses than any honest one, and gives
itself away here. Weights are random: the contracts hold whatever the weights are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from genkit.compute.device import place
from genkit.contracts.contract import seed_random
from genkit.errors import UsageError
from genkit.model import GenerativeModel, LogLikelihood
from genkit.runs.build import build_model
from genkit.specs import ImageShape, TrainerConfig, TrainerSpec

__tracebackhide__ = True

CPU = torch.device("cpu")
TOLERANCE = 1e-4  # of a sum of probabilities
SAMPLES = 4000
LEAST_EXPECTED = 5.0  # samples in a cell of a chi-square test
LEAST_P = 1e-4
DRAWS = 16  # log-weights per image
MOST_IMAGES = 2**16
AT_ONCE = 4096
# Worlds, from the smallest: channels, height, width, and what must have gone wrong in a world if
# all went well in those before it.
WORLDS = (
    ((1, 1, 1), "a value sees itself: the first layer needs mask A, which hides the pixel's own"),
    ((3, 1, 1), "a colour of a pixel sees itself or a later colour of it"),
    (
        (1, 1, 2),
        "a value sees what is to its right: a map from right to left needs a shift by a row",
    ),
    (
        (1, 1, 3),
        "a value sees what is to its right: a map from right to left needs a shift by a row",
    ),
    ((1, 2, 1), "a value sees what is below it"),
    ((1, 2, 3), "a value sees pixels of the row below: kernels need their padding at the top"),
    ((3, 1, 2), "a value sees later colours of its pixel or the pixel to its right"),
    ((1, 3, 4), "a value sees pixels that come later, some rows down or to the right"),
)


@dataclass(frozen=True)
class World:
    """All images of one small shape, and a model of them with random weights.

    Args:
        levels: values that each value of an image takes.
        suspect: what is wrong if the probabilities do not sum to 1.
        report: what was found, a line for each contract.
    """

    model: GenerativeModel
    shape: ImageShape
    levels: int
    suspect: str
    report: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.shape}, {self.levels} levels"

    @cached_property
    def images(self) -> Tensor:
        """All images, float32 in [-1, 1], (levels ** dimensions, C, H, W). Image i has the digits
        of i in base `levels`, the first value's foremost."""
        numbers = torch.arange(self.levels**self.shape.dimensions)
        digits = numbers[:, None] // self._powers % self.levels
        sides = (self.shape.channels, self.shape.height, self.shape.width)
        return (digits.float() * (2 / (self.levels - 1)) - 1).view(-1, *sides)

    @property
    def _powers(self) -> Tensor:
        return self.levels ** torch.arange(self.shape.dimensions).flip(0)

    def numbers_of(self, images: Tensor) -> Tensor:
        """Which of all images these are, (N,); -1 for one that is between levels."""
        places = (images.flatten(1).double() + 1) / 2 * (self.levels - 1)
        whole = places.round()
        found = (whole.long() * self._powers).sum(1)
        return torch.where((places - whole).abs().amax(1) < 0.01, found, -1)

    @cached_property
    def answer(self) -> LogLikelihood | None:
        """What the model answers for all images: log-weights if it has them."""
        weights = self._ask(lambda images: self.model.log_weights(images, DRAWS))
        return weights or self._ask(self.model.log_likelihood)

    @torch.no_grad()
    def _ask(self, method: Callable[[Tensor], LogLikelihood | None]) -> LogLikelihood | None:
        seed_random(0)
        answers = []
        for part in torch.split(self.images, AT_ONCE // DRAWS):
            answer = method(part)
            if answer is None:
                return None
            answers.append(answer)
        nats = torch.cat([answer.nats.double() for answer in answers], -1)
        return LogLikelihood(nats, answers[0].kind, answers[0].of)

    @property
    def chances(self) -> Tensor | None:
        """The probability of each image, float64, if the model says what that is."""
        if self.answer is None or self.answer.kind != "exact" or self.answer.nats.ndim > 1:
            return None
        return self.answer.nats.exp()


def worlds(spec: TrainerSpec, config: TrainerConfig) -> tuple[list[World], list[str]]:
    """The worlds that a model can be built for, and why there are no others, a line each."""
    found: list[World] = []
    left_out: list[str] = []
    suspects: list[str] = []
    for sides, suspect in WORLDS:
        shape = ImageShape(*sides)
        suspects.append(suspect)
        try:
            model = build_model(spec, config, shape, 0)
        except UsageError as error:
            left_out.append(f"{shape}: {error}")
            continue
        place(model, CPU)
        levels = _levels(model.eval(), shape)
        if levels is None:
            return [], ["there is no likelihood"]
        if isinstance(levels, str):
            left_out.append(f"{shape}: {levels}")
        elif levels**shape.dimensions > MOST_IMAGES:
            left_out.append(f"{shape}: {levels} levels make too many images")
        else:
            randomise(model)
            found.append(World(model, shape, levels, "; or ".join(suspects)))
            suspects.clear()
    return found, left_out


@torch.no_grad()
def _levels(model: GenerativeModel, shape: ImageShape) -> int | str | None:
    """Number of levels that a model's likelihood is about, or why that is not known; None if there
    is no likelihood."""
    seed_random(0)
    grey = torch.rand(2, shape.channels, shape.height, shape.width) * 1.6 - 0.8
    answer = model.log_weights(grey, 1) or model.log_likelihood(grey)
    if answer is None:
        return None
    if number := re.search(r"(\d+) levels", answer.of):
        return int(number[1])
    if re.search("binar|black", answer.of):
        return 2
    return f"a likelihood of {answer.of} has no number of levels"


@torch.no_grad()
def randomise(model: GenerativeModel, strength: float = 1.0) -> None:
    """Add noise to all weights: many a model begins with layers that see nothing."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        spread = strength * (parameter.std(correction=0).item() + 0.2)
        parameter.add_(spread * torch.randn(parameter.shape, generator=generator))


def probabilities_sum_to_one(world: World) -> Iterator[str]:
    """The probabilities of all images must sum to 1, where a likelihood is said to be exact."""
    chances, answer = world.chances, world.answer
    if chances is None or answer is None:
        return
    total = chances.sum().item()
    world.report.append(f"{len(chances):,} images sum to {total:.6f}")
    if abs(total - 1) <= TOLERANCE:
        return
    for unit, factor in (
        ("bits", math.log(2)),
        ("nats per dimension", float(world.shape.dimensions)),
        ("bits per dimension", world.shape.dimensions * math.log(2)),
    ):
        if factor != 1 and abs((answer.nats * factor).exp().sum().item() - 1) <= TOLERANCE:
            yield f"in {unit} they do: the unit must be nats per image"
    if abs((-answer.nats).exp().sum().item() - 1) <= TOLERANCE:
        yield "with the other sign they do: it is ln p, not -ln p"
    yield f"those of {len(chances):,} images sum to {total:.6g}: {world.suspect}"


def samples_follow_the_probabilities(world: World) -> Iterator[str]:
    """Samples must be as frequent as their probabilities say, where a likelihood is exact."""
    if (chances := world.chances) is None:
        return
    seed_random(0)
    with torch.no_grad():
        samples = world.model.sample(SAMPLES, generator=torch.Generator().manual_seed(0))
    yield from _compare(world, samples, chances, "samples")


def completions_follow_the_conditional(world: World) -> Iterator[str]:
    """Completions must be as frequent as the probabilities say, given the first pixels, where a
    likelihood is exact.
    """
    chances, shape = world.chances, world.shape
    if chances is None or shape.height * shape.width < 2:
        return
    known = torch.zeros(1, 1, shape.height, shape.width, dtype=torch.bool)
    known.view(-1)[: shape.height * shape.width // 2] = True
    image = world.images[chances.argmax()]
    given = torch.where(known, image, 0.0).expand(SAMPLES, -1, -1, -1)
    seed_random(0)
    with torch.no_grad():
        completed = world.model.complete(
            given,
            known.expand(SAMPLES, -1, -1, -1),
            generator=torch.Generator().manual_seed(0),
        )
    if completed is None:
        return
    possible = ((world.images == image) | ~known).flatten(1).all(1)
    conditional = torch.where(possible, chances, 0.0)
    yield from _compare(world, completed, conditional / conditional.sum(), "completions")


def bounds_are_bounds(world: World) -> Iterator[str]:
    """What a bound says of all images must not sum to more than 1, as their probabilities do."""
    answer = world.answer
    if answer is None or world.chances is not None:
        return
    weights = answer.nats.exp()
    error = 0.0
    if weights.ndim > 1:  # importance weights, whose mean is the probability
        error = math.sqrt(weights.var(0).sum().item() / len(weights))
        weights = weights.mean(0)
    total = weights.sum().item()
    world.report.append(f"bounds of {len(weights):,} images sum to {total:.4f} (error {error:.2g})")
    if total - 5 * error > 1 + TOLERANCE:
        yield f"those of {len(weights):,} images sum to {total:.6g}, with an error of {error:.2g}"


def _compare(world: World, images: Tensor, chances: Tensor, what: str) -> Iterator[str]:
    """How often images were drawn against how often they should be."""
    numbers = world.numbers_of(images)
    if (numbers < 0).any():
        yield f"{what} have values between the {world.levels} levels that the likelihood is of"
        return
    counts = torch.bincount(numbers, minlength=len(chances)).double()
    impossible = int(counts[chances == 0].sum())
    if impossible:
        yield f"{impossible:,} of {SAMPLES:,} {what} have probability 0"
    p, cells = chi_square(counts, chances)
    world.report.append(f"{SAMPLES:,} {what}: chi-square over {cells} cells, p = {p:.3g}")
    if p < LEAST_P:
        yield (
            f"of {SAMPLES:,} {what} a chi-square test over {cells} cells gives p = {p:.2g}: their "
            "likelihood is that of another distribution"
        )


def chi_square(counts: Tensor, chances: Tensor) -> tuple[float, int]:
    """p of Pearson's test that counts, (K,), come from probabilities, (K,), and its number of
    cells: neighbours in the order of their probability share one until enough are expected."""
    expected, order = (chances * counts.sum()).sort(descending=True)
    observed = counts[order]
    cells, start = [], 0.0
    for cell, end in enumerate(expected.cumsum(0).tolist()):
        if end - start >= LEAST_EXPECTED:
            cells.append(cell)
            start = end
    if len(cells) < 2:
        return 1.0, len(cells)
    cells[-1] = len(expected) - 1  # the last cell takes what is left
    edges = torch.tensor(cells)
    zero = torch.zeros(1, dtype=torch.float64)
    seen, meant = (values.cumsum(0)[edges].diff(prepend=zero) for values in (observed, expected))
    statistic = ((seen - meant).square() / meant).sum()
    freedom = torch.tensor((len(cells) - 1) / 2, dtype=torch.float64)
    return torch.special.gammaincc(freedom, statistic / 2).item(), len(cells)


LIKELIHOOD_CONTRACTS: Sequence[Callable[[Any], Iterator[str]]] = (
    probabilities_sum_to_one,
    samples_follow_the_probabilities,
    completions_follow_the_conditional,
    bounds_are_bounds,
)
