"""Rectified flow as a genkit plugin: its spec and its options."""

from typing import Literal

from genkit.hookspecs import hookimpl
from genkit.specs import BatchSize, HalfLife, TrainerConfig, TrainerSpec, option


class FlowConfig(TrainerConfig):
    """Options of rectified flow."""

    width: int = option(
        64,
        "channels at the finest level; each coarser one has twice as many, up to four times",
        ge=8,
        le=1024,
        multiple_of=8,
        panel="Network",
    )
    blocks: int = option(
        2, "residual blocks at each level, down and up", ge=1, le=8, panel="Network"
    )
    patch: int = option(
        2,
        "pixels a side that one place of the finest level stands for; 1 is slow",
        ge=1,
        le=4,
        panel="Network",
    )
    steps: int = option(25, "steps from noise to image", ge=1, le=1000, panel="Sampler")
    solver: Literal["euler", "heun"] = option(
        "heun",
        "of the steps: euler looks once at each, heun twice, with an error that falls "
        "with the square of the steps",
        panel="Sampler",
    )
    time_mean: float = option(
        -0.5,
        "mean of the normal logits of training times; below 0 it looks more at the "
        "noisy half of the path",
        ge=-5,
        le=5,
        panel="Optimisation",
    )
    time_deviation: float = option(
        1.0, "standard deviation of the logits of training times", gt=0, le=5, panel="Optimisation"
    )
    learning_rate: float = option(1e-3, "Adam's learning rate", gt=0, le=1, panel="Optimisation")
    warmup_steps: int = option(
        100, "iterations in which the rate rises", ge=1, panel="Optimisation"
    )
    decay_after: int = option(
        5000,
        "iterations after which the rate falls as 1/sqrt(iteration)",
        ge=1,
        panel="Optimisation",
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
