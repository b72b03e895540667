"""The test kit for plugin authors: does a plugin keep the contracts that genkit's users rely on?

    from genkit.testing import check_trainer

    def test_model_keeps_its_contract():
        check_trainer("tinyflow", options={"width": 32})

Each function takes the name of something installed, or a spec, and raises `PromiseBroken` for the
first contract that is broken. All compute on one thread of the CPU and leave the caller's random
states, and genkit's cache, as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit.compute.device import cpu_threads
from genkit.config.validation import validate
from genkit.contracts.contract import PromiseBroken, check, own_random_numbers, white_squares
from genkit.data import Split
from genkit.errors import UsageError
from genkit.specs import (
    DatasetSpec,
    FeaturesSpec,
    ImageShape,
    MetricSpec,
    TrainerConfig,
    TrainerSpec,
)
from genkit.testing import exactness
from genkit.testing.capabilities import CAPABILITY_CONTRACTS
from genkit.testing.choices import CHOICE_CONTRACTS
from genkit.testing.datasets import DATASET_CONTRACTS, Opening
from genkit.testing.features import FEATURE_CONTRACTS, Extraction, own_cache
from genkit.testing.fixture import ModelFixture
from genkit.testing.metrics import METRIC_CONTRACTS, Scoring
from genkit.testing.models import (
    CONFIG_CONTRACTS,
    OPTION_CONTRACTS,
    TRAINING_CONTRACTS,
    odd_shapes_are_refused_or_work,
)
from genkit.testing.runs import runs_can_be_resumed
from genkit.testing.samples import SAMPLE_CONTRACTS
from genkit.testing.specs import PLUGIN_CONTRACTS, SPEC_CONTRACTS, find_loading, find_subject

__all__ = [
    "PromiseBroken",
    "check_dataset",
    "check_features",
    "check_likelihood",
    "check_metric",
    "check_plugin",
    "check_trainer",
]
__tracebackhide__ = True

COUNT = 256  # training images


def check_plugin(plugin: str) -> None:
    """Check that a plugin, named as its entry point, loads without a problem and without torch.

    The other functions check what it provides.

    Raises:
        PromiseBroken: a contract is broken; the message says which and how.
        genkit.errors.UsageError: the name is not installed.
    """
    check(plugin, PLUGIN_CONTRACTS, find_loading(plugin))


def check_trainer(
    trainer: str | TrainerSpec,
    *,
    options: Mapping[str, Any] | None = None,
    shapes: Sequence[tuple[int, int, int]] = ((1, 28, 28), (3, 32, 32)),
    images: NDArray[np.uint8] | None = None,
) -> None:
    """Check a model's contracts: options, shapes, phases, losses, samples, exact resuming.

    Args:
        options: values of its config; small ones make the check fast.
        shapes: (channels, height, width) to try. Those that the model refuses with a UsageError
            are left out, but not all may be.
        images: uint8, (N, C, H, W), to train on in place of white squares on black; their shape
            then is the only one.

    Raises:
        PromiseBroken: a contract is broken; the message says which and how.
        genkit.errors.UsageError: the name is not installed, or an option cannot be used.
    """
    with _isolated():
        subject = find_subject("trainers", trainer)
        spec: TrainerSpec = subject.spec
        check(spec.name, OPTION_CONTRACTS, subject)
        config = validate(spec.config, options or {}, f"options for {spec.name}: ")
        if images is not None:
            shapes = (images.shape[1:],)
        fixtures = []
        for shape in (ImageShape(*sides) for sides in shapes):
            split = white_squares(COUNT if images is None else len(images), shape)
            if images is not None:
                split = Split(images, split.labels)
            fixtures.append(ModelFixture(spec, config, shape, split))
        check(spec.name, CONFIG_CONTRACTS, fixtures[0])
        taken = []
        for fixture in fixtures:
            try:
                fixture.build()
            except UsageError:
                continue
            except Exception:  # reported below as a broken contract, with the shape
                pass
            taken.append(fixture)
        if not taken:
            tried = ", ".join(str(fixture.shape) for fixture in fixtures)
            raise PromiseBroken(f"{spec.name}: it refuses all of {tried}; give shapes it takes")
        for fixture in taken:
            name = f"{spec.name} ({fixture.shape})"
            check(name, TRAINING_CONTRACTS + SAMPLE_CONTRACTS + CAPABILITY_CONTRACTS, fixture)
        check(spec.name, CHOICE_CONTRACTS, taken[0])
        check(spec.name, (runs_can_be_resumed,), taken[0])
        check(spec.name, (odd_shapes_are_refused_or_work,), taken[0])
        _prove_likelihood(spec, config)


def check_likelihood(
    trainer: str | TrainerSpec, *, options: Mapping[str, Any] | None = None
) -> list[str]:
    """Prove that a model's likelihood is one, by enumeration of all images of a few pixels.

    `check_trainer` does it, too. This function also says what was found: a line for each shape
    and contract, and one for each shape that was left out.

    Args:
        options: values of its config; small ones make the check fast.

    Raises:
        PromiseBroken: at the first contract that does not hold.
        genkit.errors.UsageError: the name is not installed, or an option cannot be used.
    """
    with _isolated():
        spec: TrainerSpec = find_subject("trainers", trainer).spec
        config = validate(spec.config, options or {}, f"options for {spec.name}: ")
        return _prove_likelihood(spec, config)


def _prove_likelihood(spec: TrainerSpec, config: TrainerConfig) -> list[str]:
    """Hold a model of each small shape to the contracts on likelihoods; what was found."""
    worlds, left_out = exactness.worlds(spec, config)
    for world in worlds:
        check(f"{spec.name} ({world.title})", exactness.LIKELIHOOD_CONTRACTS, world)
    found = [f"{world.title}: {line}" for world in worlds for line in world.report]
    return found + [f"left out: {reason}" for reason in left_out]


def check_dataset(
    dataset: str | DatasetSpec,
    source: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Check a data set's contracts: what its loader returns, the same at each load.

    Args:
        source: what follows the colon in `--data NAME:SOURCE`.
        options: of its config, as in `--data-option`.

    Raises:
        PromiseBroken: a contract is broken; the message says which and how.
        genkit.errors.UsageError: the name is not installed, or an option cannot be used.
    """
    with _isolated():
        subject = find_subject("datasets", dataset)
        check(subject.spec.name, SPEC_CONTRACTS, subject)
        validate(subject.spec.config, options or {}, f"options for {subject.spec.name}: ")
        installed = isinstance(dataset, str)
        opening = Opening(subject.spec, source, options or {}, installed)
        check(subject.spec.name, DATASET_CONTRACTS, opening)


def check_metric(metric: str | MetricSpec) -> None:
    """Check a metric's contracts: finite scores of its own columns that follow from the images.

    It scores 200 easy images, 3 x 32 x 32, noise, and 10 images, under features with logits of the
    data's own four classes and under features without; with the defaults of its config, which are
    what genkit always scores with.

    Raises:
        PromiseBroken: a contract is broken; the message says which and how.
        genkit.errors.UsageError: the name is not installed.
    """
    with _isolated():
        subject = find_subject("metrics", metric)
        check(subject.spec.name, SPEC_CONTRACTS, subject)
        scoring = Scoring(subject.spec)
        check(subject.spec.name, METRIC_CONTRACTS, scoring)


def check_features(
    features: str | FeaturesSpec,
    shape: tuple[int, int, int] = (3, 32, 32),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Check a feature extractor's contracts: float32 vectors that follow from the images.

    It is opened for labelled data of four classes, and for data without labels.

    Args:
        shape: (channels, height, width) of images that it takes.
        options: values of its config, such as {"weights": PATH}.

    Raises:
        PromiseBroken: a contract is broken; the message says which and how.
        genkit.errors.UsageError: the name is not installed, or an option cannot be used.
    """
    with _isolated(), own_cache():
        subject = find_subject("features", features)
        check(subject.spec.name, SPEC_CONTRACTS, subject)
        config = validate(subject.spec.config, options or {}, f"options for {subject.spec.name}: ")
        extraction = Extraction(subject.spec, config, ImageShape(*shape))
        check(subject.spec.name, FEATURE_CONTRACTS, extraction)


@contextmanager
def _isolated() -> Iterator[None]:
    """One CPU thread; afterwards the global random states are as before."""
    with cpu_threads(1), own_random_numbers():
        yield
