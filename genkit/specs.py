"""Specs: frozen descriptions of what plugins provide, and the base classes of their configs.

A spec names its implementation by a string, "package.module:Name", which is imported only when
it is used; listing a thousand models imports none of them. This module never imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from genkit.errors import PluginError
from genkit.shapes import Attributes as Attributes
from genkit.shapes import ImageFacts as ImageFacts
from genkit.shapes import ImageShape as ImageShape

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class Config(BaseModel):
    """Base of every config: frozen, finite, and without unknown keys.

    Each field needs a type, a default and a description; all are checked wherever they are given.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        defer_build=True,
        protected_namespaces=(),
    )


T = TypeVar("T")


def option(
    default: T,
    description: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    multiple_of: float | None = None,
    panel: str | None = None,
    alone: T | None = None,
) -> T:
    """A field of a config class, `width: int = option(64, "channels", ge=1, panel="Network")`.

    To type checkers it is the default, so that a default of another type is an error.

    Args:
        description: what follows the option in the help.
        ge, gt, le, lt, multiple_of: the range that values must lie in.
        panel: heading in the help under which the option stands; by default the model's name.
        alone: the value of `--name` that no value follows, for options of trainers.
    """
    limits = {"ge": ge, "gt": gt, "le": le, "lt": lt, "multiple_of": multiple_of}
    given: dict[str, Any] = {name: limit for name, limit in limits.items() if limit is not None}
    extra = {"panel": panel, "alone": alone}
    if extra := {name: value for name, value in extra.items() if value is not None}:
        given["json_schema_extra"] = extra
    field: T = Field(default, description=description, **given)
    return field


OPTIMISATION = {"panel": "Optimisation"}
BatchSize = Annotated[
    int,
    Field(
        ge=1,
        le=65_536,
        description="images per iteration, over all devices",
        json_schema_extra=OPTIMISATION,
    ),
]
HalfLife = Annotated[
    int,
    Field(
        ge=0,
        le=10**12,
        description="images after which a weight counts half in the average that is sampled and "
        "scored; 0 turns averaging off; 10k,50k keeps several averages",
        json_schema_extra={**OPTIMISATION, "several": True},
    ),
]


class TrainerConfig(Config):
    """Base of a trainer's config: what the training loop asks of every model.

    A subclass may give these two fields other defaults (`batch_size: BatchSize = 32`) and adds
    its own.
    """

    batch_size: BatchSize = 64
    ema_half_life: HalfLife = 10_000


class SamplerConfig(Config):
    """Base of the options of a model's sampler, which are chosen after training, whenever samples
    are drawn. They change nothing in training. A model reads them as `self.sampler`."""


class NamesRun:
    """Marks the type of an option that names a run."""


# A frozen teacher or first stage, which a model opens by `self.frozen("teacher")`.
RunPath = Annotated[Path, NamesRun()]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every spec has: a name to type, one line of help, a target and a config class.

    `records` names distributions whose versions are recorded beside results that it had a part in.
    """

    name: str
    summary: str
    target: str
    config: type[Config] = Config
    records: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise PluginError(
                f"{self.name!r} is not a name: use small letters, digits and single hyphens"
            )
        if not isinstance(self.target, str) or self.target.count(":") != 1:
            raise PluginError(
                f"target {self.target!r} of {self.name!r} must read 'package.module:Name'"
            )
        if not (isinstance(self.config, type) and issubclass(self.config, Config)):
            raise PluginError(f"config of {self.name!r} must be a subclass of genkit.specs.Config")

    def load(self) -> Any:
        """Import the target; a failure is a PluginError that names the spec."""
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise PluginError(f"{self.name!r} could not be loaded: {error}") from error


@dataclass(frozen=True, kw_only=True)
class TrainerSpec(Spec):
    """A kind of generative model. Target: a `genkit.model.GenerativeModel` subclass, called as
    `(config, image_shape)`.

    `presets` maps a preset's name to the config values it changes; "full" is always there and
    changes nothing unless it says so, and "quick" is what a comparison on a CPU uses, for `budget`.
    `fit` gives a preset's values for certain images. `sampler` holds what can be chosen later.
    """

    config: type[TrainerConfig] = TrainerConfig
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fit: Callable[[ImageFacts, str], Mapping[str, Any]] | None = None
    sampler: type[SamplerConfig] = SamplerConfig
    budget: str = "10tflop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not issubclass(self.config, TrainerConfig):
            raise PluginError(
                f"config of {self.name!r} must be a subclass of genkit.specs.TrainerConfig"
            )
        if not (isinstance(self.sampler, type) and issubclass(self.sampler, SamplerConfig)):
            raise PluginError(
                f"sampler of {self.name!r} must be a subclass of genkit.specs.SamplerConfig"
            )


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """A data set. Target: `load(config, source, root) -> genkit.data.Splits`.

    `source` names what follows the colon in `--data NAME:SOURCE` (say "PATH", or "PATH or NAME"),
    None if nothing may. `root` is the folder where data sets live. `features` is the feature
    extractor that scores this data: "none" for none, None for the default extractor. `reference`
    names the images that its scores refer to, for extractors that ship those images' statistics.
    `default` data is what commands take if none is named; the first such data set counts.
    """

    source: str | None = None
    features: str | None = None
    reference: str | None = None
    default: bool = False


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a score table.

    Args:
        name: key of the value in what the metric returns, unique among all metrics.
        title: heading in the table.
        better: which direction is good; None for neither.
        ranks: models may be ranked by it alone.
        unbiased: its expectation does not depend on the number of samples, so that it ranks where
            they are few.
        corrected: an estimate of its bias is subtracted, and it is left out where samples are too
            few for that, so that it ranks as an unbiased one does.
        scale: factor on the value in tables, which the title should say ("KID x1000").
        decimals: digits after the point in tables.
        warn_below: a model whose value is lower by two standard deviations gets a note under the
            table, `warning` after its name; None for no note.
        shown: in tables; else in JSON only.
        help: what the value says, in a sentence or two, for the report page and `genkit info`;
            without it the page shows the metric's summary.
    """

    name: str
    title: str
    better: Literal["lower", "higher"] | None
    ranks: bool = True
    unbiased: bool = False
    corrected: bool = False
    scale: float = 1.0
    decimals: int = 2
    shown: bool = True
    help: str = ""
    warn_below: float | None = None
    warning: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Spec):
    """One or more scores. Target: `score(config, samples, reference)`.

    `samples` is a `genkit.features.ImageSet`, `reference` a `genkit.metrics.Reference`. It returns
    a number or a `genkit.metrics.Estimate` for each of `columns`, by name; columns that the
    extractor does not allow (class logits, say) may be left out. `definition` is what two scores
    must share to be comparable beside features and numbers of images: constants, variants.
    """

    columns: tuple[Column, ...] = ()
    definition: str = ""


@dataclass(frozen=True, kw_only=True)
class FeaturesSpec(Spec):
    """A feature extractor. Target: a `genkit.features.FeatureExtractor` subclass, opened by
    `open(config, data, reporter)`.

    `quick` says that it opens in no time and sees hundreds of images a second on a CPU: samples
    are then scored while a model trains. The first `default` one scores data that name none.
    """

    quick: bool = False
    default: bool = False
