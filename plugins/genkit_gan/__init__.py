"""A residual GAN as a genkit plugin: its spec and its options."""

from typing import Annotated

from pydantic import Field

from genkit.adversarial_options import (
    R1,
    R2,
    AdversarialConfig,
    DiscriminatorRate,
    Game,
    GeneratorRate,
)
from genkit.hookspecs import hookimpl
from genkit.specs import BatchSize, TrainerSpec, option


class GANConfig(AdversarialConfig):
    """Options of the residual GAN."""

    generator_width: int = option(64, "channels before the image", ge=4, le=1024, panel="Network")
    discriminator_width: int = option(
        64, "channels after the image", ge=4, le=1024, panel="Network"
    )
    depth: int = option(1, "residual blocks at each size", ge=1, le=8, panel="Network")
    loss: Game = "relativistic"
    r1: R1 = 10.0
    r2: R2 = 10.0
    generator_rate: GeneratorRate = 3e-4
    discriminator_rate: DiscriminatorRate = 3e-4
    batch_size: Annotated[BatchSize, Field(ge=2)] = 64  # BatchNorm needs two


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="gan",
            summary="Residual generator against residual discriminator (Huang et al. 2024).",
            target="genkit_gan.model:GAN",
            config=GANConfig,
            budget="18tflop",
            presets={
                "quick": {  # within minutes the number of steps counts more than the batch
                    "generator_width": 32,
                    "discriminator_width": 32,
                    "batch_size": 16,
                    "generator_rate": 5e-4,
                    "discriminator_rate": 5e-4,
                }
            },
        )
    ]
