"""Features of EfficientNet-Lite0, whose ImageNet weights a package brings: no download."""

from __future__ import annotations

from genkit.hookspecs import hookimpl
from genkit.specs import FeaturesSpec


@hookimpl
def register_features() -> list[FeaturesSpec]:
    return [
        FeaturesSpec(
            name="efficientnet",
            summary="EfficientNet-Lite0, trained on ImageNet photos; works offline, any images",
            target="genkit_efficientnet.features:EfficientNet",
            default=True,
        )
    ]
