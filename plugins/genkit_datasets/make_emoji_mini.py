"""Makes emoji_mini.npz, the coloured pictures with transparency that ship with genkit.

`python -m genkit_datasets.make_emoji_mini --emoji ZIP`; the README beside it has the rule.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genkit_datasets.emoji import CATEGORIES, PATH, SIDE
from genkit_datasets.make_mnist_mini import pack

TEST_SHARE = 0.1
SEED = 0


@dataclass(frozen=True)
class Emoji:
    """One picture of the archive: `base` names the emoji of which it is a variant, else itself."""

    file: str
    category: str
    base: str
    image: NDArray[np.uint8]


def shrink(image: Image.Image) -> NDArray[np.uint8]:
    """The image at 32 x 32: premultiplied RGBA, uint8, (32, 32, 4).

    Colours are multiplied by their alpha before the mean over each square of pixels is taken, so
    that the colours of transparent pixels count for nothing.
    """
    pixels = np.asarray(image.convert("RGBA")).astype(np.float64)
    pixels[..., :3] *= pixels[..., 3:] / 255
    factor = image.width // SIDE
    means = pixels.reshape(SIDE, factor, SIDE, factor, 4).mean((1, 3))
    small: NDArray[np.uint8] = np.rint(means).astype(np.uint8)
    return small


def read(path: Path) -> list[Emoji]:
    """All pictures of the archive, in the order of its `emoji.csv`."""
    with zipfile.ZipFile(path) as archive:
        table = io.StringIO(archive.read("emoji.csv").decode("utf-8"))
        return [
            Emoji(row["file"], row["category"], row["base"], shrink(Image.open(archive.open(file))))
            for row in csv.DictReader(table)
            if (file := row["file"])
        ]


def families(emoji: Sequence[Emoji]) -> NDArray[np.int64]:
    """A number for each picture: the same for variants of one emoji, and for pictures that are
    equal pixel by pixel, as some flags are."""
    first: dict[str | bytes, int] = {}
    numbers = np.arange(len(emoji))
    for place, one in enumerate(emoji):
        for key in (one.base, one.image.tobytes()):
            known = numbers[first.setdefault(key, place)]
            numbers[numbers == numbers[place]] = known
    return numbers


def choose_test(categories: Sequence[str], numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pictures are test images: whole families in a seeded order, until each category has
    a tenth of its pictures there."""
    chosen = np.zeros(len(numbers), dtype=bool)
    names = np.asarray(categories)
    random = np.random.default_rng(SEED)
    for category in CATEGORIES:
        own = names == category
        for number in random.permutation(np.unique(numbers[own])):
            if chosen[own].mean() >= TEST_SHARE:
                break
            chosen |= numbers == number
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the embedded set of emoji.")
    parser.add_argument(
        "--emoji", type=Path, required=True, help="zip of 64-pixel PNG files and emoji.csv"
    )
    parser.add_argument("--output", type=Path, default=PATH, help="file to write")
    arguments = parser.parse_args()
    emoji = read(arguments.emoji)
    test = choose_test([one.category for one in emoji], families(emoji))
    images = np.stack([one.image for one in emoji])
    labels = np.array([CATEGORIES.index(one.category) for one in emoji], dtype=np.uint8)
    arrays = {}
    for split, chosen in (("train", ~test), ("test", test)):
        arrays[f"{split}_images"] = images[chosen]
        arrays[f"{split}_labels"] = labels[chosen]
        print(f"{split}: {chosen.sum():,} images, {np.bincount(labels[chosen])} a category")
    content = pack(arrays)
    arguments.output.write_bytes(content)
    print(f"{arguments.output}: {len(content):,} bytes")
    print(f"SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
