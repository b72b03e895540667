"""Features of networks that others have trained: Inception, VGG-16, CLIP and DINOv2.

torch-fidelity defines and runs them. Here their weights are found, downloaded and checked: no
file is opened that is not exactly the published one.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

from genkit.data import ImageData, downloading
from genkit.errors import UsageError
from genkit.features import FeatureExtractor
from genkit.specs import ImageShape
from genkit_fidelity import WeightsConfig

DINOV2_CODE = "facebookresearch/dinov2:main"  # on GitHub


@dataclass(frozen=True)
class Weights:
    """A published file of weights, and its name in torch's hub cache, which is torch-fidelity's."""

    features: str
    file: str
    url: str
    sha256: str
    size_bytes: int

    @property
    def variable(self) -> str:
        """The environment variable that may name the file."""
        return f"GENKIT_{self.features.upper()}_WEIGHTS"

    @property
    def cached(self) -> Path:
        return Path(torch.hub.get_dir(), "checkpoints", self.file)

    def find(self, given: str | None) -> Path:
        """The user's file, else the one in torch's hub cache, downloaded if it is not there.

        Raises:
            UsageError: there is none, or it is not exactly the published one.
        """
        named = ((given, "--feature-weights"), (os.environ.get(self.variable), self.variable))
        for name, source in named:
            if name:
                path = Path(os.path.expanduser(name))
                if not path.is_file():
                    raise UsageError(
                        f"{source} names {name}, which is not a file: correct the path, or leave "
                        f"it out to download {self.file}"
                    )
                break
        else:
            path = self.cached
            if not path.is_file():
                self._download()
        # Hashed before it is opened: torch-fidelity unpickles it, which can run code.
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise UsageError(
                f"{path} is not the file that the features '{self.features}' are computed with: "
                f"its SHA-256 is {found}, not {self.sha256}. Remove it or replace it with "
                f"{self.url}"
            )
        return path

    def _download(self) -> None:
        remedy = (
            f"On a machine with a network fetch that file ({self.size_bytes:,} bytes, SHA-256 "
            f"{self.sha256}) and put it at {self.cached}, or name it with --feature-weights PATH "
            f"or {self.variable}=PATH"
        )
        with _download(self.features, "weights", self.url, remedy):
            self.cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                self.url, str(self.cached), self.sha256, progress=sys.stderr.isatty()
            )


def _download(features: str, what: str, url: str, remedy: str) -> AbstractContextManager[None]:
    """Let torch download what features need; the error says what to do without a network."""
    return downloading(
        f"the features '{features}' lack their {what}: {url}",
        f"{remedy}. Without it, --features digits scores handwritten digits of 1 x 28 x 28, "
        "--features classifier any images with labels, and --features none leaves out all scores "
        "that need features",
    )


class Pretrained(FeatureExtractor):
    """Base of the features whose weights are downloaded. Grey images are repeated over the three
    channels; each network resizes bilinearly, as TensorFlow 1 does, and normalises by itself.

    Raises:
        UsageError: no weights, or a file that is not exactly the published one.
    """

    weights: ClassVar[Weights]

    def __init__(self, config: WeightsConfig) -> None:
        super().__init__(config)
        path = self.weights.find(config.weights)
        self.identity = f"{self.weights.features}-{self.weights.sha256[:8]}"
        with torch.random.fork_rng(devices=[]):  # networks are initialised before they are loaded
            self.network = self.build(path)
        self.requires_grad_(False).eval()

    @staticmethod
    def build(path: Path) -> FeatureExtractorBase:
        """The network with the weights of a file that was checked."""
        raise NotImplementedError

    @classmethod
    def check(cls, config: WeightsConfig, data: ImageData) -> None:  # type: ignore[override]
        cls.check_shape(data.shape)
        cls.weights.find(config.weights)

    @classmethod
    def check_shape(cls, shape: ImageShape) -> None:
        if shape.channels not in (1, 3):
            raise UsageError(
                f"the features '{cls.weights.features}' take images of 1 or 3 channels, not "
                f"{shape}: convert the images to grey or RGB"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features, float32, (N, D), and logits, (N, classes), or None, of images, uint8,
        (N, 1 or 3, H, W)."""
        features, *logits = self.network(images.expand(-1, 3, -1, -1))
        return features, logits[0] if logits else None


class FusedInception(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """torch-fidelity's Inception, faster: each batch normalisation folded into its convolution,
    and channels last. Features differ from the original's by rounding."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            "inception-v3-compat",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=str(path),
        )
        for module in self.modules():
            if isinstance(module, BasicConv2d):
                module.conv = fuse_conv_bn_eval(module.conv, module.bn)
                module.bn = nn.Identity()
        self.to(memory_format=torch.channels_last)


class Inception(Pretrained):
    """The Inception network of the published scores.

    Those are the FID of Heusel et al. 2017 and the Inception Score of Salimans et al. 2016.
    2048 pooled features of 299 x 299 pixels, and 1008 logits without the bias, as in the original
    code; torch-fidelity's own port of the weights.
    """

    weights = Weights(
        features="inception",
        file="weights-inception-2015-12-05-6726825d.pth",
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        size_bytes=95_628_359,
    )
    build = staticmethod(FusedInception)


class VGG16(Pretrained):
    """torchvision's VGG-16: the 4096 values of its second fully connected layer after the ReLU.

    The features of improved precision and recall (Kynkäänniemi et al. 2019, section 3), there
    with TensorFlow's weights.
    """

    weights = Weights(
        features="vgg16",
        file="vgg16-397923af.pth",
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        size_bytes=553_433_881,
    )

    @staticmethod
    def build(path: Path) -> FeatureExtractorBase:
        return FeatureExtractorVGG16(
            "vgg16", ["fc2_relu"], feature_extractor_weights_path=str(path)
        )


class CLIP(Pretrained):
    """OpenAI's CLIP ViT-B/32 (Radford et al. 2021): 512 image features."""

    weights = Weights(
        features="clip",
        file="clip-vit-b-32-40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af.pt",
        url="https://openaipublic.azureedge.net/clip/models/"
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        size_bytes=353_976_522,
    )

    @staticmethod
    def build(path: Path) -> FeatureExtractorBase:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`torch.jit.load`")  # what the file is for
            return FeatureExtractorCLIP(
                "clip-vit-b-32", ["clip"], feature_extractor_weights_path=str(path)
            )


class HubDINOv2(FeatureExtractorDinoV2):  # type: ignore[misc]
    """torch-fidelity's DINOv2 with the weights of a file, which it does not take by itself."""

    def __init__(self, path: Path) -> None:
        FeatureExtractorBase.__init__(self, "dinov2-vit-l-14", ["dinov2"])
        self.feature_extractor_internal_dtype = torch.float32
        _fetch_dinov2_code()
        with _without_xformers():
            self.model = torch.hub.load(
                DINOV2_CODE, "dinov2_vitl14", pretrained=False, verbose=False
            )
        self.model.load_state_dict(torch.load(path, weights_only=True))  # noqa: TID251


class DINOv2(Pretrained):
    """DINOv2 ViT-L/14 (Oquab et al. 2023): the 1024 values of the class token.

    Stein et al. 2023 found distances between them closer to human judgement than Inception's.
    Their code resizes bicubically, so numbers differ from theirs. torch.hub runs the network's
    code from GitHub. Its authors publish no hash of the weights: the one here is what independent
    projects have recorded of the file.
    """

    weights = Weights(
        features="dinov2",
        file="dinov2_vitl14_pretrain.pth",
        url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
        sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
        size_bytes=1_217_586_395,
    )
    build = staticmethod(HubDINOv2)

    @classmethod
    def check(cls, config: WeightsConfig, data: ImageData) -> None:  # type: ignore[override]
        super().check(config, data)
        _fetch_dinov2_code()


def _fetch_dinov2_code() -> None:
    """Make sure that DINOv2's code is in torch's hub cache, and can be imported."""
    url = "https://github.com/facebookresearch/dinov2"
    folder = Path(torch.hub.get_dir(), "facebookresearch_dinov2_main")
    remedy = f"On a machine with a network fetch {url}/archive/main.zip and unpack it as {folder}"
    with _download("dinov2", "code", url, remedy), _without_xformers():
        torch.hub.list(DINOV2_CODE, verbose=False)


@contextmanager
def _without_xformers() -> Iterator[None]:
    """Run DINOv2 without xFormers, as torch-fidelity does, and without a warning that says so."""
    os.environ["XFORMERS_DISABLED"] = "1"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="xFormers")
        yield
