"""The PixelRNN plugin: its config and its entry in the list of trainers. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.config import JsonDict

from genkit.hookspecs import hookimpl
from genkit.specs import OPTIMISATION, BatchSize, HalfLife, TrainerConfig, TrainerSpec

NETWORK: JsonDict = {"panel": "Network"}


class PixelRNNConfig(TrainerConfig):
    """Size of the network and how it is optimised.

    The defaults are the paper's network for black-and-white digits: 7 layers with 16 features in
    each direction. One pass over 60,000 digits takes one core about 10 minutes.
    """

    cell: Literal["diagonal", "row"] = Field(
        "diagonal",
        description="the recurrence: diagonal sees all of the past but one pixel of the row "
        "above, row a triangle above the pixel and is faster",
        json_schema_extra=NETWORK,
    )
    levels: int = Field(
        2,
        ge=2,
        le=256,
        description="values a pixel can take; images are rounded to them, 2 is black and white",
        json_schema_extra=NETWORK,
    )
    layers: int = Field(7, ge=1, le=100, description="LSTM layers", json_schema_extra=NETWORK)
    width: int = Field(
        16,
        ge=1,
        le=1024,
        description="features of an LSTM's state; what layers hand on has twice as many",
        json_schema_extra=NETWORK,
    )
    head_width: int = Field(
        32,
        ge=1,
        le=4096,
        description="features of the two layers behind the LSTMs",
        json_schema_extra=NETWORK,
    )
    residual: bool = Field(
        True,
        description="each layer adds to what it was given, instead of replacing it",
        json_schema_extra=NETWORK,
    )
    skip: bool = Field(
        True,
        description="the last layers see the output of every LSTM, not of the last alone",
        json_schema_extra=NETWORK,
    )
    positions: bool = Field(
        False,
        description="each row and each column has learned features, which tell a pixel where it "
        "is; the paper's network has to count",
        json_schema_extra=NETWORK,
    )
    learning_rate: float = Field(
        1e-3, gt=0, description="Adam's step size at its highest", json_schema_extra=OPTIMISATION
    )
    warmup_steps: int = Field(
        200,
        ge=0,
        description="iterations in which the learning rate rises from 0",
        json_schema_extra=OPTIMISATION,
    )
    decay_steps: int = Field(
        0,
        ge=0,
        description="iterations after which the learning rate falls as one over the square "
        "root of the iteration; 0 keeps it constant",
        json_schema_extra=OPTIMISATION,
    )
    clip: float = Field(
        1.0,
        gt=0,
        description="largest norm of the gradient of the loss, which is in nats per dimension",
        json_schema_extra=OPTIMISATION,
    )
    batch_size: BatchSize = 16
    ema_half_life: HalfLife = 50_000


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="pixelrnn",
            summary="PixelRNN: Row LSTM and Diagonal BiLSTM (van den Oord et al. 2016).",
            target="genkit_pixelrnn.model:PixelRNN",
            config=PixelRNNConfig,
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
