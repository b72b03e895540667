"""What the test kit stands on: promises and how a broken one is told, easy images, and what every
spec promises, whatever it describes. `genkit.testing` is what plugin authors import.
"""

from __future__ import annotations

import inspect
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genkit.data import Split
from genkit.entries import GROUP
from genkit.errors import GenkitError, UsageError
from genkit.hookspecs import hookimpl
from genkit.plugins import Plugin, Plugins
from genkit.registry import Catalogue, Registry, load_registry
from genkit.specs import ImageShape, Spec

__tracebackhide__ = True  # pytest ends its traceback at the author's test

Faults = Iterator[str]  # what was seen against a promise, one line each; the first is told
CLASSES = ("upper left", "upper right", "lower left", "lower right")
TORCH_IN_FRESH_PYTHON = (
    "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; "
    "sys.exit('imports torch' if 'torch' in sys.modules else 0)"
)


class PromiseBroken(AssertionError):
    """A plugin does not do what genkit promises its users; the message says what and where."""


def check(name: str, promises: Sequence[Callable[..., Faults]], subject: object) -> None:
    """Hold a subject to promises, in their order.

    A promise is a generator of faults, whose docstring opens with a sentence that says what must
    hold. What a plugin raises under it is a fault as well.

    Raises:
        PromiseBroken: "NAME: what must hold; what was seen", of the first fault.
    """
    for promise in promises:
        told = f"{name}: {statement(promise)}"
        try:
            seen = next(promise(subject), None)
        except GenkitError as error:
            raise PromiseBroken(f"{told}; {error}") from error
        except Exception as error:  # whatever a stranger's code raises
            raise PromiseBroken(f"{told}; {type(error).__name__}: {error}") from error
        if seen:
            raise PromiseBroken(f"{told}; {seen}")


def statement(promise: Callable[..., Faults]) -> str:
    """What must hold, as a promise's docstring opens: without full stop, to stand in a sentence."""
    first = " ".join(inspect.cleandoc(str(promise.__doc__)).partition(".\n")[0].split())
    return first[0].lower() + first[1:].rstrip(".")


def random_states() -> dict[str, Any]:
    """The states of the global generators of torch, numpy and Python."""
    return {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "Python": random.getstate(),
    }


def drawn_from(before: Mapping[str, Any]) -> str | None:
    """Whose global generator is no longer in its state of before; None if all are."""
    now = random_states()
    same = {
        "torch": torch.equal(now["torch"], before["torch"]),
        "numpy": all(map(np.array_equal, now["numpy"], before["numpy"])),
        "Python": now["Python"] == before["Python"],
    }
    return next((name for name, unmoved in same.items() if not unmoved), None)


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


@dataclass(frozen=True)
class Subject:
    """A spec and where it comes from.

    Args:
        hook: that registers specs of its kind.
        modules: that must be light: the plugin's entry module and the config's.
    """

    spec: Any
    hook: str
    modules: tuple[str, ...]


def find_subject(kind: str, name_or_spec: str | Spec) -> Subject:
    """An installed spec by its name, or a spec as it is.

    `kind` is "trainers", "datasets", "metrics" or "features". Raises UsageError for a name that is
    not installed, with the reasons of plugins that failed to load.
    """
    modules = []
    spec: Any = name_or_spec
    if isinstance(name_or_spec, str):
        registry = load_registry()
        catalogue: Catalogue[Any] = getattr(registry, kind)
        if name_or_spec not in catalogue and (failed := registry.plugins.failed):
            reasons = "; ".join(f"{plugin.name}: {plugin.problem}" for plugin in failed)
            raise UsageError(f"no plugin offers {name_or_spec!r}, and some failed: {reasons}")
        spec = catalogue.find(name_or_spec)
        entry = catalogue[name_or_spec].plugin.name
        modules += [found.module for found in entry_points(group=GROUP, name=entry)]
    config = spec.config.__module__
    if not config.startswith("genkit.") and config != spec.target.partition(":")[0]:
        modules.append(config)  # but not a plugin of a single file, which cannot be light
    return Subject(spec, f"register_{kind}", tuple(dict.fromkeys(modules)))


def spec_is_accepted(subject: Subject) -> Faults:
    """The spec must be one that genkit's registry takes."""
    plugins, record = Plugins(), Plugin(subject.spec.name, "a test", "0")
    module = SimpleNamespace(**{subject.hook: hookimpl(lambda: [subject.spec])})
    plugins.register(module, record)
    Registry(plugins)
    if record.problem:
        yield record.problem


def config_explains_itself(subject: Subject) -> Faults:
    """Every field of the config must have a default and a description."""
    for name, field in subject.spec.config.model_fields.items():
        if field.is_required():
            yield f"{name!r} has no default"
        if not field.description:
            yield f"{name!r} has no description"
    subject.spec.config()


def entry_module_imports_no_torch(subject: Subject) -> Faults:
    """The modules of spec and config must not import torch, so that `genkit list` stays fast."""
    for module in subject.modules:
        done = subprocess.run(
            [sys.executable, "-c", TORCH_IN_FRESH_PYTHON, module],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            yield f"{module}: {done.stderr.strip().splitlines()[-1]}"


def target_can_be_loaded(subject: Subject) -> Faults:
    """The target must be there to import, as "package.module:Name" says."""
    if not callable(subject.spec.load()):
        yield f"{subject.spec.target} cannot be called"


SPEC_PROMISES = (
    spec_is_accepted,
    config_explains_itself,
    entry_module_imports_no_torch,
    target_can_be_loaded,
)


def noisy_squares(count: int, shape: ImageShape, seed: int) -> Split:
    """`white_squares`, each image with grain of its own: no two are alike."""
    clean = white_squares(count, shape)
    grain = np.random.RandomState(seed).randint(0, 56, clean.images.shape)
    return Split((clean.images * 0.75 + grain).astype(np.uint8), clean.labels)


def white_squares(count: int, shape: ImageShape) -> Split:
    """Images that are easy to learn: black, with a white quarter that is their label.

    Labels come in a fixed order: 0, 1, 2, 3, 0, ... Where a side is a single pixel, some quarters
    are empty.
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
    """Where two nests of mappings, lists, tensors and values first differ by a bit, and by how
    much; None if they are the same."""
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
