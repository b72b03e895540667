"""Rectified flow as a genkit plugin: its spec and its options."""

from typing import Literal

from pydantic import Field

from genkit.hookspecs import hookimpl
from genkit.specs import OPTIMISATION, BatchSize, HalfLife, TrainerConfig, TrainerSpec

NETWORK = {"panel": "Network"}
SAMPLER = {"panel": "Sampler"}


class FlowConfig(TrainerConfig):
    """Options of rectified flow."""

    width: int = Field(
        64,
        ge=8,
        le=1024,
        multiple_of=8,
        description="channels at the finest level; each coarser one has twice as many, up to four "
        "times",
        json_schema_extra=NETWORK,
    )
    blocks: int = Field(
        2,
        ge=1,
        le=8,
        description="residual blocks at each level, down and up",
        json_schema_extra=NETWORK,
    )
    patch: int = Field(
        2,
        ge=1,
        le=4,
        description="pixels a side that one place of the finest level stands for; 1 is slow",
        json_schema_extra=NETWORK,
    )
    steps: int = Field(
        25, ge=1, le=1000, description="steps from noise to image", json_schema_extra=SAMPLER
    )
    solver: Literal["euler", "heun"] = Field(
        "heun",
        description="of the steps: euler looks once at each, heun twice, with an error that falls "
        "with the square of the steps",
        json_schema_extra=SAMPLER,
    )
    time_mean: float = Field(
        -0.5,
        ge=-5,
        le=5,
        description="mean of the normal logits of training times; below 0 it looks more at the "
        "noisy half of the path",
        json_schema_extra=OPTIMISATION,
    )
    time_deviation: float = Field(
        1.0,
        gt=0,
        le=5,
        description="standard deviation of the logits of training times",
        json_schema_extra=OPTIMISATION,
    )
    learning_rate: float = Field(
        1e-3, gt=0, le=1, description="Adam's learning rate", json_schema_extra=OPTIMISATION
    )
    warmup_steps: int = Field(
        100,
        ge=1,
        description="iterations in which the rate rises",
        json_schema_extra=OPTIMISATION,
    )
    decay_after: int = Field(
        5000,
        ge=1,
        description="iterations after which the rate falls as 1/sqrt(iteration)",
        json_schema_extra=OPTIMISATION,
    )
    batch_size: BatchSize = 128
    ema_half_life: HalfLife = 50_000


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="flow",
            summary="Rectified flow with a small U-Net (Liu et al. 2022).",
            target="genkit_flow.model:Flow",
            config=FlowConfig,
            presets={
                "quick": {
                    "width": 32,
                    "blocks": 1,
                    "steps": 10,
                    "batch_size": 32,
                    "learning_rate": 2e-3,
                    "decay_after": 1000,
                }
            },
        )
    ]
