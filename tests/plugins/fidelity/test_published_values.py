"""Published values of real networks on real data; skipped where weights or data are missing.

What is needed: CIFAR-10 in torchvision's layout under GENKIT_DATA, and each network's weights
under its variable, such as GENKIT_INCEPTION_WEIGHTS, or in torch's hub cache. The values are those
of torch-fidelity's README (50,000 images) and of its tests, tests/torch_versions_ge_1_13_0, on
random subsets of 5,000 images; tolerances are theirs, which allow for other machines, but for KID:
folded batch normalisation rounds otherwise.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from genkit.data.datasets import data_root
from genkit.features import extract
from genkit.specs import Config
from genkit_datasets.classic import load_cifar10
from genkit_fidelity import WeightsConfig
from genkit_fidelity.pretrained import CLIP, VGG16, Inception, Pretrained

pytestmark = pytest.mark.slow
SUBSET = 5_000
SUBSET_SEED = 2020


@cache
def cifar10() -> dict[str, torch.Tensor]:
    """Both splits, uint8 (N, 3, 32, 32)."""
    root = data_root()
    if not (root / "cifar-10-batches-py").is_dir():
        pytest.skip(f"CIFAR-10 is missing: no cifar-10-batches-py in {root} (GENKIT_DATA)")
    splits = load_cifar10(Config(), None, root)
    return {
        "train": torch.from_numpy(splits.train.images),
        "test": torch.from_numpy(splits.test.images),
    }


@cache
def subset(split: str) -> torch.Tensor:
    """The 5,000 images that torch-fidelity's tests draw from a split, in the order of its files."""
    images = cifar10()[split]
    random = np.random.RandomState(SUBSET_SEED)
    return images[np.sort(random.choice(len(images), SUBSET, replace=False))]


def open_network(extractor: type[Pretrained]) -> Pretrained:
    weights = extractor.weights
    if not os.environ.get(weights.variable) and not weights.cached.is_file():
        pytest.skip(f"weights are missing: neither {weights.variable} nor {Path(weights.cached)}")
    cifar10()  # skip before the network is built
    return extractor(WeightsConfig()).to("cuda" if torch.cuda.is_available() else "cpu")


def test_inception_score_of_cifar10():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: 50,000 images take more than an hour on a CPU")
    _, logits = extract(open_network(Inception), cifar10()["train"])
    found = isc_features_to_metric(logits)
    assert found["inception_score_mean"] == pytest.approx(11.23678, rel=1e-3)
    assert found["inception_score_std"] == pytest.approx(0.09514, rel=1e-2)


def test_inception_scores_of_cifar10_subsets():
    extractor = open_network(Inception)
    train, logits = extract(extractor, subset("train"))
    test, _ = extract(extractor, subset("test"))
    statistics = (fid_features_to_statistics(features) for features in (train, test))
    found = {
        **isc_features_to_metric(logits),
        **fid_statistics_to_metric(*statistics, False),
        **kid_features_to_metric(train, test, verbose=False),
    }
    assert found["inception_score_mean"] == pytest.approx(10.75051, abs=1e-2)
    assert found["inception_score_std"] == pytest.approx(0.5778723, abs=1e-3)
    assert found["frechet_inception_distance"] == pytest.approx(10.32333, abs=1e-2)
    assert found["kernel_inception_distance_mean"] == pytest.approx(-2.907863e-05, abs=1e-6)
    assert found["kernel_inception_distance_std"] == pytest.approx(0.0001023118, abs=1e-6)


def test_vgg16_precision_and_recall_of_cifar10_subsets():
    extractor = open_network(VGG16)
    features = [extract(extractor, subset(split))[0] for split in ("train", "test")]
    found = prc_features_to_metric(*features, save_cpu_ram=True, verbose=False)
    assert found["precision"] == pytest.approx(0.6852, abs=1e-3)
    assert found["recall"] == pytest.approx(0.6908, abs=1e-3)


def test_clip_features_of_a_cifar10_subset():
    """Their softmax has no meaning, but torch-fidelity records its Inception Score."""
    found = isc_features_to_metric(extract(open_network(CLIP), subset("train"))[0])
    assert found["inception_score_mean"] == pytest.approx(1.034257746757046, abs=1e-3)
    assert found["inception_score_std"] == pytest.approx(0.00041031304234824675, abs=1e-6)
