"""Models that carry noise to images in steps: configs and entries in the list of trainers."""

from __future__ import annotations

from typing import Any, Literal

from genkit.hookspecs import hookimpl
from genkit.specs import (
    BatchSize,
    HalfLife,
    ImageFacts,
    SamplerConfig,
    TrainerConfig,
    TrainerSpec,
    option,
)


class NetworkConfig(TrainerConfig):
    """The U-Net, labels and the optimizer: options of all models of this plugin. The defaults are
    for a GPU; the preset "quick" is for minutes on two CPU cores."""

    width: int = option(
        128,
        "channels at the finest level; the coarser ones have twice as many",
        ge=8,
        le=1024,
        multiple_of=8,
        panel="Network",
    )
    blocks: int = option(
        2, "residual blocks at each level, down and up", ge=1, le=8, panel="Network"
    )
    patch: int = option(
        1,
        "pixels a side that one place of the finest level stands for; 2 is four times as fast",
        ge=1,
        le=4,
        panel="Network",
    )
    attention: int = option(
        2, "coarsest levels that have self-attention", ge=0, le=5, panel="Network"
    )
    dropout: float = option(
        0.0, "share of features left out in training", ge=0, lt=1, panel="Network"
    )
    conditional: bool = option(
        False, "draw images of a class that is asked for; for data with labels", panel="Network"
    )
    label_dropout: float = option(
        0.1,
        "share of training images whose label is hidden, which the guidance of samples needs; for "
        "conditional models",
        ge=0,
        lt=1,
        panel="Network",
    )
    learning_rate: float = option(2e-4, "Adam's learning rate", gt=0, le=1, panel="Optimisation")
    warmup_steps: int = option(
        1000, "iterations in which the rate rises", ge=1, panel="Optimisation"
    )
    decay_after: int = option(
        50_000,
        "iterations after which the rate falls as 1/sqrt(iteration)",
        ge=1,
        panel="Optimisation",
    )
    batch_size: BatchSize = 128
    ema_half_life: HalfLife = 500_000


class FlowConfig(NetworkConfig):
    """Options of rectified flow."""

    time_mean: float = option(
        0.0,
        "mean of the normal logits of training times; below 0 it looks more at the noisy part of "
        "the path",
        ge=-5,
        le=5,
        panel="Optimisation",
    )
    time_deviation: float = option(
        1.0, "standard deviation of the logits of training times", gt=0, le=5, panel="Optimisation"
    )


class GuidedSampler(SamplerConfig):
    """What can be chosen when images are drawn, for each of these models."""

    steps: int = option(20, "steps from noise to image", ge=1, le=1000)
    guidance: float = option(
        1.0,
        "strength of the label: 1 follows it as learned, above 1 more strongly and with less "
        "variety, 0 ignores it; for conditional models",
        ge=0,
        le=100,
    )


class FlowSampler(GuidedSampler):
    """And the solver of a flow."""

    solver: Literal["euler", "heun", "midpoint"] = option(
        "heun",
        "of the steps: euler asks the network once a step, heun and midpoint twice, with an error "
        "that falls with the square of the steps",
    )


QUICK = {
    "width": 64,
    "blocks": 1,
    "patch": 2,
    "attention": 1,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "warmup_steps": 100,
    "decay_after": 1000,
    "ema_half_life": 20_000,
}


def fit(images: ImageFacts, preset: str) -> dict[str, Any]:
    """Of large images a place of the finest level stands for more pixels."""
    if preset != "quick" or max(images.shape.height, images.shape.width) <= 48:
        return {}
    return {"patch": 4}


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="flow",
            summary="Rectified flow with a U-Net (Liu et al. 2022, Lipman et al. 2023).",
            target="genkit_diffusion.flow:Flow",
            config=FlowConfig,
            sampler=FlowSampler,
            fit=fit,
            presets={"quick": QUICK},
        ),
    ]
