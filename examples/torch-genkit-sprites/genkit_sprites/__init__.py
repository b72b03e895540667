"""Game sprites as a genkit plugin: a data set, features and a metric; specs and options only."""

from genkit.hookspecs import hookimpl
from genkit.specs import Column, Config, DatasetSpec, FeaturesSpec, MetricSpec, option


class SpritesConfig(Config):
    """How many sprites are drawn, and how large."""

    size: int = option(24, "pixels a side", ge=8, le=64)
    train_images: int = option(6000, "sprites to learn from", ge=8, le=100_000)
    test_images: int = option(1000, "sprites held out", ge=8, le=100_000)
    drawing_seed: int = option(0, "start of all randomness of the drawing", ge=0)


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
