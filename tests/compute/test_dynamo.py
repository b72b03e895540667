"""torch's compiler left out of a process: eager steps do without, all else finds it as ever."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SETUP = """
import json, sys
from genkit.compute.dynamo import defer_dynamo
{deferred}
import torch
torch.set_num_threads(1)

def trained():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop):
        optimizer = kind(model.parameters(), lr=1e-2)
        for _ in range(3):
            model(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizer.load_state_dict(optimizer.state_dict())
    return [value for p in model.parameters() for value in p.detach().flatten().tolist()]
"""


def run(program: str, deferred: bool = True) -> object:
    """What a program prints as JSON, in an interpreter of its own."""
    setup = SETUP.replace("{deferred}", "defer_dynamo()" if deferred else "")
    done = subprocess.run(
        [sys.executable, "-c", setup + program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_optimizers_step_as_ever_without_the_compiler() -> None:
    program = "print(json.dumps([trained(), 'torch._dynamo.utils' in sys.modules]))"
    assert run(program) == [run(program, deferred=False)[0], False]
    assert run(program, deferred=False)[1]


@pytest.mark.parametrize(
    "use",
    [
        "import torch._dynamo.config",
        "from torch._dynamo.utils import counters",
        "torch._dynamo.reset()",
        "torch.compile(torch.neg, backend='eager')(torch.ones(1))",
        "hasattr(torch._dynamo, 'no_such_name')",
    ],
)
def test_whatever_uses_the_compiler_imports_it_and_finds_it_whole(use: str) -> None:
    program = f"""
trained()
before = torch._dynamo
{use}
import torch._dynamo
own = vars(torch.optim.Optimizer.add_param_group.__wrapped__)
print(json.dumps([
    type(torch._dynamo).__name__,
    before is torch._dynamo is sys.modules["torch._dynamo"],
    torch._dynamo.graph_break.__module__,
    torch._dynamo.disable.__module__,
    "__dynamo_disable" in own,
    torch._dynamo.__spec__.loader is torch._dynamo.__loader__,
]))
"""
    decorators = "torch._dynamo.decorators"
    assert run(program) == ["module", True, decorators, decorators, False, True]


def test_a_compiled_step_after_an_eager_one_is_that_of_a_process_that_never_waited() -> None:
    program = """
eager = trained()
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
compiled = torch.compile(lambda x: model(x).square().sum(), backend="eager")
torch.manual_seed(1)
compiled(torch.randn(4, 3)).backward()
torch.compile(optimizer.step, backend="eager")()
print(json.dumps([eager, model.weight.tolist(), torch._dynamo.utils.counters["frames"]["ok"]]))
"""
    found = run(program)
    assert found == run(program, deferred=False) and found[2] > 0


def test_looking_round_imports_nothing() -> None:
    program = """
import inspect, pickle, warnings
trained()
inspect.getmodule(trained), repr(torch._dynamo), dir(torch._dynamo), torch._dynamo.__file__
with warnings.catch_warnings():
    warnings.simplefilter("always")
print(json.dumps("torch._dynamo.utils" in sys.modules))
"""
    assert run(program) is False
