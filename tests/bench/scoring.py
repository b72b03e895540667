"""FID, KID and Inception Score of three models against one reference, features `digits`.

torch-fidelity with its defaults, called once per model, computes the reference again each time
unless its cache is on; genkit starts with an empty cache in each round and also computes error
bars. One thread; CPU time of torch-fidelity's DataLoader workers counts. The time of scores does
not depend on the images, so the models are digits with increasing noise.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from unittest import mock

import torch
from safetensors.torch import load_file
from subjects import digits, registry
from timing import Figure, compare, interleave, main
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity import FeatureExtractorBase, calculate_metrics, register_feature_extractor

from genkit.config.run import RunConfig
from genkit.evaluation.evaluator import Evaluator
from genkit.evaluation.protocol import EvaluationProtocol
from genkit.runs.build import load_data
from genkit_fidelity.features import DIGITS_WEIGHTS

STOCK, KEPT = "torch-fidelity", "torch-fidelity with a cache"
THREE, ALL = "genkit", "genkit, all scores"
SCORES = {
    "fid": "frechet_inception_distance",
    "kid": "kernel_inception_distance_mean",
    "is": "inception_score_mean",
}
METRICS = ("fid", "kid", "inception-score")


class Vectors(Dataset[Tensor]):
    """Images as torch-fidelity asks for them: each a tensor."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Tensor:
        return self.values[index]


class StockDigits(FeatureExtractorBase):
    """The same network, written as one would for torch-fidelity."""

    def __init__(self, name: str, features_list: list[str], **_: object) -> None:
        super().__init__(name, features_list)
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in ((1, 16, 5), (16, 32, 3), (32, 64, 3)):
            convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.MaxPool2d(2), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(576, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)
        self.load_state_dict(load_file(DIGITS_WEIGHTS))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.trunk((images.float() - 127.5) / 127.5)
        outputs = {"features": features, "logits": self.head(features)}
        return tuple(outputs[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, str]:
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"


def models_of(images: Tensor) -> dict[str, Tensor]:
    """Samples of three "models"."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=generator)
    return {f"{1 / level:.0%} noise": torch.maximum(images, noise // level) for level in (8, 4, 2)}


def score_stock(models: dict[str, Tensor], real: Tensor, keep: bool) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        kept = {"input2_cache_name": "reference", "cache_root": folder} if keep else {}
        found = {}
        for name, samples in models.items():
            scores = calculate_metrics(
                input1=Vectors(samples),
                input2=Vectors(real),
                feature_extractor="digits",
                fid=True,
                kid=True,
                isc=True,
                kid_subset_size=min(1000, len(samples)),
                cuda=False,
                verbose=False,
                **kept,
            )
            found[name] = {short: scores[key] for short, key in SCORES.items()}
    return found


def score_genkit(models: dict[str, Tensor], everything: bool) -> dict[str, dict[str, float]]:
    data = load_data(registry(), RunConfig())
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, GENKIT_CACHE=folder):
        evaluator = Evaluator.choose(registry(), data, EvaluationProtocol())
        if everything:
            score = partial(_score_by_all, evaluator)
        else:
            three = {name: registry().metrics[name] for name in METRICS}
            score = partial(_score_by, three, evaluator)
        return {name: score(name, samples) for name, samples in models.items()}


def _score_by_all(evaluator: Evaluator, name: str, samples: Tensor) -> dict:
    return evaluator.evaluate_images(name, samples).scores


def _score_by(metrics: dict, evaluator: Evaluator, name: str, samples: Tensor) -> dict:
    with mock.patch.object(evaluator.registry, "metrics", metrics):
        return evaluator.score(evaluator.image_set(samples)).values


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    count, rounds = (100, 1) if quick else (10_000, 5)
    real = torch.from_numpy(digits().images)
    models = models_of(real[:count])
    register_feature_extractor("digits", StockDigits)
    found = {}
    works = {
        STOCK: lambda: score_stock(models, real, keep=False),
        KEPT: lambda: score_stock(models, real, keep=True),
        THREE: lambda: score_genkit(models, everything=False),
        ALL: lambda: score_genkit(models, everything=True),
    }
    variants = {n: lambda n=n, work=work: found.update({n: work()}) for n, work in works.items()}
    turns = interleave(variants, rounds, warm=0)
    for name in models:  # FID differs: genkit's is against the statistics of all of MNIST
        ours, theirs = found[THREE][name], found[STOCK][name]
        assert abs(ours["is"] / theirs["is"] - 1) < 1e-3, (ours, theirs)
        assert quick or abs(ours["kid"] / theirs["kid"] - 1) < 0.1, (ours, theirs)
    title = f"FID, KID, IS of three models by {count:,} samples each"
    return [
        compare(f"{title}, {STOCK} to genkit", turns, STOCK, THREE, must=2, aim=5),
        compare(f"{title}, {KEPT} to genkit", turns, KEPT, THREE, aim=4),
        compare(f"{title}, {STOCK} to genkit with all its scores", turns, STOCK, ALL),
    ]


if __name__ == "__main__":
    main(measure, __doc__)
