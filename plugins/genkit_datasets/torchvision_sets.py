"""`torchvision:NAME`: torchvision's data sets of images with one label each, or none."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from genkit.data import Split, Splits, downloading
from genkit.errors import UsageError
from genkit_datasets import TorchvisionConfig

# What each class of torchvision.datasets is called with for its training and its test images.
BY_TRAIN: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})
BY_SPLIT: tuple[dict[str, Any], dict[str, Any]] = ({"split": "train"}, {"split": "test"})
BY_TRAINVAL: tuple[dict[str, Any], dict[str, Any]] = ({"split": "trainval"}, {"split": "test"})
BY_VAL: tuple[dict[str, Any], dict[str, Any]] = ({"split": "train"}, {"split": "val"})
PARTS = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "USPS"), BY_TRAIN),
    **dict.fromkeys(("Country211", "DTD", "Flowers102", "Food101", "GTSRB"), BY_SPLIT),
    **dict.fromkeys(("PCAM", "RenderedSST2", "STL10", "SVHN", "StanfordCars"), BY_SPLIT),
    **dict.fromkeys(("FGVCAircraft", "OxfordIIITPet"), BY_TRAINVAL),
    "Imagenette": BY_VAL,
    "CelebA": BY_SPLIT,
    "EMNIST": tuple({"split": "balanced", **part} for part in BY_TRAIN),
    **dict.fromkeys(("Caltech101", "EuroSAT", "SEMEION"), ({},)),
}
LARGEST_NATIVE, SCALED = 128, 32  # pixels a side


def load(config: TorchvisionConfig, source: str, root: Path) -> Splits:
    """Images and labels of a class of `torchvision.datasets`, downloaded into `root` if need be.

    Raises:
        UsageError: there is no such data set, or it could not be had.
    """
    from torchvision import datasets

    known = {name.casefold(): name for name in PARTS}
    name = known.get(source.casefold())
    if name is None:
        raise UsageError(
            f"torchvision:{source} is none of the data sets that genkit reads from torchvision: "
            f"{', '.join(sorted(PARTS))}"
        )
    kind = getattr(datasets, name)
    remedy = "Give --data-root DIR where the files lie, as torchvision leaves them"
    with (
        downloading(f"{name} is missing or damaged in {root} and", remedy),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of old pickles and of parts that will change
        try:
            parts = [kind(root, download=True, **options) for options in PARTS[name]]
        except ImportError as error:
            raise UsageError(f"torchvision needs a package for {name}: {error}") from None
        found = [_read(part, config.size, name) for part in parts]
    if len({images.shape[1:] for images, _ in found}) > 1:
        raise UsageError(f"images of {name} differ in shape; give --data-option size=32")
    labels = [part for _, part in found]
    classes: tuple[str, ...] = ()
    if all(part is not None for part in labels):
        values = np.unique(np.concatenate([part for part in labels if part is not None]))
        names = getattr(parts[0], "classes", getattr(parts[0], "categories", None)) or ()
        labels = [np.searchsorted(values, part) for part in labels if part is not None]
        whole = len(names) == len(values)
        classes = tuple(map(str, names if whole else values))
    splits = [
        Split(images, None if not classes or part is None else part.astype(np.int64))
        for (images, _), part in zip(found, labels, strict=True)
    ]
    return Splits(splits[0], splits[1] if len(splits) > 1 else None, classes)


def _read(part: Any, size: int, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """All images of a data set of torchvision, uint8 (N, C, H, W), and the labels, if each image
    has one number."""
    images, labels = [], []
    for number in range(len(part)):
        image, label = part[number]
        images.append(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        labels.append(label)
    if not images:
        raise UsageError(f"{name} holds no images")
    sizes = {image.size for image in images}
    if size or len(sizes) > 1 or max(max(sizes)) > LARGEST_NATIVE:
        side = size or SCALED
        images = [ImageOps.fit(i, (side, side), Image.Resampling.LANCZOS) for i in images]
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    arrays = [np.asarray(image.convert(mode)) for image in images]
    pixels = np.stack(arrays).reshape(len(arrays), *arrays[0].shape[:2], -1).transpose(0, 3, 1, 2)
    plain = all(isinstance(label, int | np.integer) for label in labels)
    return np.ascontiguousarray(pixels), np.array(labels, np.int64) if plain else None
