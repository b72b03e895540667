"""Training states whose file is whole and whose contents are not of this model and optimizer."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from forged import assert_passed_over, fits, make_gan, make_states, plant
from toys import Denoiser, make_loop, same_bits

from genkit.errors import CheckpointError
from genkit.runs.tree import pack


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A folder with the states of steps 1 and 2, the loop and the state of each."""
    return make_states(tmp_path)


def change(*path: Any, to: Any = None) -> Any:
    """A change of one place in a state; `to` is the new value, or a function of the old one."""

    def apply(state: Any) -> None:
        *way, last = path
        for key in way:
            state = state[key]
        state[last] = to(state[last]) if callable(to) else to

    return apply


def drop(*path: Any) -> Any:
    def apply(state: Any) -> None:
        *way, last = path
        for key in way:
            state = state[key]
        del state[last]

    return apply


MODEL = ("loop", "model")
WEIGHT = (*MODEL, "layers.2.weight")
ADAM = ("loop", "optimizers", 0)
MOMENT = (*ADAM, "state", 0, "exp_avg")
GROUP = (*ADAM, "param_groups", 0)
CONTENTS: dict[str, tuple[Any, str]] = {
    "no loop": (drop("loop"), "no 'loop'"),
    "a loop that is text": (change("loop", to="x"), "no 'loop'"),
    "step negative": (change("loop", "step", to=-1), "its step is -1"),
    "step text": (change("loop", "step", to="2"), "its step is '2'"),
    "step bool": (change("loop", "step", to=True), "its step is True"),
    "step huge": (change("loop", "step", to=10**400), "its step is 1000"),
    "step missing": (drop("loop", "step"), "its step is None"),
    "seconds NaN": (change("seconds", to=math.nan), "its seconds are nan"),
    "seconds infinite": (change("seconds", to=math.inf), "its seconds are inf"),
    "seconds negative": (change("seconds", to=-1.0), "its seconds are -1.0"),
    "seconds text": (change("seconds", to="1"), "its seconds are '1'"),
    "seconds missing": (drop("seconds"), "its seconds are None"),
    "model missing": (drop(*MODEL), "no 'model'"),
    "average missing": (drop("loop", "average"), "no 'average'"),
    "tensor missing": (drop(*WEIGHT), "lacks 'layers.2.weight'"),
    "tensor too many": (change(*MODEL, "zebra", to=torch.zeros(2)), "holds 'zebra'"),
    "shape": (change(*WEIGHT, to=lambda t: t.flatten()), "has shape (1024,), the model (64, 16)"),
    "type": (change(*WEIGHT, to=lambda t: t.double()), "is torch.float64"),
    "text for a tensor": (change(*WEIGHT, to="x"), "has shape (), the model (64, 16)"),
    "NaN": (change(*WEIGHT, to=lambda t: t * math.nan), "'layers.2.weight' holds NaN"),
    "infinite average": (
        change("loop", "average", "layers.0.bias", to=lambda t: t + math.inf),
        "'layers.0.bias' holds NaN or infinite",
    ),
    "no optimizers": (drop("loop", "optimizers"), "1 optimizers"),
    "two optimizers": (change("loop", "optimizers", to=lambda o: o * 2), "1 optimizers"),
    "optimizer text": (change(*ADAM, to="x"), "optimizer 1 cannot continue"),
    "moment of another shape": (change(*MOMENT, to=torch.zeros(7)), "optimizer 1 cannot continue"),
    "moment text": (change(*MOMENT, to="x"), "optimizer 1 cannot continue"),
    "moment missing": (drop(*MOMENT), "optimizer 1 cannot continue"),
    "moment NaN": (change(*MOMENT, to=lambda t: t * math.nan), "optimizer 1 holds values that"),
    "count of steps negative": (
        change(*ADAM, "state", 0, "step", to=torch.tensor(-3.0)),
        "optimizer 1 cannot continue",
    ),
    "groups missing": (drop(*ADAM, "param_groups"), "optimizer 1 cannot continue"),
    "group for fewer parameters": (
        change(*GROUP, "params", to=lambda p: p[:-1]),
        "optimizer 1 cannot continue",
    ),
    "learning rate text": (change(*GROUP, "lr", to="fast"), "optimizer 1 cannot continue"),
    "learning rate NaN": (change(*GROUP, "lr", to=math.nan), "its learning rates are [nan"),
    "first learning rate missing": (drop(*GROUP, "initial_lr"), "optimizer 1 cannot continue"),
    "betas missing": (drop(*GROUP, "betas"), "optimizer 1 cannot continue"),
    "betas text": (change(*GROUP, "betas", to="ab"), "optimizer 1 cannot continue"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_state_with_odd_contents_is_passed_over(run: Any, kind: str) -> None:
    alter, words = CONTENTS[kind]
    state = copy.deepcopy(run[2][1])
    alter(state)
    plant(run[0], pack(state))
    assert words in assert_passed_over(run)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True),
        lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.5, centered=True),
        lambda p: torch.optim.Adagrad(p, 0.1),
        lambda p: torch.optim.NAdam(p, 0.1),
        lambda p: torch.optim.Adafactor(p, 0.1),
    ],
)
def test_states_of_all_kinds_of_optimizers_pass_and_none_takes_a_foreign_one(make: Any) -> None:
    loop = make_loop(Denoiser(make), ema_half_life=50)
    loop.iterate()
    state = {"loop": copy.deepcopy(loop.state_dict()), "seconds": 1.0}
    before = copy.deepcopy(loop.state_dict())
    fits(loop)(state)
    assert same_bits(loop.state_dict(), before)
    values = state["loop"]["optimizers"][0]["state"]
    tensors = [(v, k) for v in values.values() for k, t in v.items() if getattr(t, "ndim", 0)]
    for entry, key in tensors:
        whole, entry[key] = entry[key], torch.zeros(3, 5, 7)
        with pytest.raises(CheckpointError, match="optimizer 1 cannot continue"):
            fits(loop)(state)
        entry[key] = whole
    assert tensors or not any(values.values())


def test_a_state_of_another_model_is_refused_before_anything_is_copied(run: Any) -> None:
    other = make_loop(make_gan(), ema_half_life=10)
    other.iterate()
    plant(run[0], pack({"loop": other.state_dict(), "seconds": 1.0}))
    said = assert_passed_over(run)
    assert "lacks " in said or "holds " in said
