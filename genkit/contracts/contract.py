"""What all checks share: contracts and how a broken one is reported, random states, easy images.

Plugin authors import `genkit.testing`, not this module.
"""

from __future__ import annotations

import inspect
import random
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genkit.data import Split
from genkit.errors import TRACEBACK_HINT, GenkitError
from genkit.specs import ImageShape

__tracebackhide__ = True  # pytest ends its traceback at the author's test

Violations = Iterator[str]  # one line each; only the first is reported
STANDARD_LIBRARY = sysconfig.get_path("stdlib")
PACKAGE = Path(__file__).parents[1]  # genkit itself
CLASSES = ("upper left", "upper right", "lower left", "lower right")


_report: ContextVar[Callable[[str], None] | None] = ContextVar("report", default=None)


@contextmanager
def reported(report: Callable[[str], None]) -> Iterator[None]:
    """Pass "NAME: what must hold" to `report` for each contract that is found to be kept."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


class PromiseBroken(AssertionError):
    """A plugin does not do what genkit promises its users; the message says what and where."""


def check(name: str, contracts: Sequence[Callable[..., Violations]], subject: object) -> None:
    """Check that a subject keeps each contract, in their order.

    A contract is a generator of violations. The first sentence of its docstring says what must
    hold. An exception that the plugin raises meanwhile is a violation, too.

    Raises:
        PromiseBroken: "NAME: what must hold; what was seen", for the first violation.
    """
    for contract in contracts:
        broken = f"{name}: {statement(contract)}"
        try:
            seen = next(contract(subject), None)
        except GenkitError as error:
            words = str(error).removesuffix(TRACEBACK_HINT)  # a test shows it anyway
            raise PromiseBroken(f"{broken}; {words}") from error
        except Exception as error:  # the plugin's code may raise anything
            raise PromiseBroken(f"{broken}; {type(error).__name__}: {error}") from error
        if seen:
            raise PromiseBroken(f"{broken}; {seen}")
        if report := _report.get():
            report(broken)


def statement(contract: Callable[..., Violations]) -> str:
    """What must hold: the first sentence of a contract's docstring, without its full stop."""
    first = " ".join(inspect.cleandoc(str(contract.__doc__)).partition(".\n")[0].split())
    return first[0].lower() + first[1:].rstrip(".")


def frames_of_plugin(error: BaseException) -> str:
    """The traceback of an error's first cause, without the leading frames of genkit and of the
    standard library; empty if no other frame is left."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    while frames and _is_ours(frames[0].filename):
        del frames[0]
    return "".join(traceback.format_list(frames))


def _is_ours(filename: str) -> bool:
    path = Path(filename)
    standard = path.is_relative_to(STANDARD_LIBRARY) and "site-packages" not in path.parts
    return filename.startswith("<") or standard or path.is_relative_to(PACKAGE)


def random_states() -> dict[str, Any]:
    """The states of the global generators of torch, numpy and Python."""
    return {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "Python": random.getstate(),
    }


def unsaved(used: nn.Module, fresh: nn.Module) -> str:
    """A hint at what a used model keeps outside its state_dict, found by comparison with a new one:
    "; 'masks' holds a tensor that is not a buffer", or nothing."""
    known = {id(tensor) for tensor in [*used.parameters(), *used.buffers()]}
    for (place, module), (_, other) in zip(
        used.named_modules(), fresh.named_modules(), strict=False
    ):
        for name, value in vars(module).items():
            where, before = f"{place}.{name}".lstrip("."), vars(other).get(name)
            if any(isinstance(v, Tensor) and id(v) not in known for v in inside(value)):
                return f"; {where!r} holds a tensor that is not a buffer: use register_buffer()"
            plain = isinstance(value, int | float | str) and name != "training"
            if plain and value != before:
                return f"; {where!r} went from {before!r} to {value!r}: keep it in a buffer"
    return ""


def inside(value: Any) -> list[Any]:
    """The items of a list or tuple, the values of a mapping; any other value in a list."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


def drawn_from(before: Mapping[str, Any]) -> str | None:
    """The library whose global generator has changed since `before`; None if none has."""
    now = random_states()
    unchanged = {
        "torch": torch.equal(now["torch"], before["torch"]),
        "numpy": all(map(np.array_equal, now["numpy"], before["numpy"])),
        "Python": now["Python"] == before["Python"],
    }
    return next((name for name, same in unchanged.items() if not same), None)


def seed_random(seed: int) -> None:
    """Seed the global generators of torch, numpy and Python."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Leave the global generators as they were."""
    states = random_states()
    try:
        yield
    finally:
        torch.set_rng_state(states["torch"])
        np.random.set_state(states["numpy"])
        random.setstate(states["Python"])


def noisy_squares(count: int, shape: ImageShape, seed: int) -> Split:
    """`white_squares`, each image with its own noise: no two are alike."""
    clean = white_squares(count, shape)
    grain = np.random.RandomState(seed).randint(0, 56, clean.images.shape)
    return Split((clean.images * 0.75 + grain).astype(np.uint8), clean.labels)


def white_squares(count: int, shape: ImageShape) -> Split:
    """Images that are easy to learn: black, with one white quarter, whose number is the label.

    The images are uint8, (count, C, H, W); the labels int64, (count,), in the order 0, 1, 2, 3, 0,
    ... Where a side is a single pixel, some quarters are empty.
    """
    images = np.zeros((count, shape.channels, shape.height, shape.width), np.uint8)
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    middle = ((shape.height + 1) // 2, (shape.width + 1) // 2)
    for image, label in zip(images, labels, strict=True):
        rows, columns = (
            slice(start, None) if half else slice(start)
            for half, start in zip(divmod(int(label), 2), middle, strict=True)
        )
        image[:, rows, columns] = 255
    return Split(images, labels)


def difference(found: Any, expected: Any, place: str = "it") -> str | None:
    """Where nested mappings, lists, tensors and values first differ, and by how much, as a clause
    that starts with `place`; None if they are equal to the last bit."""
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            return (
                f"{place} is {found.dtype} {tuple(found.shape)} in place of {expected.dtype} "
                f"{tuple(expected.shape)}"
            )
        if torch.equal(found, expected):
            return None
        gap = (found.double() - expected.double()).abs().max().item()
        return f"{place} differs by up to {gap:.2g}"
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        if found.keys() != expected.keys():
            return f"{place} holds {sorted(map(str, found))}, not {sorted(map(str, expected))}"
        pairs = [(key, found[key], expected[key]) for key in expected]
    elif isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        if len(found) != len(expected):
            return f"{place} has {len(found)} parts, not {len(expected)}"
        pairs = [(i, *pair) for i, pair in enumerate(zip(found, expected, strict=True))]
    else:
        return None if found == expected else f"{place} is {found!r}, not {expected!r}"
    inside = (difference(a, b, key if place == "it" else f"{place}.{key}") for key, a, b in pairs)
    return next(filter(None, inside), None)
