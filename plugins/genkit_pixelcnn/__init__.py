"""The PixelCNN plugin: its config and its entry in the list of trainers. Imports no torch."""

from __future__ import annotations

from pydantic import Field

from genkit.hookspecs import hookimpl
from genkit.specs import TrainerConfig, TrainerSpec


class PixelCNNConfig(TrainerConfig):
    """Size of the network and how it is optimised. The defaults are for real budgets.

    256 levels model the images as they are; the layers' dilations let 10 of them see 29 rows.
    """

    levels: int = Field(
        256,
        ge=2,
        le=256,
        description="values a pixel can take; images are rounded to them, 2 is black and white",
        json_schema_extra={"panel": "Network"},
    )
    channels: int = Field(
        64,
        ge=1,
        le=1024,
        description="features per position in each of the two stacks",
        json_schema_extra={"panel": "Network"},
    )
    layers: int = Field(
        10,
        ge=1,
        le=100,
        description="gated layers, the first of which looks 7 pixels wide and the others 3",
        json_schema_extra={"panel": "Network"},
    )
    dilation_cycle: int = Field(
        3,
        ge=1,
        le=6,
        description="layers after which the dilation, doubled by each, starts at 1 again; "
        "1 dilates nothing",
        json_schema_extra={"panel": "Network"},
    )
    learning_rate: float = Field(
        1e-3,
        gt=0,
        description="Adam's step size at its highest",
        json_schema_extra={"panel": "Optimisation"},
    )
    warmup_steps: int = Field(
        200,
        ge=0,
        description="iterations in which the learning rate rises from 0",
        json_schema_extra={"panel": "Optimisation"},
    )
    decay_steps: int = Field(
        10_000,
        ge=0,
        description="iterations after which the learning rate falls as one over the square "
        "root of the iteration; 0 keeps it constant",
        json_schema_extra={"panel": "Optimisation"},
    )
    clip: float = Field(
        0.1,
        gt=0,
        description="largest norm of the gradient of the loss, which is in nats per dimension",
        json_schema_extra={"panel": "Optimisation"},
    )
    batch_size: int = Field(32, ge=1, description="images per iteration, over all devices")
    ema_half_life: int = Field(
        20_000,
        ge=0,
        description="images after which a weight counts half in the average that is "
        "sampled and scored; 0 turns averaging off",
    )


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="pixelcnn",
            summary="Gated PixelCNN: draws pixel after pixel and knows each image's probability",
            target="genkit_pixelcnn.model:PixelCNN",
            config=PixelCNNConfig,
            presets={
                "quick": {
                    "levels": 2,
                    "channels": 32,
                    "layers": 5,
                    "dilation_cycle": 3,
                    "learning_rate": 4e-3,
                    "decay_steps": 1000,
                    "warmup_steps": 50,
                    "batch_size": 16,
                    "ema_half_life": 5000,
                },
                "full": {},
            },
        )
    ]
