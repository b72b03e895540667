"""Interpolations, completions, classes: what they depend on, and against slow or closed forms."""

import itertools
import math
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from toys import (
    SHAPE,
    TINY,
    Constant,
    bright_squares,
    random_images,
    registry,
    train_tiny,
    write_npz,
)

from genkit.errors import Interrupted, PluginError, UsageError
from genkit.io.progress import Reporter
from genkit.model import to_unit_range
from genkit.runs.run import load_run
from genkit.sampling.completion import complete, known_half
from genkit.sampling.draw import draw, draw_classes
from genkit.sampling.latents import between, interpolate
from genkit.specs import ImageShape
from genkit.training import pictures
from genkit_dcgan import DCGANConfig
from genkit_dcgan.model import DCGAN
from genkit_pixelcnn import PixelCNNConfig
from genkit_pixelcnn.model import PixelCNN
from genkit_pixelcnn.sampler import draw_images
from genkit_vae import VAEConfig
from genkit_vae.model import VAE

torch.set_num_threads(1)


def make(kind, config, shape=SHAPE, **values):
    """A small model with random weights everywhere."""
    torch.manual_seed(0)
    model = kind(config(**values), ImageShape(*shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def with_latents():
    return [make(DCGAN, DCGANConfig, **TINY["dcgan"]), make(VAE, VAEConfig, **TINY["vae"])]


def pixelcnn(shape=SHAPE, **values):
    return make(PixelCNN, PixelCNNConfig, shape, **{**TINY["pixelcnn"], "layers": 3, **values})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- interpolations


def test_way_between_orthogonal_latents_turns_by_equal_angles_at_constant_length():
    start, end = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    points = between(start, end, torch.linspace(0, 1, 7))
    angles = torch.arange(7) * math.pi / 12
    torch.testing.assert_close(points, 3 * torch.stack([angles.cos(), angles.sin()], 1))


def test_way_begins_and_ends_at_the_latents_themselves_whatever_their_shape():
    start, end = torch.randn(2, 3, 5, 4, generator=generator())
    points = between(start, end, torch.tensor([0, 0.3, 1]))
    assert points.shape == (3, 3, 5, 4) and points.dtype == torch.float32
    assert torch.equal(points[0], start) and torch.equal(points[-1], end)


def test_way_between_normal_latents_stays_where_normal_latents_lie():
    start, end = torch.randn(2, 1000, generator=generator())
    lengths = between(start, end, torch.linspace(0, 1, 9)).norm(dim=1)
    assert (lengths / 1000**0.5 - 1).abs().max() < 0.05
    assert torch.lerp(start, end, 0.5).norm() < 0.75 * 1000**0.5  # a straight line leaves it


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_latents_without_one_great_circle_are_joined_by_a_straight_line(factor):
    start = torch.randn(6, generator=generator())
    points = between(start, factor * start, torch.linspace(0, 1, 5))
    expected = torch.stack([torch.lerp(start, factor * start, k / 4) for k in range(5)])
    torch.testing.assert_close(points, expected)


@pytest.mark.parametrize("model", with_latents(), ids=lambda model: type(model).__name__)
def test_rows_lead_from_one_sample_of_the_seed_to_the_next(model):
    rows = interpolate(model, rows=40, steps=4, seed=3)
    samples = draw(model, 80, seed=3).int()  # in two chunks
    assert rows.shape == (40, 4, *SHAPE) and rows.dtype == torch.uint8
    assert (rows[:, 0].int() - samples[0::2]).abs().max() <= 1
    assert (rows[:, -1].int() - samples[1::2]).abs().max() <= 1
    middle = rows[:, 1:-1].int()
    assert all((middle - rows[:, [end]].int()).abs().float().mean() > 1 for end in (0, -1))


@pytest.mark.parametrize("model", with_latents(), ids=lambda model: type(model).__name__)
def test_row_is_the_same_whatever_the_number_of_rows_and_the_global_seed(model):
    model.train()
    many = interpolate(model, rows=33, steps=3, seed=1)
    state = torch.get_rng_state()
    for count in (1, 5, 32):
        assert torch.equal(interpolate(model, count, 3, seed=1), many[:count])
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert not torch.equal(interpolate(model, 5, 3, seed=2), many[:5])


@pytest.mark.parametrize("model", with_latents(), ids=lambda model: type(model).__name__)
def test_samples_are_what_the_latents_decode_to(model):
    with torch.no_grad():
        latents = model.draw_latents(70, generator=generator(5))
        samples = model.sample(70, generator=generator(5))
        assert torch.equal(model.decode_latents(latents), samples)
    assert torch.equal(latents, torch.randn(70, 4, generator=generator(5)))


def test_models_without_latents_or_completions_answer_none():
    assert interpolate(Constant()) is None
    assert interpolate(pixelcnn()) is None
    images = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    known = known_half(ImageShape(*SHAPE))
    assert complete(Constant(), images, known) is None
    with pytest.raises(NotImplementedError, match="neither sample"):
        super(Constant, Constant()).sample(1, generator=generator())


@pytest.mark.parametrize("rows, steps", [(0, 9), (8, 1)])
def test_too_few_rows_or_steps_are_refused(rows, steps):
    with pytest.raises(UsageError, match=f"{rows} rows of {steps} images"):
        interpolate(with_latents()[0], rows, steps)


@pytest.mark.parametrize(
    "latents, images, seen",
    [
        (torch.zeros(3, 4), torch.zeros(9, *SHAPE), r"draw_latents\(64\) returned \(3, 4\)"),
        ([], torch.zeros(9, *SHAPE), r"draw_latents\(64\) returned list"),
        (torch.randn(64, 4), torch.zeros(9, 1, 4, 4), r"decode_latents\(9\) returned"),
        (torch.randn(64, 4), torch.full((9, *SHAPE), torch.nan), "values that are not finite"),
    ],
)
def test_wrong_latents_or_images_of_them_are_a_plugin_error(latents, images, seen):
    model = Constant().train()
    model.draw_latents = lambda n, *, generator: latents
    model.decode_latents = lambda latents, labels=None: images
    with pytest.raises(PluginError, match=seen):
        interpolate(model)
    assert model.training


# ---- completions


@torch.no_grad()
def complete_slowly(model, uniforms, given, known):
    """One forward pass per value, as `draw_slowly` of PixelCNN's tests; given values are kept."""
    images, steps = torch.zeros_like(uniforms), model.config.levels - 1
    _, colours, height, width = uniforms.shape
    for row, column, colour in itertools.product(range(height), range(width), range(colours)):
        logits = model(images)[:, colour, :, row, column].double()  # (n, outputs)
        if steps == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
            u = 1 - uniforms[:, colour, row, column].double()  # white is what lies below
        else:
            u = uniforms[:, colour, row, column].double()
        level = (logits.softmax(1).cumsum(1) < u[:, None]).sum(1)
        value = level.float() / steps * 2 - 1
        kept = known[:, 0, row, column]
        images[:, colour, row, column] = torch.where(kept, given[:, colour, row, column], value)
    return images


@pytest.mark.parametrize(
    "shape, values",
    [((1, 8, 7), {}), ((1, 6, 5), {"levels": 16, "dilation_cycle": 2}), ((3, 5, 4), {"levels": 7})],
)
@pytest.mark.parametrize("mask", ["bottom", "right", "top", "random", "nothing", "everything"])
def test_cached_completion_equals_one_forward_pass_per_value(shape, values, mask):
    model = pixelcnn(shape, **values)
    uniforms = torch.rand(3, *shape, generator=generator(1))
    levels = torch.randint(model.config.levels, (3, *shape), generator=generator(2))
    given, known = model.scale(levels), torch.zeros(3, 1, *shape[1:], dtype=torch.bool)
    if mask in ("bottom", "right", "top"):
        known = known_half(ImageShape(*shape), mask).expand(3, -1, -1, -1)
    elif mask == "random":  # other pixels of each image
        known = torch.rand(known.shape, generator=generator(3)) < 0.5
    elif mask == "everything":
        known = ~known
    fast = draw_images(model, uniforms, given=given, known=known)
    slow = complete_slowly(model, uniforms, given, known)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-6)
    assert torch.equal(fast[known.expand_as(fast)], given[known.expand_as(fast)])
    if mask == "nothing":
        assert torch.equal(fast, draw_images(model, uniforms))
    elif mask != "everything":
        assert not torch.equal(fast, draw_images(model, uniforms))


def test_completions_have_the_frequencies_that_follow_from_the_likelihood():
    model = pixelcnn((1, 2, 2), layers=4, channels=6)
    worlds = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4))).view(-1, 1, 2, 2)
    chances = model.log_likelihood(worlds).nats.double().exp()
    given = torch.tensor([[1.0, -1.0], [0.0, 0.0]]).view(1, 1, 2, 2)
    known = known_half(model.image_shape)
    possible = ((worlds == given) | ~known).flatten(1).all(1)
    expected = chances * possible / chances[possible].sum()
    n = 20_000
    answers = model.complete(
        given.expand(n, -1, -1, -1), known.expand(n, -1, -1, -1), generator=generator()
    )
    counted = (answers[:, None] == worlds).flatten(2).all(2).double().mean(0)  # (16,)
    errors = (expected * (1 - expected) / n).sqrt()
    assert ((counted - expected).abs() <= 4.5 * errors).all()
    assert expected[possible].min() > 0.01 and possible.sum() == 4


def test_with_two_levels_known_pixels_are_black_up_to_127_and_white_from_128():
    images = torch.arange(64, dtype=torch.uint8).view(1, *SHAPE) * 4
    images[0, 0, 3, 6:] = torch.tensor([127, 128])
    known = known_half(pixelcnn().image_shape)
    upper = complete(pixelcnn(), images, known)[0, 0, :4]
    assert torch.equal(upper, torch.where(images[0, 0, :4] > 127, 255, 0).to(torch.uint8))


def test_with_256_levels_known_pixels_are_as_they_were():
    images = torch.from_numpy(random_images(2))
    known = torch.rand(2, 1, 8, 8, generator=generator()) < 0.5
    answer = complete(pixelcnn(levels=256), images, known)
    assert torch.equal(answer[known], images[known])
    assert not torch.equal(answer, images)


def test_completion_i_depends_on_the_seed_image_i_and_i_alone():
    model, images = pixelcnn().train(), torch.from_numpy(random_images(100))
    known = torch.rand(100, 1, 8, 8, generator=generator()) < 0.5
    many = complete(model, images, known, seed=4)
    state = torch.get_rng_state()
    for count in (1, 64, 65):
        alone = complete(model, images[:count], known[:count], seed=4)
        assert torch.equal(alone, many[:count])
    others = torch.from_numpy(random_images(100, seed=1))
    others[70], hidden = images[70], ~known[70]
    others[70][hidden] = 255 - others[70][hidden]  # what is hidden does not matter
    masks = ~known
    masks[70] = known[70]
    assert torch.equal(complete(model, others, masks, seed=4)[70], many[70])
    assert not torch.equal(complete(model, images, known, seed=5), many)
    assert torch.equal(torch.get_rng_state(), state) and model.training


def test_images_of_another_shape_are_refused():
    known = known_half(ImageShape(1, 8, 8))
    with pytest.raises(UsageError, match=r"images to complete are \(1, 1, 8, 9\)"):
        complete(pixelcnn(), torch.zeros(1, 1, 8, 9, dtype=torch.uint8), known)


def test_half_is_hidden_and_the_middle_of_an_odd_side_with_it():
    shape = ImageShape(1, 5, 4)
    known = {side: known_half(shape, side)[0] for side in ("top", "bottom", "left")}
    assert known["bottom"].all(1).tolist() == [True, True, False, False, False]
    assert known["top"].all(1).tolist() == [False, False, False, True, True]
    assert known["left"].all(0).tolist() == [False, False, True, True]
    assert torch.equal(known_half(shape, "right"), ~known["left"][None])


# ---- classes


class Conditional(Constant):
    """Noise around a brightness that is the class's."""

    def __init__(self, classes=4):
        super().__init__()
        self.image_shape = ImageShape(*SHAPE, classes)

    def sample(self, n, labels=None, *, generator):
        noise = torch.rand(n, *SHAPE, generator=generator) / 10
        return noise + (0 if labels is None else labels.view(-1, 1, 1, 1) / 5)


def test_image_of_a_class_depends_neither_on_the_other_classes_nor_on_the_number_of_images():
    many = draw_classes(Conditional(), [0, 1, 2, 3], 70, seed=2)
    assert many.shape == (4, 70, *SHAPE)
    some = draw_classes(Conditional(), [3, 1, 1], 5, seed=2)
    assert torch.equal(some, many[[3, 1, 1], :5])
    assert (many[1].int() - many[0].int() - 127.5 / 5).abs().max() <= 1  # the same noise
    assert not torch.equal(draw_classes(Conditional(), [0], 5, seed=3)[0], many[0, :5])


@pytest.mark.parametrize(
    "model, labels, seen",
    [
        (Conditional(4), [0, 4], "there is no class 4; classes are 0 to 3"),
        (Conditional(4), [-1], "there is no class -1"),
        (Conditional(0), [0], "was trained on images without classes"),
        (pixelcnn((1, 8, 8, 3)), [0], "is not class-conditional"),
    ],
)
def test_classes_that_are_not_there_and_models_that_ignore_them_are_refused(model, labels, seen):
    with pytest.raises(UsageError, match=seen):
        draw_classes(model, labels, 3)


# ---- at the end of a training


class Lines(Reporter):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


class Terminator(Lines):
    """Ends a training at its first line of the log."""

    def update(self, state):
        signal.raise_signal(signal.SIGTERM)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def cells(grid, columns, side=8, gap=2):
    """Images of a grid as uint8, (rows, columns, side, side)."""
    rows = (len(grid) - gap) // (side + gap)
    step = side + gap
    found = [
        grid[gap + row * step :][:side, gap + column * step :][:, :side]
        for row, column in itertools.product(range(rows), range(columns))
    ]
    return np.stack(found).reshape(rows, columns, side, side)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "squares.npz")


def test_training_ends_with_interpolations_of_the_averaged_weights(tmp_path, data):
    run = train_tiny("vae", data, tmp_path / "run", budget="6steps", grids=1)
    found = cells(read(run.path / "samples" / "interpolation.png"), columns=9)
    assert found.shape == (8, 9, 8, 8)
    assert np.array_equal(found, run.interpolate(rows=8, steps=9)[:, :, 0])
    assert not (run.path / "samples" / "completion.png").exists()
    with pytest.raises(UsageError, match="vae cannot complete images"):
        run.complete(torch.zeros(1, *SHAPE, dtype=torch.uint8), torch.ones(1, 8, 8).bool())


def test_training_ends_with_completions_of_test_images(tmp_path):
    images, test = bright_squares(120), random_images(9)
    data = write_npz(tmp_path / "data.npz", train_images=images, test_images=test, images=None)
    run = train_tiny("pixelcnn", data, tmp_path / "run", budget="6steps", grids=1)
    found = cells(read(run.path / "samples" / "completion.png"), columns=5)
    assert found.shape == (8, 5, 8, 8)
    assert np.array_equal(found[:, 4], test[:8, 0])
    assert np.array_equal(found[:, 0, :4], test[:8, 0, :4]) and (found[:, 0, 4:] == 128).all()
    expected = np.where(test[:8] > 127, 255, 0)[:, 0, :4]
    assert (found[:, 1:4, :4] == expected[:, None]).all()
    assert len(np.unique(found[:, 1:4, 4:].reshape(24, -1), axis=0)) == 24
    assert not (run.path / "samples" / "interpolation.png").exists()
    with pytest.raises(UsageError, match="pixelcnn has no latents to interpolate between"):
        run.interpolate()


def test_completions_of_a_loaded_run_are_the_same_beside_other_images(tmp_path, data):
    run = train_tiny("pixelcnn", data, tmp_path / "run", budget="2steps")
    images = torch.from_numpy(random_images(3))
    known = known_half(run.model.image_shape)
    many = run.complete(images, known, n=5, seed=1)
    assert many.shape == (3, 5, *SHAPE)
    alone = load_run(run.path, registry()).complete(images[2:], known, n=2, seed=1)
    assert torch.equal(alone[0], many[2, :2])
    black = torch.where(images > 127, 255, 0).to(torch.uint8)
    unlike = [to_unit_range(many[0, k]) for k in range(5)]
    assert len(torch.stack(unlike).unique(dim=0)) == 5
    assert torch.equal(many[:, 0, :, :4], black[:, :, :4])


def test_final_picture_that_fails_is_one_line_and_does_not_end_the_training(
    tmp_path, data, monkeypatch
):
    def fail(*arguments):
        raise PluginError("VAE.draw_latents() failed:\nno noise")

    monkeypatch.setattr(pictures, "interpolate", fail)
    lines = Lines()
    run = train_tiny("vae", data, tmp_path / "run", lines, budget="2steps", grids=1)
    told = [line for line in lines.lines if "interpolation.png" in line]
    assert len(told) == 1 and "was not made: VAE.draw_latents() failed:\\nno noise" in told[0]
    assert "\n" not in told[0] and run.summary.step == 2


def test_no_final_pictures_are_made_without_grids_or_before_the_end_of_the_budget(tmp_path, data):
    assert not list(
        train_tiny("vae", data, tmp_path / "a", budget="2steps").directory.samples.iterdir()
    )
    with pytest.raises(Interrupted):
        train_tiny("vae", data, tmp_path / "b", Terminator(), budget="6steps", grids=1)
    assert (tmp_path / "b" / "model.safetensors").exists()
    assert not list((tmp_path / "b" / "samples").iterdir())


def test_final_pictures_change_nothing_in_a_training_that_is_resumed(tmp_path, data):
    """A run that ended, drew its final pictures and was resumed equals an uninterrupted one."""
    from genkit.training.resume import resume

    train_tiny("vae", data, tmp_path / "parts", budget="3steps", grids=1)
    before = read(tmp_path / "parts" / "samples" / "interpolation.png")
    resume(tmp_path / "parts", registry(), budget="6steps")
    train_tiny("vae", data, tmp_path / "whole", budget="6steps", grids=1)
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("parts", "whole")]
    assert weights[0] == weights[1]
    after = [read(tmp_path / r / "samples" / "interpolation.png") for r in ("parts", "whole")]
    assert np.array_equal(*after) and not np.array_equal(before, after[0])
