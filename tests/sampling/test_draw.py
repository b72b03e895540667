"""Samples: what image i depends on, what a model must return, and the files of them."""

import os
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from toys import SHAPE, TINY, Constant, registry

from genkit.config.resolve import resolve
from genkit.data import read_folder
from genkit.errors import GenkitError, PluginError, UsageError
from genkit.runs.build import build_model
from genkit.sampling import draw as sampling
from genkit.sampling.files import check_output, load_samples, save_samples
from genkit.sampling.grids import make_grid
from genkit.specs import ImageShape
from genkit_dcgan import DCGANConfig
from genkit_dcgan.model import DCGAN
from genkit_vae import VAEConfig
from genkit_vae.model import VAE

MODELS = {
    "dcgan": lambda shape=SHAPE: DCGAN(DCGANConfig(**TINY["dcgan"]), ImageShape(*shape)),
    "vae": lambda shape=SHAPE: VAE(VAEConfig(**TINY["vae"]), ImageShape(*shape)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_image_i_is_the_same_however_many_are_drawn(name, training):
    torch.manual_seed(0)
    model = MODELS[name]().train(training)
    many = sampling.draw(model, 150, seed=3)
    assert many.dtype == torch.uint8 and many.shape == (150, *SHAPE) and many.is_contiguous()
    for n in (1, 10, 64, 100, 128):
        assert torch.equal(sampling.draw(model, n, seed=3), many[:n])
    assert model.training == training
    assert len(many.unique(dim=0)) > 140
    assert not torch.equal(sampling.draw(model, 10, seed=4), many[:10])


@pytest.mark.parametrize("name", [*TINY])
@pytest.mark.parametrize("labelled", [False, True])
def test_chunks_drawn_together_are_those_drawn_one_by_one(monkeypatch, name, labelled):
    spec = registry().trainers.find(name)
    given = {**TINY[name], **({"conditional": True} if labelled else {})}
    shape = ImageShape(*SHAPE, classes=3 if labelled else 0)
    model = build_model(spec, resolve(spec, given=given).options, shape, 0)
    monkeypatch.setattr(type(model), "sample_batch", 8)
    alone = sampling.draw(model, 20, seed=3)
    monkeypatch.setattr(sampling, "chunks_at_once", lambda model, size: 2)
    calls = []

    def spy(noise, labels, decode):
        calls.append(len(noise))
        return decode(noise, labels)

    for name in {"decode_uniforms", "decode_latents"} & set(dir(model)):
        monkeypatch.setattr(model, name, partial(spy, decode=getattr(model, name)))
    together = sampling.draw(model, 20, seed=3)
    assert calls[0] == 16
    # Products of more rows may be rounded in another way: a level at most, of few values.
    off = (together.int() - alone.int()).abs()
    assert off.max() <= 1 and (off > 0).float().mean() < 0.01


def test_a_model_that_draws_on_the_way_has_a_generator_for_each_chunk(monkeypatch):
    alone = sampling.draw(Noise(), 200, seed=3)
    monkeypatch.setattr(sampling, "chunks_at_once", lambda model, size: 3)
    assert torch.equal(sampling.draw(Noise(), 200, seed=3), alone)


class Noise(Constant):
    """Images of noise, without latents."""

    def sample(self, n, labels=None, *, generator):
        return torch.rand(n, *SHAPE, generator=generator)


def test_fewer_chunks_go_together_where_memory_runs_out(monkeypatch):
    torch.manual_seed(0)
    model, sizes = MODELS["vae"](), []
    alone, decode = sampling.draw(model, 500, seed=3), model.decode_latents

    def small(latents, labels=None):
        sizes.append(len(latents))
        if len(latents) > 128:
            raise torch.OutOfMemoryError("the card is full")
        return decode(latents, labels)

    monkeypatch.setattr(model, "decode_latents", small)
    monkeypatch.setattr(sampling, "chunks_at_once", lambda model, size: 8)
    seen = []
    together = sampling.draw(model, 500, 3, lambda done, total: seen.append(done))
    assert sizes == [512, 256, 128, 128, 128, 128] and seen == [128, 256, 384, 500]
    assert (together.int() - alone.int()).abs().max() <= 1


def test_drawing_leaves_torchs_random_numbers_and_the_gradients_alone():
    torch.manual_seed(0)
    model = MODELS["vae"]()
    state = torch.get_rng_state()
    sampling.draw(model, 3, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()


def test_progress_is_reported_after_each_chunk():
    seen = []
    sampling.draw(Constant(), 130, 0, lambda done, total: seen.append((done, total)))
    assert seen == [(64, 130), (128, 130), (130, 130)]


def test_a_model_is_asked_for_as_many_images_at_a_time_as_it_says():
    torch.manual_seed(0)
    model, asked = MODELS["vae"](), []
    decode = model.decode_latents
    model.decode_latents = lambda z, labels=None: asked.append(len(z)) or decode(z, labels)
    model.sample_batch = 3
    many = sampling.draw(model, 7, seed=0)
    assert asked == [3, 3, 3]
    for n in (1, 2, 4):
        assert torch.equal(sampling.draw(model, n, seed=0), many[:n])
    assert asked[3:] == [3, 3, 3, 3]
    for wrong in (0, 2.0, None):
        model.sample_batch = wrong
        with pytest.raises(PluginError, match=f"VAE.sample_batch is {wrong}; give a whole number"):
            sampling.draw(model, 1, seed=0)


@pytest.mark.parametrize(
    "answer",
    [
        torch.zeros(64, 1, 8, 9),
        torch.zeros(63, 1, 8, 8),
        torch.zeros(64, 8, 8),
        torch.full((64, 1, 8, 8), torch.nan),
        torch.zeros(64, 1, 8, 8).index_fill(0, torch.tensor([63]), torch.inf),
        np.zeros((64, 1, 8, 8)),
        None,
    ],
)
def test_wrong_samples_are_a_plugin_error_and_the_mode_is_restored(answer):
    model = Constant().train()
    model.sample = lambda n, labels=None, *, generator: answer
    with pytest.raises(PluginError, match=r"Constant\.sample"):
        sampling.draw(model, 1, seed=0)
    assert model.training


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_sample_is_a_usage_error(n):
    with pytest.raises(UsageError, match=str(n)):
        sampling.draw(Constant(), n, seed=0)


@pytest.mark.parametrize("value, level", [(-1.0, 0), (1.0, 255), (0.0, 128), (3.0, 255)])
def test_samples_are_rounded_and_clipped_to_bytes(value, level):
    assert (sampling.draw(Constant(value), 2, seed=0) == level).all()


# ---- files


@pytest.fixture(params=[1, 3], ids=["grey", "RGB"])
def images(request):
    generator = torch.Generator().manual_seed(0)
    shape = (7, request.param, 9, 5)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_a_grid_holds_every_image_in_reading_order(images):
    grid = np.asarray(make_grid(images, columns=3, gap=2)).reshape(35, 23, -1)
    assert grid.shape[2] == images.shape[1]
    for i, image in enumerate(images):
        top, left = 2 + (i // 3) * 11, 2 + (i % 3) * 7
        tile = grid[top : top + 9, left : left + 5]
        assert np.array_equal(tile.transpose(2, 0, 1), image.numpy())
        assert (grid[top - 2 : top, left - 2 : left + 5] == 96).all()
    assert (grid[24:, 9:] == 96).all()  # two places are left over


@pytest.mark.parametrize("count, size", [(1, 1), (4, 2), (5, 3), (64, 8)])
def test_a_grid_without_columns_is_nearly_square(count, size):
    grid = make_grid(torch.zeros(count, 1, 8, 8, dtype=torch.uint8))
    assert grid.width == 2 + size * 10


@pytest.mark.parametrize("name", ["grid.png", "new/folder/grid.png"])
def test_a_png_is_the_grid(tmp_path, images, name):
    save_samples(images, tmp_path / name, columns=4)
    with Image.open(tmp_path / name) as found:
        assert np.array_equal(np.asarray(found), np.asarray(make_grid(images, 4)))


def test_an_archive_and_a_folder_read_back_as_the_same_samples(tmp_path, images):
    shape = ImageShape(*images.shape[1:])
    for path in (tmp_path / "samples.npz", tmp_path / "new" / "folder"):
        check_output(path)
        save_samples(images, path)
        assert torch.equal(load_samples(registry(), path, shape), images)
    with np.load(tmp_path / "samples.npz") as archive:
        assert archive["images"].shape == (7, 9, 5, images.shape[1])
    files = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert files == [f"{i:06d}.png" for i in range(7)]


@pytest.mark.parametrize("name", ["a.png", "a.npz", "folder", "file", "folder.png"])
def test_existing_output_is_refused(tmp_path, name):
    path = tmp_path / name
    if name.startswith("folder"):
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    else:
        path.write_text("mine")
    with pytest.raises(UsageError, match="nothing was overwritten"):
        check_output(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.txt", "a.PNG.zip"])
def test_output_of_another_kind_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"\.png \(a grid\), \.npz, or a folder"):
        check_output(tmp_path / name)


def test_an_empty_folder_may_be_written_to(tmp_path):
    check_output(tmp_path)


@pytest.mark.parametrize("name", ["file/grid.png", "file/folder", "file/samples.npz"])
def test_output_below_a_file_is_a_usage_error(tmp_path, images, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(GenkitError, match="file"):
        save_samples(images, tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


# ---- samples to be scored


def test_samples_of_another_shape_are_refused_not_scaled(tmp_path, images):
    save_samples(images, tmp_path / "folder")
    save_samples(images, tmp_path / "samples.npz")
    channels = images.shape[1]
    for path in (tmp_path / "folder", tmp_path / "samples.npz"):
        with pytest.raises(UsageError, match=rf"9 x 5.* {channels} x 8 x 8"):
            load_samples(registry(), path, ImageShape(channels, 8, 8))


def test_colour_samples_are_refused_for_grey_data_and_grey_ones_taken_for_colour(tmp_path):
    grey = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    colour = torch.stack([grey[0, 0], grey[0, 0], 255 - grey[0, 0]])[None]
    save_samples(grey, tmp_path / "grey")
    save_samples(colour, tmp_path / "colour")
    with pytest.raises(UsageError, match="colour"):
        load_samples(registry(), tmp_path / "colour", ImageShape(1, 8, 8))
    loaded = load_samples(registry(), tmp_path / "grey", ImageShape(3, 8, 8))
    assert torch.equal(loaded, grey.expand(1, 3, 8, 8))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_damaged_sample_is_named(tmp_path, content):
    save_samples(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), tmp_path / "s")
    (tmp_path / "s" / "000001.png").write_bytes(content)
    with pytest.raises(UsageError, match=r"000001\.png"):
        load_samples(registry(), tmp_path / "s", ImageShape(*SHAPE))


def test_a_folder_of_samples_is_read_as_a_folder_of_data_is(tmp_path):
    """Hidden colours below transparency, EXIF orientation, 16 bits, animations."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    palette = picture.quantize(8)
    palette.save(tmp_path / "hidden.png", transparency=bytes(4) + b"\xff" * 4)
    picture.putalpha(Image.fromarray(noise[..., 0]))
    picture.save(tmp_path / "half.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(noise[..., 0].astype(np.uint16) * 100).save(tmp_path / "deep.tif")
    palette.save(tmp_path / "frames.gif", save_all=True, append_images=[palette.rotate(90)])
    loaded = load_samples(registry(), tmp_path, ImageShape(3, 8, 8))
    assert (loaded.numpy() == read_folder(tmp_path, size=8, channels="3").train.images).all()
    assert (loaded[3].numpy() == 255).all(0).any()  # hidden.png, laid over white


def test_an_archive_without_images_is_refused_in_a_sentence(tmp_path):
    np.savez(tmp_path / "none.npz", images=np.zeros((0, 8, 8), np.uint8))
    with pytest.raises(UsageError, match=r"none\.npz holds no images"):
        load_samples(registry(), tmp_path / "none.npz", ImageShape(*SHAPE))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_looks_like_a_sample_and_is_none_is_refused_at_once(tmp_path):
    for name, make in (("pipe", os.mkfifo), ("link", lambda path: path.symlink_to("/etc/passwd"))):
        folder = tmp_path / name
        save_samples(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), folder)
        make(folder / "x.png")
        with pytest.raises(UsageError, match=r"x\.png.*(not a regular file|symbolic link)"):
            load_samples(registry(), folder, ImageShape(*SHAPE))


def test_a_folder_without_images_and_a_file_of_another_kind_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no image"):
        load_samples(registry(), tmp_path, ImageShape(*SHAPE))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UsageError, match=r"a\.txt"):
        load_samples(registry(), tmp_path / "a.txt", ImageShape(*SHAPE))
