"""Opens feature extractors by name, and real images as the reference of scores."""

from __future__ import annotations

from dataclasses import replace

import torch

from genkit.data import ImageData
from genkit.data.alpha import has_alpha, over_white
from genkit.errors import PluginError, plugin_code
from genkit.features import FeatureExtractor, ImageSet
from genkit.io.progress import Reporter
from genkit.metrics import Reference
from genkit.registry.catalogue import Registry
from genkit.specs import Config


def find_features(
    registry: Registry, name: str, weights: str | None
) -> tuple[type[FeatureExtractor], Config]:
    """The class and the config of the extractor of that name."""
    spec = registry.features.find(name)
    values = {"weights": weights} if weights and "weights" in spec.config.model_fields else {}
    target = spec.load()
    if not (isinstance(target, type) and issubclass(target, FeatureExtractor)):
        raise PluginError(f"{spec.target} is not a FeatureExtractor")
    return target, spec.config(**values)


def open_features(
    registry: Registry,
    name: str,
    weights: str | None,
    data: ImageData,
    reporter: Reporter | None = None,
) -> FeatureExtractor:
    """The feature extractor of that name for a data set; UsageError if it cannot score it."""
    target, config = find_features(registry, name, weights)
    with plugin_code(f"opening features {name!r}"):
        seen = on_white(data)
        extractor = target.open(config, seen, reporter)
        extractor.check_shape(seen.shape)
    return extractor.eval()


def on_white(data: ImageData) -> ImageData:
    """The data set as extractors know it: transparent images lie on white."""
    if not has_alpha(data.shape.channels):
        return data
    return replace(
        data,
        train=replace(data.train, images=over_white(data.train.images)),
        test=replace(data.test, images=over_white(data.test.images)),
    )


def reference_for(
    data: ImageData, extractor: FeatureExtractor, reporter: Reporter | None = None
) -> Reference:
    """What samples of a data set are compared with. Statistics are those that the extractor ships
    of this data set's reference, if it does; else of the training split."""

    def split(part: str) -> ImageSet:
        labels = getattr(data, part).labels
        return ImageSet(
            torch.from_numpy(getattr(data, part).images),
            extractor,
            name=f"{data.name} {part}",
            keep=f"{extractor.identity}-{data.fingerprint[:32]}-{part}",
            reporter=reporter,
            labels=None if labels is None else torch.from_numpy(labels),
        )

    train, test = split("train"), split("test")
    shipped = extractor.shipped_statistics(data.reference) if data.reference else None
    if shipped is not None:
        return Reference(str(data.reference), shipped.count, train, test, shipped)
    return Reference(train.name, len(train), train, test)
