"""DCGAN as a genkit plugin: its spec and its options."""

from typing import Annotated, Literal

from pydantic import Field

from genkit.hookspecs import hookimpl
from genkit.specs import OPTIMISATION, BatchSize, TrainerConfig, TrainerSpec

NETWORK = {"panel": "Network"}


class DCGANConfig(TrainerConfig):
    """Options of DCGAN."""

    latent: int = Field(
        100, ge=1, le=4096, description="dimensions of the noise z", json_schema_extra=NETWORK
    )
    generator_width: int = Field(
        64, ge=4, le=1024, description="channels before the image", json_schema_extra=NETWORK
    )
    discriminator_width: int = Field(
        64, ge=4, le=1024, description="channels after the image", json_schema_extra=NETWORK
    )
    dropout: float = Field(
        0.3, ge=0, lt=1, description="share dropped in the discriminator", json_schema_extra=NETWORK
    )
    loss: Literal["non-saturating", "minimax"] = Field(
        "non-saturating",
        description="what the generator minimises: -log D(G(z)) or log(1 - D(G(z)))",
        json_schema_extra=OPTIMISATION,
    )
    generator_rate: float = Field(
        3e-4, gt=0, le=1, description="generator's learning rate", json_schema_extra=OPTIMISATION
    )
    discriminator_rate: float = Field(
        3e-4,
        gt=0,
        le=1,
        description="discriminator's learning rate",
        json_schema_extra=OPTIMISATION,
    )
    beta1: float = Field(
        0.5, ge=0, lt=1, description="Adam's decay of the mean", json_schema_extra=OPTIMISATION
    )
    batch_size: Annotated[BatchSize, Field(ge=2)] = 64  # BatchNorm needs two


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="dcgan",
            summary="Convolutional generator against discriminator (Radford et al. 2015).",
            target="genkit_dcgan.model:DCGAN",
            config=DCGANConfig,
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
