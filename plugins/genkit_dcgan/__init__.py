"""DCGAN as a genkit plugin: its spec and its options."""

from typing import Annotated, Literal

from pydantic import Field

from genkit.hookspecs import hookimpl
from genkit.specs import BatchSize, TrainerConfig, TrainerSpec, option


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
    loss: Literal["non-saturating", "minimax"] = option(
        "non-saturating",
        "what the generator minimises: -log D(G(z)) or log(1 - D(G(z)))",
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


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="dcgan",
            summary="Convolutional generator against discriminator (Radford et al. 2015).",
            target="genkit_dcgan.model:DCGAN",
            config=DCGANConfig,
            budget="14tflop",  # about two minutes on a core without bf16
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
