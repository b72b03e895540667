"""Pictures of a model's own, drawn with each grid."""

import torch
from PIL import Image
from toys import same_bits, train_tiny, write_npz

from genkit.io.progress import Reporter
from genkit_vae.model import VAE

GRIDS = {"budget": "4steps", "grids": 3}


class Heard(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


def pictures(self, images):
    noise = torch.rand(2, 3, *images.shape[1:])
    return {"halves": noise * 2 - 1, "copies": images[:6].view(2, 3, *images.shape[1:])}


def test_pictures_are_written_with_each_grid_and_change_nothing(tmp_path, monkeypatch):
    data = write_npz(tmp_path / "data.npz")
    plain = train_tiny("vae", data, tmp_path / "plain", **GRIDS)
    monkeypatch.setattr(VAE, "pictures", pictures)
    run = train_tiny("vae", data, tmp_path / "run", **GRIDS)
    assert same_bits(run.model.state_dict(), plain.model.state_dict())
    for name in ("halves", "copies"):
        found = [path for _, path in run.directory.grids(name)]
        assert len(found) == len(run.directory.grids()) == 3
        assert len({path.read_bytes() for path in found}) == 1  # of the same random numbers
        with Image.open(found[0]) as picture:
            assert picture.width > picture.height


def test_pictures_that_cannot_be_used_are_reported_once(tmp_path, monkeypatch):
    data, heard = write_npz(tmp_path / "data.npz"), Heard()
    monkeypatch.setattr(VAE, "pictures", lambda self, images: {"step": images})
    run = train_tiny("vae", data, tmp_path / "run", heard, **GRIDS)
    said = [line for line in heard.lines if "pictures()" in line]
    assert len(said) == 1 and "VAE.pictures() names a picture 'step'" in said[0]
    assert len(run.directory.grids()) == 3
