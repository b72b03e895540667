"""Budgets in floating-point operations, against counting by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toys import (
    CPU,
    SHAPE,
    TINY,
    Denoiser,
    bright_squares,
    make_stream,
    random_images,
    registry,
    same_bits,
    train_tiny,
    write_npz,
)

from genkit.compute.ranks import ALONE
from genkit.config.budget import Budget
from genkit.config.resolve import resolve
from genkit.config.run import RunConfig
from genkit.data import ImageData, Split
from genkit.errors import UsageError
from genkit.io.run_directory import RunDir
from genkit.model import GenerativeModel, Phase
from genkit.runs.build import build_model
from genkit.runs.checkpoint import load_state
from genkit.specs import ImageShape
from genkit.training import flop
from genkit.training.resume import resume
from genkit.training.stream import Stream
from genkit_dcgan import DCGANConfig
from genkit_dcgan.model import DCGAN

LAYERS = (2 * 64 * 16, 2 * 16 * 64)  # of Denoiser, multiplications and additions
FORWARD = sum(LAYERS)
BACKWARD = 2 * FORWARD - LAYERS[0]  # nobody asks for the gradient of the first layer's input
ONCE = FORWARD + BACKWARD


def counting(model: GenerativeModel) -> flop.CountingLoop:
    return flop.CountingLoop(model, make_stream(), seed=0)


def phase_of(model: Denoiser, **options: Any) -> Phase:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return Phase(loss=model.loss, optimizer=optimizer, **options)


@pytest.mark.parametrize(
    ("phase", "share"),
    [({}, 1), ({"every": 4}, 1 / 4), ({"repeats": 3}, 1), ({"active": (0.0, 0.5)}, 1 / 2)],
)
def test_a_phase_counts_as_often_as_it_runs(phase: dict[str, object], share: float) -> None:
    """With `repeats`, an iteration sees as many batches."""
    model = Denoiser(**phase)
    if "active" in phase:  # some phase must be active at any time
        model.phases = lambda: [  # type: ignore[method-assign]
            phase_of(model, name="a", active=(0.0, 0.5)),
            phase_of(model, name="b", active=(0.5, 1.0)),
        ]
        share = 1
    assert flop.flop_per_image(counting(model)) == pytest.approx(share * ONCE)


def test_phases_of_an_iteration_share_what_they_share_in_training() -> None:
    """DCGAN's discriminator is shown the fakes of the generator's phase."""
    config = DCGANConfig(**TINY["dcgan"])
    model = DCGAN(config, ImageShape(*SHAPE))
    loop = counting(model)
    found = flop.flop_per_image(loop)
    with FlopCounterMode(display=False) as counter:
        loop.iterate()
    assert found == counter.get_total_flops() / 8
    assert set(loop.flop) == {"generator", "discriminator"}


def test_second_derivatives_are_counted_as_often_as_they_are_taken() -> None:
    values = {**TINY["dcgan"], "r1": 1.0}
    shares = []
    for every in (1, 2):
        config = DCGANConfig(**values, penalty_every=every)
        loop = counting(DCGAN(config, ImageShape(*SHAPE)))
        total = flop.flop_per_image(loop)
        penalty = loop.flop["penalty"] / 8
        shares.append((total, penalty))
    (each, penalty), (second, same) = shares
    assert penalty == same > 0 and each - second == pytest.approx(penalty / 2)


@pytest.mark.parametrize("name", TINY)
def test_every_built_in_model_can_be_counted(name: str) -> None:
    spec = registry().trainers.find(name)
    config = resolve(spec, given=TINY[name]).options
    model = build_model(spec, config, ImageShape(*SHAPE), 0)
    split = Split(bright_squares(40), None, bright_squares(40))
    stream = Stream(split, batch_size=8, seed=0, device=CPU)
    assert flop.flop_per_image(flop.CountingLoop(model, stream, seed=0)) > 1000
    assert Budget.parse(spec.budget).unit == "flop"


class Table(Denoiser):
    """Has no product that torch counts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Identity()
        self.table = nn.Parameter(torch.zeros(SHAPE))

    def loss(self, batch):
        return (batch.images - self.table).square().mean(), {}


def test_a_model_without_products_is_refused_in_a_sentence() -> None:
    train, test = Split(random_images(20)), Split(random_images(4))
    data = ImageData(
        name="toy",
        train=train,
        test=test,
        classes=(),
        notes=(),
        features="none",
        reference=None,
        held_out=False,
    )
    with pytest.raises(UsageError, match=r"--budget 1tflop: .* of Table; give a budget in kimg"):
        flop.flop_of_budget(RunConfig(budget="1tflop"), Table(), data, CPU, ALONE)
    assert flop.flop_of_budget(RunConfig(budget="9steps"), Table(), data, CPU, ALONE) is None


def test_a_training_of_so_many_operations_is_one_of_so_many_images(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "data.npz")
    short = train_tiny("vae", data, tmp_path / "short", budget="0.000001tflop")
    record = RunDir(short.path).record()
    each = record.flop_per_image
    assert each and record.run["budget"] == "0.000001tflop"
    steps = 7
    budget = f"{(steps * 8 - 1) * each / 1e12:.12f}tflop"
    resumed = resume(short.path, registry(), budget=budget)
    straight = train_tiny("vae", data, tmp_path / "straight", budget=budget)
    by_steps = train_tiny("vae", data, tmp_path / "steps", budget=f"{steps}steps")
    states = [load_state(r.path / "checkpoints")[0]["loop"] for r in (resumed, straight, by_steps)]
    assert states[0]["step"] == steps
    assert same_bits(states[0], states[1]) and same_bits(states[0]["model"], states[2]["model"])
    longer = resume(by_steps.path, registry(), budget=f"{9 * 8 * each / 1e12:.12f}tflop")
    assert load_state(longer.path / "checkpoints")[0]["loop"]["step"] == 9
    assert RunDir(longer.path).record().flop_per_image == each
