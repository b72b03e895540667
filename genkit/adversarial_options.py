"""Options that all models with a generator and a discriminator share: the game, and its cures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from genkit.specs import OPTIMISATION, TrainerConfig, option

AUGMENTATIONS = ("flip", "colour", "translation", "cutout")  # of genkit.augment, which loads torch

GANLoss = Literal[
    "non-saturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"
]
# Types with their descriptions: a subclass may give these options other defaults (`r1: R1 = 1.0`).
Game = Annotated[
    GANLoss,
    Field(
        description="the game: -log D(G(z)) or log(1 - D(G(z))) for the generator, or another "
        "distance",
        json_schema_extra=OPTIMISATION,
    ),
]
SpectralNorm = Annotated[
    bool,
    Field(
        description="bound the discriminator's slope by spectral normalisation",
        json_schema_extra={"panel": "Network"},
    ),
]
R1 = Annotated[
    float,
    Field(
        ge=0,
        description="weight of the discriminator's slope at real images",
        json_schema_extra=OPTIMISATION,
    ),
]
R2 = Annotated[
    float,
    Field(
        ge=0,
        description="weight of the discriminator's slope at samples",
        json_schema_extra=OPTIMISATION,
    ),
]
PenaltyEvery = Annotated[
    int,
    Field(
        ge=1,
        le=1000,
        description="iterations from one r1 and r2 to the next",
        json_schema_extra=OPTIMISATION,
    ),
]
GeneratorRate = Annotated[
    float,
    Field(gt=0, le=1, description="generator's learning rate", json_schema_extra=OPTIMISATION),
]
DiscriminatorRate = Annotated[
    float,
    Field(gt=0, le=1, description="discriminator's learning rate", json_schema_extra=OPTIMISATION),
]
Beta1 = Annotated[
    float,
    Field(ge=0, lt=1, description="Adam's decay of the mean", json_schema_extra=OPTIMISATION),
]


class AdversarialConfig(TrainerConfig):
    """Base of the config of a `genkit.adversarial.AdversarialModel`, which follows all of it."""

    latent: int = option(100, "dimensions of the noise z", ge=1, le=4096, panel="Network")
    conditional: bool = option(
        False, "draw images of a class that is asked for; for data with labels", panel="Network"
    )
    spectral_norm: SpectralNorm = False
    loss: Game = "non-saturating"
    label_smoothing: float = option(
        0.0,
        "the discriminator's target for real images is 1 less this; for the losses with logarithms",
        ge=0,
        lt=0.5,
        panel="Optimisation",
    )
    r1: R1 = 0.0
    r2: R2 = 0.0
    penalty_every: PenaltyEvery = 4
    gradient_penalty: float = option(
        10.0,
        "weight of slopes other than 1 between real images and samples, with loss wasserstein",
        ge=0,
        panel="Optimisation",
    )
    discriminator_steps: int = option(
        1,
        "updates of the discriminator for one of the generator",
        ge=1,
        le=100,
        panel="Optimisation",
    )
    augment: str = option(
        "none",
        "what the discriminator sees is changed at random, for few images: some of flip, colour, "
        "translation and cutout, separated by commas",
        panel="Optimisation",
        alone="colour,translation,cutout",
    )
    augment_target: float = option(
        0.0,
        "augment a share of images that keeps the mean sign of D(x) here (about 0.6), or of D(x) "
        "less D(G(z)) where the loss knows differences only; 0: all",
        ge=0,
        lt=1,
        panel="Optimisation",
    )
    generator_rate: GeneratorRate = 3e-4
    discriminator_rate: DiscriminatorRate = 3e-4
    beta1: Beta1 = 0.5

    @field_validator("augment")
    @classmethod
    def _augmentations_are_known(cls, text: str) -> str:
        for kind in kinds_in(text):
            if kind not in AUGMENTATIONS:
                raise ValueError(
                    f"{kind!r} is not one of {', '.join(AUGMENTATIONS)}, or none alone"
                )
        return text

    @property
    def augmentations(self) -> tuple[str, ...]:
        """Names of `genkit.augment.AUGMENTATIONS`."""
        return kinds_in(self.augment)


def kinds_in(text: str) -> tuple[str, ...]:
    """The words between commas; "none" are none."""
    kinds = tuple(kind.strip() for kind in text.split(",") if kind.strip())
    return () if kinds == ("none",) else kinds
