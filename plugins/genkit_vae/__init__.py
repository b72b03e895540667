"""The variational autoencoder as a genkit plugin: its spec and its options."""

from typing import Any, Literal

from genkit.hookspecs import hookimpl
from genkit.specs import BatchSize, ImageFacts, TrainerConfig, TrainerSpec, option


class VAEConfig(TrainerConfig):
    """Options of the VAE."""

    latent: int = option(32, "dimensions of the latent z", ge=1, le=4096, panel="Network")
    width: int = option(32, "channels next to the image", ge=4, le=1024, panel="Network")
    hidden: int = option(
        256, "units between convolutions and latent", ge=1, le=65536, panel="Network"
    )
    likelihood: Literal["auto", "bernoulli", "logistic"] = option(
        "auto",
        "of a pixel given z: bernoulli (auto for nearly black and white), or discretised logistic "
        "over 256 levels (auto for photos)",
        panel="Network",
    )
    conditional: bool = option(
        False, "draw images of a class that is asked for; for data with labels", panel="Network"
    )
    beta: float = option(1.0, "weight of the KL term; 1 is the ELBO", ge=0, panel="Optimisation")
    learning_rate: float = option(1e-3, "Adam's learning rate", gt=0, le=1, panel="Optimisation")
    decay_after: int = option(
        5000,
        "iterations after which the rate falls as 1/sqrt(iteration)",
        ge=1,
        panel="Optimisation",
    )
    batch_size: BatchSize = 128


def fit(images: ImageFacts, preset: str) -> dict[str, Any]:
    """Bernoulli pixels are for images that are nearly black and white: of photographs they would
    be means of black and white. Photographs have more in them than ten latents hold."""
    if images.kind == "black-and-white":
        return {}
    sizes = {"latent": 64, "width": 32} if images.kind == "colour" else {"latent": 32, "width": 24}
    return {"likelihood": "logistic", **(sizes if preset == "quick" else {})}


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="vae",
            summary="Convolutional variational autoencoder (Kingma and Welling 2013).",
            target="genkit_vae.model:VAE",
            config=VAEConfig,
            fit=fit,
            budget="6tflop",  # about two minutes on one core
            presets={
                "quick": {
                    "latent": 10,
                    "width": 16,
                    "batch_size": 64,
                    "learning_rate": 2e-3,
                    "decay_after": 1500,
                }
            },
        )
    ]
