"""The PixelRNN plugin: its config and its entry in the list of trainers. Imports no torch."""

from __future__ import annotations

from typing import Literal

from genkit.hookspecs import hookimpl
from genkit.specs import (
    BatchSize,
    HalfLife,
    SamplerConfig,
    TrainerConfig,
    TrainerSpec,
    option,
)


class PixelRNNConfig(TrainerConfig):
    """Size of the network and how it is optimised.

    The defaults are the paper's network for black-and-white digits: 7 layers with 16 features in
    each direction. One pass over 60,000 digits takes one core about 10 minutes.
    """

    cell: Literal["diagonal", "row"] = option(
        "diagonal",
        "the recurrence: diagonal sees all of the past but one pixel of the row above, row "
        "a triangle above the pixel and is faster",
        panel="Network",
    )
    levels: int = option(
        2,
        "values a pixel can take; images are rounded to them, 2 is black and white",
        ge=2,
        le=256,
        panel="Network",
    )
    layers: int = option(7, "LSTM layers", ge=1, le=100, panel="Network")
    width: int = option(
        16,
        "features of an LSTM's state; what layers hand on has twice as many",
        ge=1,
        le=1024,
        panel="Network",
    )
    head_width: int = option(
        32, "features of the two layers behind the LSTMs", ge=1, le=4096, panel="Network"
    )
    residual: bool = option(
        True, "each layer adds to what it was given, instead of replacing it", panel="Network"
    )
    skip: bool = option(
        True, "the last layers see the output of every LSTM, not of the last alone", panel="Network"
    )
    positions: bool = option(
        False,
        "each row and each column has learned features, which tell a pixel where it is; the "
        "paper's network has to count",
        panel="Network",
    )
    conditional: bool = option(
        False, "draw images of a class that is asked for; for data with labels", panel="Network"
    )
    learning_rate: float = option(
        0.001, "Adam's step size at its highest", gt=0, panel="Optimisation"
    )
    warmup_steps: int = option(
        200, "iterations in which the learning rate rises from 0", ge=0, panel="Optimisation"
    )
    decay_steps: int = option(
        0,
        "iterations after which the learning rate falls as one over the square root of the "
        "iteration; 0 keeps it constant",
        ge=0,
        panel="Optimisation",
    )
    clip: float = option(
        1.0,
        "largest norm of the gradient of the loss, which is in nats per dimension",
        gt=0,
        panel="Optimisation",
    )
    batch_size: BatchSize = 16
    ema_half_life: HalfLife = 50_000


class PixelRNNSampler(SamplerConfig):
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
            name="pixelrnn",
            summary="PixelRNN: Row LSTM and Diagonal BiLSTM (van den Oord et al. 2016).",
            target="genkit_pixelrnn.model:PixelRNN",
            config=PixelRNNConfig,
            sampler=PixelRNNSampler,
            budget="4tflop",  # about two minutes on one core
            presets={
                # Some 300 images a second on one core with bf16; two layers see as far as seven.
                "quick": {
                    "layers": 2,
                    "positions": True,
                    "learning_rate": 0.016,
                    "warmup_steps": 50,
                    "decay_steps": 200,
                    "clip": 0.2,
                    "ema_half_life": 5000,
                },
                "full": {},  # table 1 of the paper, MNIST
                "colour": {  # table 1, CIFAR-10
                    "levels": 256,
                    "layers": 12,
                    "width": 128,
                    "head_width": 1024,
                },
            },
        )
    ]
