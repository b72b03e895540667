"""How samples are scored, whatever they are, and the samples of a run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """How samples are scored, whatever they are: number and seed of samples, features, likelihood.

    `samples` None takes all images of a file, and 10,000 of a run. `levels` are those at which all
    are scored as well; None: the fewest that any samples have, if these differ. A model that
    follows labels draws them from the classes' shares of its training images, or with `balanced`
    all in turn; `per_class` also scores each class by itself, `utility` trains classifiers.
    """

    samples: int | None = None
    seed: int = 0
    features: str | None = None
    weights: str | None = None
    device: str = "auto"
    likelihood_images: int = 1000
    draws: int = 64
    levels: int | None = None
    balanced: bool = False
    per_class: bool = False
    utility: bool = False


@dataclass(frozen=True)
class Drawn:
    """Samples of a run: images, uint8, (n, C, H, W), the labels they were drawn of, int64, (n,), if
    any, and how many were drawn in a second."""

    images: Tensor
    labels: Tensor | None
    rate: float
