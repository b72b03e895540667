"""Pages of the documentation are followed from top to bottom, and the README's model is a model.

Each is read in a folder of its own. Budgets and numbers of samples are cut, nothing else.
"""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from command_lines import CommandLines
from documented import PAGES, READ, commands, why
from PIL import Image


def cut(words: list[str]) -> list[str]:
    """A command line with a few steps for its budget, two seeds and 64 images to score."""
    words, verb = list(words), words[0]
    settings = {"train": ["--budget", "4steps"], "compare": ["--budget", "4steps"]}
    settings |= {"resume": ["--budget", "8steps"], "evaluate": []}
    if verb not in settings:
        return words
    less = dict([settings[verb]] if settings[verb] else [])
    less |= {"-n": "64"} if verb in ("compare", "evaluate") else {}
    less |= {"--grids": "1", "--watch": "0", "--preset": "quick"} if verb == "train" else {}
    less |= {"--seeds": "2"} if "--seeds" in words else {}
    for name, value in less.items():
        if name in words:
            words[words.index(name) + 1] = value
        else:
            words += [name, value]
    return words


def test_only_budgets_and_numbers_are_cut() -> None:
    def cut_text(line: str) -> str:
        return " ".join(cut(line.split()))

    assert (
        cut_text("compare a b --budget 5m --out x") == "compare a b --budget 4steps --out x -n 64"
    )
    assert cut_text("compare a --seeds 3") == "compare a --seeds 2 --budget 4steps -n 64"
    assert cut_text("evaluate x -n 2000 --cards") == "evaluate x -n 64 --cards"
    assert cut_text("resume x --budget 1h") == "resume x --budget 8steps"
    assert cut_text("sample x -n 100 -o y") == "sample x -n 100 -o y"
    assert "--levels 8" in cut_text("train pixelcnn --levels 8 --budget 30m")


def write_files(page: str, folder: Path) -> None:
    """Save the page's Python as the files that it says: in a block's first line or before it."""
    text = PAGES[page].read_text(encoding="utf-8")
    for said, content in re.findall(
        r"(?:as `(\w+\.py)`:\n\n)?^```python\n(.*?)^```$", text, re.M | re.S
    ):
        name = said or content.partition("\n")[0].removeprefix("# ")
        (folder / name).write_text(content, encoding="utf-8")


def run_python(folder: Path, *words: str) -> str:
    done = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    return out


def read(page: str, folder: Path) -> None:
    """Do what a page says, in its order; every command must succeed."""
    write_files(page, folder)
    todo = [c for c in commands(page) if why(c) == "tests/docs/test_pages.py"]
    assert todo
    for ours, group in groupby(todo, key=lambda c: c.words[0] == "genkit"):
        if ours:
            batch = [cut(c.words[1:]) for c in group]
            for words, answer in zip(batch, CommandLines(folder)(*batch), strict=True):
                assert answer.code == 0, (words, answer.out, answer.err)
        else:
            for command in group:
                assert command.words[0] == "python", command.text
                run_python(folder, *command.words[1:])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with some images of somebody's own."""
    write_files("quickstart", tmp_path)
    run_python(tmp_path, "draw_tiles.py")
    return tmp_path


@pytest.mark.slow
@pytest.mark.thorough
def test_quickstart_leads_from_nothing_to_samples_of_own_images(tmp_path: Path) -> None:
    read("quickstart", tmp_path)
    for name in (
        "first/grid.png",
        "first/report.html",
        "digits.png",
        "tiles.png",
        "between.png",
        "digits.webp",
        "dcgan-tiles/model.safetensors",
    ):
        assert (tmp_path / name).stat().st_size > 1000, name
    assert {p.name for p in (tmp_path / "first").iterdir()} >= {"dcgan", "vae", "pixelcnn"}
    assert len(list((tmp_path / "my-images").glob("*/*.png"))) == 600
    drawn = np.load(tmp_path / "tiles.npz")["images"]
    files = sorted((tmp_path / "new-tiles").glob("*.png"))
    assert len(drawn) == len(files) == 100
    assert np.array_equal(np.asarray(Image.open(files[5])), drawn[5])
    assert run_python(tmp_path, "use.py").split() == ["torch.Size([16,", "3,", "32,", "32])"]


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("page", [page for page in READ if page != "quickstart"])
def test_page_can_be_followed(page: str, folder: Path) -> None:
    read(page, folder)
    assert list(folder.glob("*/**/summary.json"))
    if page == "own-images":  # its gems are transparent, and so are the samples
        files = sorted((folder / "new-gems").glob("*.png"))
        assert len(files) == 100
        for file in files:
            with Image.open(file) as image:
                assert image.mode == "RGBA"


# ---- the model of the README


def test_model_of_the_readme_has_twenty_lines_and_keeps_its_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genkit.testing import check_trainer

    write_files("README", tmp_path)
    lines = (tmp_path / "energy.py").read_text(encoding="utf-8").splitlines()
    assert len([s for s in lines if s.strip() and not s.startswith(("from ", "import "))]) <= 20
    monkeypatch.syspath_prepend(tmp_path)
    import energy  # type: ignore[import-not-found]

    (spec,) = energy.register_trainers()
    check_trainer(spec, shapes=((1, 28, 28),))
