"""Images with transparency under scores: what is hidden does not count, what shows does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import registry

from genkit.config.run import RunConfig
from genkit.data import ImageData
from genkit.data.alpha import over_black, over_white, premultiply
from genkit.evaluation.evaluator import Evaluator
from genkit.evaluation.protocol import EvaluationProtocol
from genkit.evaluation.reference import on_white, open_features
from genkit.evaluation.targets import evaluate
from genkit.features import FeatureExtractor, extract
from genkit.io.progress import Reporter
from genkit.runs.build import load_data
from genkit.specs import Config

torch.set_num_threads(1)


class Pixels(FeatureExtractor):
    """Pixels as features, the first of them as a logit."""

    identity = "pixels-00000000"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.flatten(1).float()
        return pixels, pixels[:, :1]


def straight(count: int, channels: int = 4, side: int = 8) -> np.ndarray:
    shape = (count, channels, side, side)
    images = np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)
    images[:, -1, : side // 2] = 0
    return images


@pytest.fixture
def data(tmp_path, monkeypatch) -> ImageData:
    """Labelled images of 4 x 8 x 8, with hidden colours in the file."""
    monkeypatch.setenv("GENKIT_CACHE", str(tmp_path / "cache"))
    images, labels = straight(60), np.arange(60) % 3
    images[:, 0] //= 1 + labels[:, None, None].astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=images.transpose(0, 2, 3, 1), labels=labels)
    return load_data(registry(), RunConfig(data=f"npz:{tmp_path / 'a.npz'}"))


@pytest.mark.parametrize("channels", [2, 4])
def test_features_are_those_on_white_and_on_black_and_logits_those_on_white(channels: int) -> None:
    images = premultiply(straight(70, channels))
    white, black = (torch.from_numpy(over(images)) for over in (over_white, over_black))
    features, logits = extract(Pixels(Config()), torch.from_numpy(images))
    expected = torch.cat([white.flatten(1), black.flatten(1)], 1).float()
    assert torch.equal(features, expected) and logits is not None
    assert torch.equal(logits, white.flatten(1)[:, :1].float())


def test_hidden_colours_change_no_feature_and_alpha_does() -> None:
    def features(images: np.ndarray) -> Tensor:
        return extract(Pixels(Config()), torch.from_numpy(premultiply(images)))[0]

    images = straight(3)
    other, fainter = images.copy(), images.copy()
    other[:, :3, :4] = 255 - other[:, :3, :4]  # where alpha is 0
    fainter[:, 3] //= 2
    assert torch.equal(features(images), features(other))
    assert not torch.equal(features(images), features(fainter))


@pytest.mark.parametrize("name", ["efficientnet", "classifier"])
def test_extractors_of_opaque_images_score_transparent_ones(name: str, data: ImageData) -> None:
    assert data.shape.channels == 4 and on_white(data).shape.channels == 3
    extractor = open_features(registry(), name, None, data)
    features, logits = extract(extractor, torch.from_numpy(data.test.images))
    size = {"efficientnet": 320, "classifier": 64}[name]
    assert features.shape == (len(data.test.images), 2 * size)
    assert logits is None or logits.shape == (len(data.test.images), 3)


def test_noise_and_copies_of_transparent_data_are_scored(data: ImageData) -> None:
    protocol = EvaluationProtocol(samples=50, features="efficientnet")
    evaluator = Evaluator.choose(registry(), data, protocol, Reporter())
    noise, copy = evaluate(["noise", "copy"], evaluator, load=None)
    assert noise.scores["kid"] > 10 * abs(copy.scores["kid"])
    assert copy.memorisation is not None
    assert copy.memorisation.pixels == copy.memorisation.features == 1
