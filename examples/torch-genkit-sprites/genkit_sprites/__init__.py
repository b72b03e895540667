"""Game sprites as a genkit plugin: a data set, features and a metric; specs and options only."""

from pydantic import Field

from genkit.hookspecs import hookimpl
from genkit.specs import Column, Config, DatasetSpec, FeaturesSpec, MetricSpec


class SpritesConfig(Config):
    """How many sprites are drawn, and how large."""

    size: int = Field(24, ge=8, le=64, description="pixels a side")
    train_images: int = Field(6000, ge=8, le=100_000, description="sprites to learn from")
    test_images: int = Field(1000, ge=8, le=100_000, description="sprites held out")
    drawing_seed: int = Field(0, ge=0, description="start of all randomness of the drawing")


@hookimpl
def register_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="sprites",
            summary="7,000 game sprites of 8 kinds, 3 x 24 x 24; drawn on the spot, no download",
            target="genkit_sprites.drawing:load",
            config=SpritesConfig,
            features="sprite-features",
        )
    ]


@hookimpl
def register_features() -> list[FeaturesSpec]:
    return [
        FeaturesSpec(
            name="sprite-features",
            summary="Colours, coarse layout and edges of RGB images; no network, works offline",
            target="genkit_sprites.features:SpriteFeatures",
            quick=True,
        )
    ]


@hookimpl
def register_metrics() -> list[MetricSpec]:
    return [
        MetricSpec(
            name="palette",
            summary="Distance between the colour histograms of samples and training images",
            target="genkit_sprites.palette:score",
            columns=(Column(name="palette_distance", title="palette\ndistance", better="lower"),),
            definition="total variation distance of RGB histograms, 8 x 8 x 8 bins, all pixels",
        )
    ]
