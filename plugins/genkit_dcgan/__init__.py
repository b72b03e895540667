"""DCGAN as a genkit plugin: its spec and its options."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from genkit.hookspecs import hookimpl
from genkit.specs import BatchSize, ImageFacts, TrainerConfig, TrainerSpec, option

AUGMENTATIONS = ("flip", "colour", "translation", "cutout")  # of genkit.augment, which loads torch


class DCGANConfig(TrainerConfig):
    """Options of DCGAN."""

    latent: int = option(100, "dimensions of the noise z", ge=1, le=4096, panel="Network")
    generator_width: int = option(64, "channels before the image", ge=4, le=1024, panel="Network")
    discriminator_width: int = option(
        64, "channels after the image", ge=4, le=1024, panel="Network"
    )
    dropout: float = option(0.3, "share dropped in the discriminator", ge=0, lt=1, panel="Network")
    conditional: bool = option(
        False, "draw images of a class that is asked for; for data with labels", panel="Network"
    )
    spectral_norm: bool = option(
        False, "bound the discriminator's slope by spectral normalisation", panel="Network"
    )
    loss: Literal[
        "non-saturating", "minimax", "least-squares", "hinge", "wasserstein", "relativistic"
    ] = option(
        "non-saturating",
        "the game: -log D(G(z)) or log(1 - D(G(z))) for the generator, or another distance",
        panel="Optimisation",
    )
    label_smoothing: float = option(
        0.0,
        "the discriminator's target for real images is 1 less this; for the losses with logarithms",
        ge=0,
        lt=0.5,
        panel="Optimisation",
    )
    r1: float = option(
        0.0, "weight of the discriminator's slope at real images", ge=0, panel="Optimisation"
    )
    r2: float = option(
        0.0, "weight of the discriminator's slope at samples", ge=0, panel="Optimisation"
    )
    penalty_every: int = option(
        4, "iterations from one r1 and r2 to the next", ge=1, le=1000, panel="Optimisation"
    )
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
    )
    augment_target: float = option(
        0.0,
        "augment a share of images that keeps the mean sign of D(x) here (about 0.6); 0: all",
        ge=0,
        lt=1,
        panel="Optimisation",
    )
    generator_rate: float = option(
        3e-4, "generator's learning rate", gt=0, le=1, panel="Optimisation"
    )
    discriminator_rate: float = option(
        3e-4, "discriminator's learning rate", gt=0, le=1, panel="Optimisation"
    )
    beta1: float = option(0.5, "Adam's decay of the mean", ge=0, lt=1, panel="Optimisation")
    batch_size: Annotated[BatchSize, Field(ge=2)] = 64  # BatchNorm needs two

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


def fit(images: ImageFacts, preset: str) -> dict[str, Any]:
    """Drawings with transparency are even areas with sharp edges: within minutes, twice the steps
    of half the images each are worth more than gradients with less noise. Of photographs the
    opposite was measured, and they stay as they are."""
    transparent = images.shape.channels in (2, 4)
    return {"batch_size": 16} if preset == "quick" and transparent else {}


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="dcgan",
            summary="Convolutional generator against discriminator (Radford et al. 2015).",
            target="genkit_dcgan.model:DCGAN",
            config=DCGANConfig,
            fit=fit,
            budget="18tflop",  # about two minutes on one core
            presets={
                # Small batches: at this size the number of steps counts. On a CPU, drawing
                # dropout's masks costs a third of the time and buys nothing within minutes.
                "quick": {
                    "generator_width": 32,
                    "discriminator_width": 32,
                    "dropout": 0.0,
                    "batch_size": 32,
                    "generator_rate": 5e-4,
                    "discriminator_rate": 5e-4,
                }
            },
        )
    ]
