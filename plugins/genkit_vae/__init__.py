"""The variational autoencoder as a genkit plugin: its spec and its options."""

from typing import Literal

from pydantic import Field

from genkit.hookspecs import hookimpl
from genkit.specs import OPTIMISATION, BatchSize, TrainerConfig, TrainerSpec

NETWORK = {"panel": "Network"}


class VAEConfig(TrainerConfig):
    """Options of the VAE."""

    latent: int = Field(
        32, ge=1, le=4096, description="dimensions of the latent z", json_schema_extra=NETWORK
    )
    width: int = Field(
        32, ge=4, le=1024, description="channels next to the image", json_schema_extra=NETWORK
    )
    hidden: int = Field(
        256,
        ge=1,
        le=65536,
        description="units between convolutions and latent",
        json_schema_extra=NETWORK,
    )
    likelihood: Literal["auto", "bernoulli", "logistic"] = Field(
        "auto",
        description="of a pixel given z: bernoulli (auto for grey), or discretised logistic "
        "over 256 levels (auto for RGB)",
        json_schema_extra=NETWORK,
    )
    beta: float = Field(
        1.0,
        ge=0,
        description="weight of the KL term; 1 is the ELBO",
        json_schema_extra=OPTIMISATION,
    )
    learning_rate: float = Field(
        1e-3, gt=0, le=1, description="Adam's learning rate", json_schema_extra=OPTIMISATION
    )
    decay_after: int = Field(
        5000,
        ge=1,
        description="iterations after which the rate falls as 1/sqrt(iteration)",
        json_schema_extra=OPTIMISATION,
    )
    batch_size: BatchSize = 128


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="vae",
            summary="Convolutional variational autoencoder (Kingma and Welling 2013).",
            target="genkit_vae.model:VAE",
            config=VAEConfig,
            presets={
                "quick": {
                    "latent": 10,
                    "width": 16,
                    "batch_size": 64,
                    "learning_rate": 2e-3,
                    "decay_after": 1500,
                }
            },
        )
    ]
