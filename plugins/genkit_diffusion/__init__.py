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
    """The U-Net, labels and the optimizer: options of all models of this plugin. The defaults
    are for an hour on a CPU, the preset "quick" is for minutes; photographs get a network for a
    GPU by default, see `fit`."""

    width: int = option(
        64,
        "channels at the finest level; the coarser ones have twice as many",
        ge=8,
        le=1024,
        multiple_of=8,
        panel="Network",
    )
    blocks: int = option(
        1, "residual blocks at each level, down and up", ge=1, le=8, panel="Network"
    )
    patch: int = option(
        2,
        "pixels a side that one place of the finest level stands for; 2 is four times as fast",
        ge=1,
        le=4,
        panel="Network",
    )
    attention: int = option(
        1, "coarsest levels that have self-attention", ge=0, le=5, panel="Network"
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
    learning_rate: float = option(
        1e-3,
        "Adam's learning rate, which falls to 0 over the budget",
        gt=0,
        le=1,
        panel="Optimisation",
    )
    warmup_steps: int = option(
        200, "iterations in which the rate rises", ge=1, panel="Optimisation"
    )
    batch_size: BatchSize = 64
    ema_half_life: HalfLife = 50_000


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

    steps: int = option(12, "steps from noise to image", ge=1, le=1000)
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
    "width": 32,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "warmup_steps": 100,
    "ema_half_life": 10_000,
}
GPU = {  # 35 million parameters for 3 x 32 x 32
    "width": 160,
    "blocks": 3,
    "patch": 1,
    "attention": 2,
    "batch_size": 128,
    "learning_rate": 2e-4,
    "warmup_steps": 1000,
    "ema_half_life": 500_000,
}


def fit(images: ImageFacts, preset: str) -> dict[str, Any]:
    """Photographs are worth a network for a GPU; of large images a place of the finest level stands
    for more pixels where time is short."""
    if preset == "quick":
        return {"patch": 4} if max(images.shape.height, images.shape.width) > 48 else {}
    return GPU if images.kind == "colour" else {}


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="flow",
            summary="Rectified flow with a U-Net (Liu et al. 2022, Lipman et al. 2023).",
            target="genkit_diffusion.flow:Flow",
            config=FlowConfig,
            sampler=FlowSampler,
            budget="8tflop",  # about two minutes on one core
            fit=fit,
            presets={"quick": QUICK},
        ),
    ]
