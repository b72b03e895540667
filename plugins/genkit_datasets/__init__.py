"""The data sets that come with genkit: their specs and options; loaders are imported when used."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from genkit.hookspecs import hookimpl
from genkit.specs import Config, DatasetSpec, option


class FrameConfig(Config):
    """How image files become arrays of one shape."""

    size: Annotated[str, BeforeValidator(str), Field(pattern=r"^\d{1,5}(x\d{1,5})?$")] = option(
        "32", "pixels a side, or WIDTHxHEIGHT, that images are scaled to; 8 to 256"
    )
    fit: Literal["crop", "pad", "stretch", "none"] = option(
        "crop",
        "images of another shape: cut out the centre, pad the edges, stretch; none leaves out what "
        "has another size",
    )
    resample: Literal["auto", "smooth", "nearest"] = option(
        "auto", "how images are scaled; auto takes nearest for pixel art: small, of few colours"
    )
    channels: Literal["auto", "1", "2", "3", "4"] = option(
        "auto",
        "1 for grey, 3 for colour, 2 and 4 for the same with transparency; auto takes the fewest "
        "that show all",
    )
    window: Annotated[str, Field(pattern=r"^\d{1,5}-\d{1,5}$")] = option(
        "0-65535", "LOW-HIGH, the values of 16-bit images that become black and white"
    )


class FolderConfig(FrameConfig):
    """How a folder becomes a data set."""

    splits: Literal["auto", "none"] = option(
        "auto",
        "auto: sub-folders train and test, or train and val, are the splits; none: all sub-folders "
        "are classes",
    )


class HuggingFaceConfig(FrameConfig):
    """Which columns of a data set of Hugging Face are what."""

    image: str | None = option(None, "column of the images; needed if there are several")
    label: str | None = option(None, "column of the labels, or none; needed if there are several")
    subset: str | None = option(None, "which one, of a data set that has several")


class TorchvisionConfig(Config):
    """How torchvision's images become arrays of one shape."""

    size: int = option(
        0,
        "pixels a side of the centre squares; 0 takes images as they are, or 32 if they differ or "
        "are larger than 128",
        ge=0,
        le=256,
    )


class BinaryConfig(Config):
    """How grey images become black and white."""

    binarisation: Literal["stochastic", "threshold"] = option(
        "stochastic",
        "stochastic: a pixel is white with probability value / 255, drawn again at "
        "each visit in training; threshold: white from 128 on",
    )


@hookimpl
def register_datasets() -> list[DatasetSpec]:
    return [
        DatasetSpec(
            name="mnist-mini",
            summary="12,000 handwritten digits, 1 x 28 x 28; comes with genkit, no download",
            target="genkit_datasets.mini:load",
            features="digits",
            reference="mnist-train",
            default=True,
        ),
        DatasetSpec(
            name="emoji-mini",
            summary="3,786 emoji in colour with transparency, 4 x 32 x 32; comes with genkit",
            target="genkit_datasets.emoji:load",
        ),
        DatasetSpec(
            name="mnist",
            summary="70,000 handwritten digits, 1 x 28 x 28; downloads 12 MB",
            target="genkit_datasets.classic:load_mnist",
            features="digits",
            reference="mnist-train",
        ),
        DatasetSpec(
            name="mnist-mini-binary",
            summary="mnist-mini in black and white; comes with genkit, no download",
            target="genkit_datasets.binary:load_mnist_mini",
            config=BinaryConfig,
            features="digits",
        ),
        DatasetSpec(
            name="mnist-binary",
            summary="mnist in black and white, for published likelihoods; downloads 12 MB",
            target="genkit_datasets.binary:load_mnist",
            config=BinaryConfig,
            features="digits",
        ),
        DatasetSpec(
            name="stacked-mnist-mini",
            summary="three digits of mnist-mini as colours: 1,000 modes to be covered; no download",
            target="genkit_datasets.stacked:load_mnist_mini",
            features="stacked-digits",
        ),
        DatasetSpec(
            name="stacked-mnist",
            summary="three digits of mnist as colours: 1,000 modes to be covered; downloads 12 MB",
            target="genkit_datasets.stacked:load_mnist",
            features="stacked-digits",
        ),
        DatasetSpec(
            name="fashion-mnist",
            summary="70,000 photos of clothes, 1 x 28 x 28; downloads 31 MB",
            target="genkit_datasets.classic:load_fashion_mnist",
        ),
        DatasetSpec(
            name="cifar10",
            summary="60,000 photos of animals and vehicles, 3 x 32 x 32; downloads 170 MB",
            target="genkit_datasets.classic:load_cifar10",
        ),
        DatasetSpec(
            name="torchvision",
            summary="a data set of torchvision, such as KMNIST, SVHN or Flowers102; downloads it",
            target="genkit_datasets.torchvision_sets:load",
            config=TorchvisionConfig,
            source="NAME",
        ),
        DatasetSpec(
            name="folder",
            summary="your own images: a folder of PNG, JPEG, WebP, BMP, GIF or TIFF files",
            target="genkit_datasets.folder:load",
            config=FolderConfig,
            source="PATH",
        ),
        DatasetSpec(
            name="zip",
            summary="your own images in a zip file, also of StyleGAN's dataset tool",
            target="genkit_datasets.archive:load",
            config=FolderConfig,
            source="PATH",
        ),
        DatasetSpec(
            name="hf",
            summary="images of Hugging Face: Parquet files, a folder, or a NAME of its hub",
            target="genkit_datasets.hugging_face:load",
            config=HuggingFaceConfig,
            source="PATH or NAME",
        ),
        DatasetSpec(
            name="prepared",
            summary="your own images as `genkit data prepare` left them: ready in a moment",
            target="genkit_datasets.prepared:load",
            source="PATH",
        ),
        DatasetSpec(
            name="npz",
            summary="your own images: an .npz file of uint8 arrays",
            target="genkit_datasets.arrays:load",
            source="PATH",
        ),
    ]
