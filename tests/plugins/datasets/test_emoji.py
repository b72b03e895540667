"""The emoji that come with genkit: premultiplied, whole, their variants in one split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import open_named
from PIL import Image

from genkit.data import ImageData
from genkit.errors import PluginError
from genkit.specs import ImageShape
from genkit_datasets import emoji
from genkit_datasets.make_emoji_mini import Emoji, choose_test, families, shrink


@pytest.fixture(scope="module")
def data() -> ImageData:
    return open_named("emoji-mini")


def test_all_emoji_are_there_with_their_categories(data):
    assert data.shape == ImageShape(4, 32, 32, 10)
    assert not data.held_out
    labels = [np.bincount(part.labels, minlength=10) for part in (data.train, data.test)]
    assert sum(labels).tolist() == [169, 2261, 5, 159, 131, 218, 85, 264, 224, 270]
    assert min(labels[1]) >= 1 and 0.09 < labels[1].sum() / 3786 < 0.12
    assert data.classes[1] == "people-body"


def test_emoji_are_premultiplied_and_transparent_at_their_corners(data):
    images = np.concatenate([data.train.images, data.test.images])
    assert (images[:, :3] <= images[:, 3:]).all()
    assert (images[:, 3, 0, 0] == 0).mean() > 0.9
    assert (images[:, 3].max((1, 2)) == 255).mean() > 0.9


def test_no_test_image_is_a_training_image(data):
    train = {image.tobytes() for image in data.train.images}
    assert not [1 for image in data.test.images if image.tobytes() in train]


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "emoji.npz").write_bytes(emoji.PATH.read_bytes()[:-1])
    monkeypatch.setattr(emoji, "PATH", tmp_path / "emoji.npz")
    with pytest.raises(PluginError, match=f"is damaged.*{emoji.SHA256[:8]}"):
        open_named("emoji-mini")
    assert emoji.PATH.stat().st_size < 6_000_000


def test_colours_of_transparent_pixels_do_not_bleed_into_small_images():
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., 1] = 255  # green, hidden
    pixels[:, ::2] = (200, 0, 0, 255)  # red stripes that do not fall on whole pixels
    small = shrink(Image.fromarray(pixels))
    assert (small == (100, 0, 0, 128)).all()


def test_variants_and_equal_pictures_stay_in_one_split():
    random = np.random.default_rng(0)

    def one(name: str, base: str, level: int, category: str = "flags") -> Emoji:
        return Emoji(name, category, base, np.full((2, 2, 4), level, np.uint8))

    some = [one(f"{i}.png", f"{i}.png", i) for i in range(100)]
    some += [one(f"{i}-dark.png", f"{i % 10}.png", 100 + i) for i in range(50)]
    some += [one("same.png", "same.png", 120)]  # as 20-dark.png, a variant of 0.png
    numbers = families([some[i] for i in random.permutation(len(some))])
    assert len(np.unique(numbers)) == 100
    numbers = families(some)
    chosen = choose_test(["flags"] * len(some), numbers)
    assert 0.1 <= chosen.mean() < 0.2
    for number in np.unique(numbers):
        assert len({*chosen[numbers == number]}) == 1
    assert chosen[-1] == chosen[0] == chosen[120]


def test_each_category_has_test_images():
    names = ["flags"] * 3 + ["component"] * 40
    chosen = choose_test(names, np.arange(43))
    assert chosen[:3].sum() == 1 and chosen[3:].sum() == 4
