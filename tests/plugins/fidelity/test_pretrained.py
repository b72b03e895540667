"""Features of networks that others trained: found, fetched, checked, run as torch-fidelity does.

No weights are there: where a test runs a network, random ones of the same structure stand where
the published file would be. That is plumbing, and no score; golden values are in test_golden.py,
and Inception's plumbing in test_fidelity_features.py.
"""

from __future__ import annotations

import hashlib
import urllib.error
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch_fidelity import feature_extractor_clip as stock_clip
from torch_fidelity import feature_extractor_inceptionv3 as stock_inception
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

from genkit.data import ImageData, Split
from genkit.errors import UsageError
from genkit.features import extract
from genkit.specs import ImageShape
from genkit_fidelity import WeightsConfig
from genkit_fidelity.pretrained import CLIP, VGG16, DINOv2, Inception

torch.set_num_threads(1)
ALL = [Inception, VGG16, CLIP, DINOv2]


def noise(count: int, seed: int, shape=(3, 20, 20), high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(high, (count, *shape), generator=generator, dtype=torch.uint8)


def data_of(shape) -> ImageData:
    split = Split(np.zeros((2, *shape), dtype=np.uint8))
    return ImageData(
        name="npz:black",
        train=split,
        test=split,
        classes=(),
        notes=(),
        features="inception",
        reference=None,
        held_out=False,
    )


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """An empty hub cache and no network."""

    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    for extractor in ALL:
        monkeypatch.delenv(extractor.weights.variable, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    return tmp_path / "hub"


def publish(monkeypatch, extractor, weights, save=torch.save) -> Path:
    """Put weights where the published ones would be cached, and take them for those."""
    path = extractor.weights.cached
    path.parent.mkdir(parents=True, exist_ok=True)
    save(weights, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(extractor, "weights", replace(extractor.weights, sha256=digest))
    return path


def test_addresses_and_hashes_are_those_of_torch_fidelity():
    assert Inception.weights.url == stock_inception.URL_INCEPTION_V3
    assert VGG16.weights.url == torchvision.models.VGG16_Weights.IMAGENET1K_V1.url
    assert CLIP.weights.url == stock_clip.MODEL_URLS["clip-vit-b-32"]
    assert CLIP.weights.sha256 == stock_clip.MODEL_METADATA["clip-vit-b-32"]["hash"]
    for extractor in (Inception, VGG16, CLIP):  # torch.hub compares hashes with such names
        assert extractor.weights.sha256.startswith(
            torch.hub.HASH_REGEX.search(extractor.weights.file)[1]
        )
    assert len({extractor.weights.variable for extractor in ALL}) == 4
    for extractor in ALL:
        assert len(bytes.fromhex(extractor.weights.sha256)) == 32


@pytest.mark.parametrize("extractor", ALL)
def test_without_a_network_the_error_says_what_to_fetch_and_where_to_put_it(hub, extractor):
    weights = extractor.weights
    for opening in (
        lambda: extractor(WeightsConfig()),
        lambda: extractor.check(WeightsConfig(), data_of((3, 8, 8))),
    ):
        with pytest.raises(UsageError) as caught:
            opening()
        for words in (
            weights.url,
            f"{weights.size_bytes:,} bytes",
            weights.sha256,
            str(hub / "checkpoints" / weights.file),
            "--feature-weights PATH",
            f"GENKIT_{weights.features.upper()}_WEIGHTS=PATH",
            "--features digits",
            "--features classifier",
            "Name or service not known",
        ):
            assert words in str(caught.value)
    assert not list((hub / "checkpoints").iterdir())


@pytest.mark.parametrize("extractor", ALL)
def test_the_option_or_variable_whose_file_is_missing_is_named(hub, monkeypatch, extractor):
    with pytest.raises(UsageError, match=r"--feature-weights names absent\.pth"):
        extractor(WeightsConfig(weights="absent.pth"))
    monkeypatch.setenv(extractor.weights.variable, "gone.pth")
    with pytest.raises(UsageError, match=rf"{extractor.weights.variable} names gone\.pth"):
        extractor.check(WeightsConfig(), data_of((3, 8, 8)))


@pytest.mark.parametrize("place", ["option", "variable", "hub"])
@pytest.mark.parametrize("extractor", ALL)
def test_a_file_with_another_hash_is_refused_before_it_is_opened(
    hub, monkeypatch, extractor, place
):
    path = extractor.weights.cached
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    if place == "variable":
        monkeypatch.setenv(extractor.weights.variable, str(path))
    for opener in (torch, torch.jit):
        monkeypatch.setattr(opener, "load", lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(UsageError) as caught:
        extractor(WeightsConfig(weights=str(path) if place == "option" else None))
    assert hashlib.sha256(b"something else").hexdigest() in str(caught.value)
    assert extractor.weights.sha256 in str(caught.value)


@pytest.mark.parametrize("extractor", ALL)
def test_fetched_networks_take_grey_and_rgb_only(extractor):
    extractor.check_shape(ImageShape(1, 28, 28))
    extractor.check_shape(ImageShape(3, 32, 32))
    with pytest.raises(UsageError, match="not 4 x 32 x 32"):
        extractor.check_shape(ImageShape(4, 32, 32))


# Plumbing, with random weights


@pytest.mark.slow
def test_vgg16_features_are_those_of_torch_fidelity_and_torchvision(hub, monkeypatch):
    torch.manual_seed(0)
    with torch.device("meta"):
        structure = torchvision.models.vgg16().state_dict()
    # Rows of equal weights make the file small: 103 million of them are in one layer.
    state = {
        name: torch.randn(len(values), *[1] * (values.ndim - 1)).expand(values.shape) / 50
        for name, values in structure.items()
    }
    publish(monkeypatch, VGG16, state)
    extractor = VGG16(WeightsConfig())
    grey = noise(2, 0, (1, 20, 20))
    features, logits = extract(extractor, grey)
    assert features.shape == (2, 4096) and logits is None

    images = grey.expand(-1, 3, -1, -1)
    own = FeatureExtractorVGG16("vgg16", ["fc2_relu"])  # finds the file in torch's hub cache
    assert torch.equal(features, own(images)[0])

    flat = torch.tensor([10, 200, 90], dtype=torch.uint8)[:, None, None].expand(1, 3, 20, 20)
    model = torchvision.models.vgg16().eval()
    model.load_state_dict(state)
    transform = torchvision.models.VGG16_Weights.IMAGENET1K_V1.transforms()  # resizing is nothing
    with torch.inference_mode():
        hidden = model.avgpool(model.features(transform(flat))).flatten(1)
        wanted = model.classifier[:5](hidden)
    assert (wanted > 0).any() and (wanted == 0).any()
    torch.testing.assert_close(extract(extractor, flat)[0], wanted, rtol=1e-4, atol=1e-5)


class TinyCLIP(nn.Module):
    """What torch-fidelity reads of a CLIP file, with 2 layers of 64 instead of 12 of 768."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = stock_clip.CLIPVisual(16, 224, 2, 64, 32).visual
        self.text_projection = nn.Parameter(torch.zeros(8, 16))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.visual(images)


def test_clip_features_are_those_of_torch_fidelity(hub, monkeypatch):
    torch.manual_seed(0)
    network = TinyCLIP().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; CLIP's file is in it
        traced = torch.jit.trace(network, torch.zeros(1, 3, 224, 224))
        publish(monkeypatch, CLIP, traced, torch.jit.save)
        # It finds the file in torch's hub cache by itself.
        own = stock_clip.FeatureExtractorCLIP("clip-vit-b-32", ["clip"], verbose=False)
    extractor = CLIP(WeightsConfig())
    grey = noise(3, 0, (1, 20, 20))
    features, logits = extract(extractor, grey)
    assert features.shape == (3, 16) and features.std(0).min() > 0 and logits is None
    assert torch.equal(features, own(grey.expand(-1, 3, -1, -1))[0])

    flat = torch.full((1, 3, 20, 20), 77, dtype=torch.uint8)
    mean, deviation = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),  # of openai/CLIP's preprocessing
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    pixels = ((77 / 255 - mean) / deviation)[:, None, None].expand(1, 3, 224, 224)
    with torch.inference_mode():
        # torch-fidelity rounds CLIP's weights to half precision, as their file has them.
        torch.testing.assert_close(
            extract(extractor, flat)[0], network(pixels), rtol=2e-2, atol=2e-2
        )


# A stand-in for the repository whose code torch.hub runs: the mean colour, as three features.
STAND_IN = """
import torch

class MeanColour(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.rand(3))

    def forward(self, images):
        return images.mean((2, 3)) * self.scale

def dinov2_vitl14(pretrained=True):
    assert not pretrained, "the weights must come from the file that was checked"
    return MeanColour()
"""


def test_dinov2_runs_its_repository_from_the_cache_with_weights_that_were_checked(hub, monkeypatch):
    """With a stand-in for the repository: DINOv2's own network cannot be had offline."""
    folder = hub / "facebookresearch_dinov2_main"
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text(STAND_IN)
    monkeypatch.setenv("XFORMERS_DISABLED", "")  # which loading sets: restore it afterwards
    publish(monkeypatch, DINOv2, {"scale": torch.tensor([1.0, 2.0, 3.0])})
    before = torch.get_rng_state()
    DINOv2.check(WeightsConfig(), data_of((1, 8, 8)))
    features, logits = extract(DINOv2(WeightsConfig()), torch.full((2, 1, 8, 8), 200).byte())
    assert torch.equal(torch.get_rng_state(), before)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    wanted = (200 / 255 - mean) / deviation * [1, 2, 3]
    assert features.numpy() == pytest.approx(np.stack([wanted] * 2), rel=1e-5)
    assert logits is None


@pytest.mark.parametrize("opening", ["check", "open"])
def test_without_its_repository_dinov2_says_where_to_put_it(hub, monkeypatch, opening):
    monkeypatch.setenv("XFORMERS_DISABLED", "")
    publish(monkeypatch, DINOv2, {})
    with pytest.raises(UsageError) as caught:
        if opening == "check":
            DINOv2.check(WeightsConfig(), data_of((3, 8, 8)))
        else:
            DINOv2(WeightsConfig())
    for words in (
        "the features 'dinov2' lack their code",
        "https://github.com/facebookresearch/dinov2/archive/main.zip",
        str(hub / "facebookresearch_dinov2_main"),
        "--features classifier",
        "Name or service not known",
    ):
        assert words in str(caught.value)
