"""The test kit for plugin authors: hold a plugin to what genkit promises its users.

    from genkit.testing import check_trainer

    def test_model_keeps_its_promises():
        check_trainer("tinyflow", options={"width": 32})

Each function takes the name of something installed, or a spec, and raises `PromiseBroken` at the
first promise that does not hold. They compute on one thread of the CPU and leave the caller's
random numbers, and genkit's cache, as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genkit.compute.device import cpu_threads
from genkit.config.validation import validate
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
from genkit.testing import capabilities as exhibit_promises
from genkit.testing import datasets as data_promises
from genkit.testing import exactness
from genkit.testing import features as feature_promises
from genkit.testing import metrics as metric_promises
from genkit.testing import models as model_promises
from genkit.testing import samples as sample_promises
from genkit.testing.contract import PromiseBroken, check, own_random_numbers, white_squares
from genkit.testing.specs import PLUGIN_PROMISES, SPEC_PROMISES, find_loading, find_subject
from genkit.testing.trial import Trial

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
    """Hold a plugin, named as its entry point, to loading without a problem and without torch.

    What it provides, the other functions check.

    Raises:
        PromiseBroken: at the first promise that does not hold.
        genkit.errors.UsageError: the name is not installed.
    """
    check(plugin, PLUGIN_PROMISES, find_loading(plugin))


def check_trainer(
    trainer: str | TrainerSpec,
    *,
    options: Mapping[str, Any] | None = None,
    shapes: Sequence[tuple[int, int, int]] = ((1, 28, 28), (3, 32, 32)),
    images: NDArray[np.uint8] | None = None,
) -> None:
    """Hold a model to its promises: options, shapes, phases, losses, samples, exact resuming.

    Args:
        options: values of its config; small ones make the check fast.
        shapes: (channels, height, width) to try. Those that the model refuses with a UsageError
            are left out, but not all may be.
        images: uint8, (N, C, H, W), to train on in place of white squares on black; their shape
            then is the only one.

    Raises:
        PromiseBroken: at the first promise that does not hold.
        genkit.errors.UsageError: the name is not installed, or an option cannot be used.
    """
    with _alone():
        subject = find_subject("trainers", trainer)
        spec: TrainerSpec = subject.spec
        check(spec.name, model_promises.OPTION_PROMISES, subject)
        config = validate(spec.config, options or {}, f"options for {spec.name}: ")
        if images is not None:
            shapes = (images.shape[1:],)
        trials = []
        for shape in (ImageShape(*sides) for sides in shapes):
            split = white_squares(COUNT if images is None else len(images), shape)
            if images is not None:
                split = Split(images, split.labels)
            trials.append(Trial(spec, config, shape, split))
        check(spec.name, model_promises.CONFIG_PROMISES, trials[0])
        taken = []
        for trial in trials:
            try:
                trial.build()
            except UsageError:
                continue
            except Exception:  # told as a broken promise, with the shape
                pass
            taken.append(trial)
        if not taken:
            tried = ", ".join(str(trial.shape) for trial in trials)
            raise PromiseBroken(f"{spec.name}: it refuses all of {tried}; give shapes it takes")
        for trial in taken:
            name = f"{spec.name} ({trial.shape})"
            promises = model_promises.PROMISES + sample_promises.PROMISES
            check(name, promises + exhibit_promises.PROMISES, trial)
        check(spec.name, (model_promises.odd_shapes_are_refused_or_work,), taken[0])
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
    with _alone():
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
    """Hold a data set to its promises: what its loader returns, the same at each load.

    Args:
        source: what follows the colon in `--data NAME:SOURCE`.
        options: of its config, as in `--data-option`.

    Raises:
        PromiseBroken: at the first promise that does not hold.
        genkit.errors.UsageError: the name is not installed, or an option cannot be used.
    """
    with _alone():
        subject = find_subject("datasets", dataset)
        check(subject.spec.name, SPEC_PROMISES, subject)
        validate(subject.spec.config, options or {}, f"options for {subject.spec.name}: ")
        installed = isinstance(dataset, str)
        opening = data_promises.Opening(subject.spec, source, options or {}, installed)
        check(subject.spec.name, data_promises.PROMISES, opening)


def check_metric(metric: str | MetricSpec) -> None:
    """Hold a metric to its promises: finite scores of its own columns that follow from the images.

    It scores 200 easy images, 3 x 32 x 32, noise, and 10 images, under features with logits of the
    data's own four classes and under features without; with the defaults of its config, which are
    what genkit always scores with.

    Raises:
        PromiseBroken: at the first promise that does not hold.
        genkit.errors.UsageError: the name is not installed.
    """
    with _alone():
        subject = find_subject("metrics", metric)
        check(subject.spec.name, SPEC_PROMISES, subject)
        scoring = metric_promises.Scoring(subject.spec)
        check(subject.spec.name, metric_promises.PROMISES, scoring)


def check_features(
    features: str | FeaturesSpec,
    shape: tuple[int, int, int] = (3, 32, 32),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Hold a feature extractor to its promises: float32 vectors that follow from the images.

    It is opened for labelled data of four classes, and for data without labels.

    Args:
        shape: (channels, height, width) of images that it takes.
        options: values of its config, such as {"weights": PATH}.

    Raises:
        PromiseBroken: at the first promise that does not hold.
        genkit.errors.UsageError: the name is not installed, or an option cannot be used.
    """
    with _alone(), feature_promises.own_cache():
        subject = find_subject("features", features)
        check(subject.spec.name, SPEC_PROMISES, subject)
        config = validate(subject.spec.config, options or {}, f"options for {subject.spec.name}: ")
        extraction = feature_promises.Extraction(subject.spec, config, ImageShape(*shape))
        check(subject.spec.name, feature_promises.PROMISES, extraction)


@contextmanager
def _alone() -> Iterator[None]:
    """One CPU thread, and random numbers that are put back."""
    with cpu_threads(1), own_random_numbers():
        yield
