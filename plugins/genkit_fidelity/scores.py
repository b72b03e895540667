"""FID and the Inception Score, computed by torch-fidelity's public `calculate_metrics`.

No arithmetic of a score is done here: images and statistics go in, named numbers come out.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity import (
    KEY_METRIC_FID,
    KEY_METRIC_ISC_MEAN,
    KEY_METRIC_ISC_STD,
    FeatureExtractorBase,
    calculate_metrics,
    register_feature_extractor,
)

from genkit.errors import GenkitError, PluginError, UsageError
from genkit.metrics import FeatureExtractor, Reference
from genkit.specs import Config, ImageShape

SPLITS = 10  # parts of the samples over which the Inception Score is averaged, as published
SEED = 2020  # of the order in which samples fall into those parts
REFERENCE = "reference"  # torch-fidelity's cache name for the reference statistics


class Images(Dataset[Tensor]):
    """uint8 images, (N, C, H, W), as the data set that torch-fidelity asks for."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


class Bridge(FeatureExtractorBase):
    """A genkit feature extractor under torch-fidelity's interface: layers "features", "logits".

    torch-fidelity builds it by name and passes on keywords that it does not know itself; the
    extractor arrives as one of them, on its own device, to which the images follow it.
    """

    def __init__(
        self, name: str, features_list: Sequence[str], *, extractor: FeatureExtractor, **_: Any
    ) -> None:
        super().__init__(name, features_list)
        self.extractor = extractor

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        images = images.to(next(self.extractor.parameters(), images).device)
        outputs = dict(zip(("features", "logits"), self.extractor(images), strict=True))
        for layer, values in outputs.items():
            if values.dtype != torch.float32 or values.shape[:-1] != images.shape[:1]:
                raise PluginError(
                    f"{layer} of {self.name} are {values.dtype} {tuple(values.shape)}: "
                    f"they must be float32 ({len(images)}, D)"
                )
        return tuple(outputs[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features", "logits")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"


@cache  # torch-fidelity refuses a name that it has already
def register(identity: str) -> None:
    """Make the bridge known to torch-fidelity under an extractor's identity."""
    register_feature_extractor(identity, Bridge)


def score(
    config: Config, samples: Tensor, reference: Reference, extractor: FeatureExtractor
) -> dict[str, float]:
    """Fréchet distance of samples to the reference, and their Inception Score.

    FID (Heusel et al. 2017, equation 6) with the mean and covariance of the reference; IS
    (Salimans et al. 2016, section 4) as mean and standard deviation over ten parts of the samples
    in random order. Both equal torch-fidelity's on the same images and features, and torch's
    random numbers are left as they were.

    Args:
        samples: uint8, (N, C, H, W), N at least 10.

    Returns:
        "fid", "is" and "is_std".

    Raises:
        UsageError: too few samples or references, not uint8 images, or of a shape that the
            features cannot take.
    """
    if samples.dtype != torch.uint8 or samples.ndim != 4:
        raise UsageError(
            f"samples are {samples.dtype} {tuple(samples.shape)}: scores need uint8 (N, C, H, W)"
        )
    if len(samples) < SPLITS:  # fewer make the Inception Score NaN, without a word
        raise UsageError(
            f"{len(samples)} samples are too few for the Inception Score over {SPLITS} parts: "
            f"give at least {SPLITS}, and 2,000 or more for a score that means something"
        )
    extractor.check_shape(ImageShape(*samples.shape[1:]))
    statistics = reference.statistics(extractor)
    if statistics.count < 2:
        raise UsageError(
            f"the reference {reference.name!r} holds {statistics.count} images: a covariance needs "
            "at least 2"
        )

    register(extractor.identity)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        # torch-fidelity takes statistics from its cache only: this is a cache of one entry, in a
        # folder of its own since its key knows neither weights nor images.
        entry = f"{REFERENCE}-{extractor.identity}-stat-fid-features.pt"
        torch.save(
            {"mu": statistics.mean.numpy(), "sigma": statistics.covariance.numpy()},
            Path(folder, entry),
        )
        # Unknown keywords pass without complaint, so a test compares these with its defaults.
        scores = calculate_metrics(
            input1=Images(samples),
            # Stands in for the reference. One image has no covariance: were the entry above ever
            # overlooked, eigvals would raise instead of scoring against the wrong images.
            input2=Images(samples[:1]),
            input2_cache_name=REFERENCE,
            cache_root=folder,
            feature_extractor=extractor.identity,
            extractor=extractor,  # goes to the bridge
            isc=True,
            isc_splits=SPLITS,
            fid=True,
            rng_seed=SEED,
            batch_size=64,
            cuda=False,  # the bridge moves the images
            save_cpu_ram=True,  # no worker processes
            verbose=False,
        )
    found = {
        "fid": scores[KEY_METRIC_FID],
        "is": scores[KEY_METRIC_ISC_MEAN],
        "is_std": scores[KEY_METRIC_ISC_STD],
    }
    if not all(map(math.isfinite, found.values())):
        raise GenkitError(
            f"scores are not finite ({found}): the features of {extractor.identity} or the "
            f"statistics of {reference.name!r} are damaged"
        )
    return found
