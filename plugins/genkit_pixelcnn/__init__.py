"""The PixelCNN plugin: its config and its entry in the list of trainers. Imports no torch."""

from __future__ import annotations

from typing import Any

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


class PixelCNNConfig(TrainerConfig):
    """Size of the network and how it is optimised. The defaults are for real budgets.

    256 levels take images as they are, and 10 layers with dilations up to 8 see 35 rows up: all
    of a digit, and more than half of 64 rows. One pass over 60,000 digits takes one core about
    20 minutes; the preset "quick" is for those who have less than that in all.
    """

    levels: int = option(
        256,
        "values a pixel can take; images are rounded to them, 2 is black and white",
        ge=2,
        le=256,
        panel="Network",
    )
    channels: int = option(
        64, "features per position in each of the two stacks", ge=1, le=1024, panel="Network"
    )
    layers: int = option(
        10,
        "gated layers, the first of which looks 7 pixels wide and the others 3",
        ge=1,
        le=100,
        panel="Network",
    )
    dilation_cycle: int = option(
        4,
        "layers after which the dilation, doubled by each, starts at 1 again; 1 dilates nothing",
        ge=1,
        le=6,
        panel="Network",
    )
    conditional: bool = option(
        False, "draw images of a class that is asked for; for data with labels", panel="Network"
    )
    learning_rate: float = option(
        2e-3, "Adam's step size at its highest", gt=0, panel="Optimisation"
    )
    warmup_steps: int = option(
        200, "iterations in which the learning rate rises from 0", ge=0, panel="Optimisation"
    )
    decay_steps: int = option(
        5000,
        "iterations after which the learning rate falls as one over the square "
        "root of the iteration; 0 keeps it constant",
        ge=0,
        panel="Optimisation",
    )
    clip: float = option(
        1.0,
        "largest norm of the gradient of the loss, which is in nats per dimension",
        gt=0,
        panel="Optimisation",
    )
    batch_size: BatchSize = 32
    ema_half_life: HalfLife = 50_000


def fit(images: ImageFacts, preset: str) -> dict[str, Any]:
    """Two levels are for images that are nearly black and white; photographs need more to be
    photographs. "full" has all 256."""
    if preset != "quick" or images.kind == "black-and-white":
        return {}
    return {"levels": 32}


class PixelCNNSampler(SamplerConfig):
    """What can be chosen when images are drawn."""

    temperature: float = option(
        1.0,
        "divides all logits: below 1 probable values become more probable, above 1 less so",
        gt=0,
        le=100,
    )
    guidance: float = option(
        1.0,
        "strength of the label: 1 follows it as it was learned, 2 more clearly and with less "
        "variety, as many times slower as there are classes; for models trained with --conditional",
        ge=0,
        le=100,
    )


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="pixelcnn",
            summary="Gated PixelCNN, one pixel after another (van den Oord et al. 2016).",
            target="genkit_pixelcnn.model:PixelCNN",
            config=PixelCNNConfig,
            fit=fit,
            sampler=PixelCNNSampler,
            budget="14tflop",  # about two minutes on one core
            presets={
                # Some 200 images a second on one core with bf16; digits are readable in a minute.
                "quick": {
                    "levels": 2,
                    "channels": 32,
                    "layers": 6,
                    "learning_rate": 0.016,
                    "warmup_steps": 50,
                    "decay_steps": 200,
                    "clip": 0.2,
                    "batch_size": 16,
                    "ema_half_life": 5000,
                },
                "full": {},
            },
        )
    ]
