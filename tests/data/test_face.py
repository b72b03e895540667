"""What `genkit.data` offers to plugins."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import open_named, save_images

import genkit.data
from genkit.data import BadImage, Splits, read_folder, read_image, read_prepared
from genkit.data.prepare import prepare
from genkit.errors import UsageError

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_names_are_there_and_pillow_is_imported_only_for_images() -> None:
    code = (
        "import sys, genkit.data\n"
        "assert 'PIL' not in sys.modules and 'torch' not in sys.modules\n"
        "assert all(hasattr(genkit.data, name) for name in genkit.data.__all__)\n"
        "assert 'PIL' in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'read_video'"):
        genkit.data.read_video  # noqa: B018


def test_folder_and_prepared_folder_give_the_same_images(tmp_path: Path) -> None:
    pixels = save_images(tmp_path / "in" / "train", 4, side=16)
    save_images(tmp_path / "in" / "test", 2)
    folder = read_folder(tmp_path / "in", size=16)
    assert (folder.train.images == pixels).all() and folder.test.images.shape == (2, 3, 16, 16)
    prepare(tmp_path / "in", tmp_path / "out", size=16)
    prepared = read_prepared(tmp_path / "out")
    assert (prepared.train.images == pixels).all()
    assert (prepared.test.images == folder.test.images).all()
    assert (prepared.classes, prepared.notes) == (folder.classes, folder.notes) == ((), ())


def test_an_image_is_read_or_refused_with_its_path_and_a_reason(tmp_path: Path) -> None:
    pixels = save_images(tmp_path, 1, side=16)
    image = read_image(tmp_path / "0.png", 16, 3)
    assert image.dtype == np.uint8 and (image == pixels[0]).all()
    assert read_image(tmp_path / "0.png", 8, 1).shape == (1, 8, 8)
    (tmp_path / "0.png").write_text("text")
    with pytest.raises(BadImage, match=r"0\.png is not a PNG") as caught:
        read_image(tmp_path / "0.png", 16, 3)
    assert caught.value.reason == "is not a PNG, JPEG, WebP, BMP, GIF or TIFF image"
    assert isinstance(caught.value, UsageError)


def test_example_of_the_page_loads(tmp_path: Path) -> None:
    save_images(tmp_path / "faces", 5)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    names: dict[str, object] = {}
    exec(example, names)
    (spec,) = names["register_datasets"]()
    splits = names["load"](spec.config(), None, tmp_path)
    assert isinstance(splits, Splits) and splits.train.images.shape == (5, 3, 64, 64)
    folder = open_named(f"folder:{tmp_path / 'faces'}", size=64)
    assert len(folder.train.images) + len(folder.test.images) == 5
