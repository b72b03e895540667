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
    augment: float = option(
        0.0,
        "share of training images that each of six changes is made to, such as mirroring, turning "
        "and shifting; samples show none of them; for few images",
        ge=0,
        le=1,
        panel="Optimisation",
        alone=0.12,
    )
    learning_rate: float = option(
        1e-3,
        "Adam's learning rate at its highest",
        gt=0,
        le=1,
        panel="Optimisation",
    )
    warmup_steps: int = option(
        200, "iterations in which the rate rises", ge=1, panel="Optimisation"
    )
    decay_after: int = option(
        5000,
        "iterations after which the rate falls as 1/sqrt(iteration)",
        ge=1,
        panel="Optimisation",
    )
    batch_size: BatchSize = 64
    ema_half_life: HalfLife = 50_000


class FlowConfig(NetworkConfig):
    """Options of rectified flow."""

    coupling: Literal["independent", "optimal-transport"] = option(
        "independent",
        "which noise leads to which image of a batch: any, or as near ones as can be",
        panel="Optimisation",
    )
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


class DiffusionConfig(NetworkConfig):
    """Options of diffusion."""

    noise_mean: float = option(
        -1.2, "mean of the logarithm of sigma in training", ge=-10, le=10, panel="Optimisation"
    )
    noise_deviation: float = option(
        1.2, "standard deviation of that logarithm", gt=0, le=10, panel="Optimisation"
    )
    sigma_min: float = option(
        0.002, "the last sigma of the sampler before 0", gt=0, lt=1, panel="Network"
    )
    sigma_max: float = option(
        80.0, "the first sigma of the sampler", ge=1, le=1000, panel="Network"
    )


class MeanFlowConfig(NetworkConfig):
    """Options of MeanFlow."""

    guidance: float = option(
        1.0,
        "strength of the label, learned in training: 1 follows it as it is; for conditional models",
        ge=0,
        le=100,
        panel="Network",
    )
    time_mean: float = option(
        0.4, "mean of the normal logits of training times", ge=-5, le=5, panel="Optimisation"
    )
    time_deviation: float = option(
        1.0, "standard deviation of the logits of training times", gt=0, le=5, panel="Optimisation"
    )
    span_share: float = option(
        0.5,
        "share of training images whose velocity is averaged over a part of the path; the others "
        "teach that at a moment",
        ge=0,
        le=1,
        panel="Optimisation",
    )
    weight_power: float = option(
        1.0,
        "p of the weight 1 / (error + c)^p of an image; 0 weighs all alike",
        ge=0,
        le=4,
        panel="Optimisation",
    )
    weight_floor: float = option(0.001, "c of that weight", gt=0, le=10, panel="Optimisation")


class PathSampler(SamplerConfig):
    """What can be chosen when images are drawn by a flow."""

    steps: int = option(8, "steps from noise to image", ge=1, le=1000)
    solver: Literal["euler", "heun", "midpoint", "dpm++"] = option(
        "heun",
        "of the steps: euler and dpm++ ask the network once a step, heun and midpoint twice; the "
        "error of euler falls with the steps, that of the others with their square",
    )
    guidance: float = option(
        1.0,
        "strength of the label: 1 follows it as learned, above 1 more strongly and with less "
        "variety, 0 ignores it; for conditional models",
        ge=0,
        le=100,
    )


class DiffusionSampler(PathSampler):
    """And of diffusion."""

    churn: float = option(
        0.0,
        "noise added on the way, and removed again: 0 for none; the other solvers' only, not "
        "dpm++'s",
        ge=0,
        le=1000,
    )


class MeanFlowSampler(SamplerConfig):
    """What can be chosen when images are drawn by MeanFlow."""

    steps: int = option(1, "steps from noise to image", ge=1, le=1000)


QUICK = {
    "width": 32,
    "batch_size": 32,
    "learning_rate": 2e-3,
    "warmup_steps": 100,
    "decay_after": 1000,
    "ema_half_life": 20_000,
}
GPU = {  # 35 million parameters for 3 x 32 x 32
    "width": 160,
    "blocks": 3,
    "patch": 1,
    "attention": 2,
    "batch_size": 128,
    "learning_rate": 2e-4,
    "warmup_steps": 1000,
    "decay_after": 50_000,
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
            name="diffusion",
            summary="Diffusion as in EDM, on the U-Net of flow (Karras et al. 2022).",
            target="genkit_diffusion.diffusion:Diffusion",
            config=DiffusionConfig,
            sampler=DiffusionSampler,
            budget="8tflop",  # about two minutes on one core
            fit=fit,
            presets={"quick": QUICK},
        ),
        TrainerSpec(
            name="flow",
            summary="Rectified flow with a U-Net (Liu et al. 2022, Lipman et al. 2023).",
            target="genkit_diffusion.flow:Flow",
            config=FlowConfig,
            sampler=PathSampler,
            budget="12tflop",  # about two minutes on one core
            fit=fit,
            presets={"quick": QUICK},
        ),
        TrainerSpec(
            name="meanflow",
            summary="MeanFlow: samples in one step, on the U-Net of flow (Geng et al. 2025).",
            target="genkit_diffusion.meanflow:MeanFlow",
            config=MeanFlowConfig,
            sampler=MeanFlowSampler,
            budget="8tflop",  # about two minutes on one core
            fit=fit,
            presets={"quick": QUICK},
        ),
    ]
