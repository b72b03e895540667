"""A normalising flow as a genkit plugin: its spec and its options."""

from genkit.hookspecs import hookimpl
from genkit.specs import BatchSize, SamplerConfig, TrainerConfig, TrainerSpec, option


class NiceConfig(TrainerConfig):
    """Options of NICE."""

    couplings: int = option(4, "layers, each of which moves half of the pixels", ge=2, le=64)
    width: int = option(512, "hidden units of a layer's network", ge=1, le=65536)
    learning_rate: float = option(1e-3, "Adam's learning rate", gt=0, le=1)
    batch_size: BatchSize = 128


class NiceSampler(SamplerConfig):
    """What can be chosen when images are drawn."""

    temperature: float = option(1.0, "factor on the noise that images start from", gt=0, le=10)


@hookimpl
def register_trainers() -> list[TrainerSpec]:
    return [
        TrainerSpec(
            name="nice",
            summary="NICE, a normalising flow of additive couplings (Dinh et al. 2014).",
            target="genkit_nice.model:Nice",
            config=NiceConfig,
            sampler=NiceSampler,
            presets={"quick": {"width": 256}},
        )
    ]
